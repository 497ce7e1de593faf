"""Truncated predictions: the most probable tokens of each distribution, and the mass of the others.

A model's predictions with only the K most probable tokens and the target kept.  Each logit is as
the model gave it and the normaliser is that over all tokens, in float64, so these probabilities are
exact; of the other tokens only their mass is known, and that none is more probable than the K-th.

Axes: M rows, B rows of a chunk, V vocabulary, K most probable tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kullback.errors import InvalidValueError
from kullback.predictions.base import ALL, Predictions
from kullback.predictions.checks import check_rows, check_targets

__all__ = ["COLUMNS", "TruncatedPredictions", "truncate"]

COLUMNS = ("top_tokens", "top_logits", "target_logits", "log_normaliser", "log_rest")
"""The columns that `truncate` yields."""

# Of float64 a chunk.  A head of 16 bits is widened once a chunk: with a third of this, that takes
# as long as the rest.
CHUNK_BYTES = 96 << 20


@dataclass(frozen=True, eq=False)
class TruncatedPredictions:
    """Of each of M distributions the K most probable tokens, the target, and the mass of the rest.

    Logarithms are natural and in float64.
    """

    vocabulary_size: int
    top_tokens_MK: Int[Tensor, "M K"]
    top_log_probabilities_MK: Float[Tensor, "M K"]
    """In descending order."""
    targets_M: Int[Tensor, "M"]
    target_log_probability_M: Float[Tensor, "M"]
    log_rest_M: Float[Tensor, "M"]
    """log of the mass of all tokens that are neither among the K nor the target; may be -inf."""

    @classmethod
    @torch.inference_mode()
    def of(
        cls,
        predictions: Predictions,
        targets_M: Int[Tensor, "M"],
        k: int,
        vocabulary_size: int | None = None,
    ) -> TruncatedPredictions:
        """The top `k` of complete predictions, over the first `vocabulary_size` tokens (None: all).

        >>> from kullback.predictions.base import DensePredictions
        >>> half = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
        >>> top = TruncatedPredictions.of(DensePredictions(half), torch.tensor([1]), k=1)
        >>> top.top_tokens_MK.tolist(), top.log_rest_M.exp().round(decimals=6).tolist()
        ([[0]], [0.25])
        """
        V = predictions.vocabulary_size if vocabulary_size is None else vocabulary_size
        parts = list(truncate(predictions, targets_M, V, k))
        return cls.from_columns(
            {name: torch.cat([part[name] for part in parts]) for name in parts[0]}, targets_M, V
        )

    @classmethod
    def from_columns(
        cls, columns: dict[str, Tensor], targets_M: Int[Tensor, "M"], vocabulary_size: int
    ) -> TruncatedPredictions:
        """From what `truncate` yields."""
        log_z_M = columns["log_normaliser"]
        return cls(
            vocabulary_size,
            columns["top_tokens"].long(),
            columns["top_logits"].double() - log_z_M[:, None],
            targets_M.long(),
            columns["target_logits"].double() - log_z_M,
            columns["log_rest"].clone(),
        )

    def __len__(self) -> int:
        return len(self.targets_M)

    @property
    def k(self) -> int:
        """K."""
        return self.top_tokens_MK.shape[1]

    def logits(self, rows: slice, columns: slice = ALL) -> Float[Tensor, "B W"]:
        """Always raises `InvalidValueError`: there are no logits; the message says what to do."""
        raise InvalidValueError(
            f"these predictions hold the {self.k} most probable of {self.vocabulary_size} tokens, "
            "and the measure needs the whole distribution: record with --distributions exact, or "
            "ask for the bounds of kullback.scoring.kl_bounds"
        )

    def select(self, rows_M: Int[Tensor, "M"]) -> TruncatedPredictions:
        """Some of the rows."""
        return TruncatedPredictions(
            self.vocabulary_size,
            self.top_tokens_MK[rows_M],
            self.top_log_probabilities_MK[rows_M],
            self.targets_M[rows_M],
            self.target_log_probability_M[rows_M],
            self.log_rest_M[rows_M],
        )


def truncate(
    predictions: Predictions,
    targets_M: Int[Tensor, "M"],
    vocabulary_size: int,
    k: int,
    first_row: int = 0,
) -> Iterator[dict[str, Tensor]]:
    """The columns of `TruncatedPredictions`, some rows at a time, as they are stored.

    Logits in the model's type, ``log_normaliser`` and ``log_rest`` in float64, token ids in int32.
    `first_row` is the number that an error gives the first row.  Raises `InvalidValueError` where
    k, targets or vocabulary do not fit, and for rows that are not a distribution.
    """
    M, V = len(predictions), vocabulary_size
    if not 1 <= V <= predictions.vocabulary_size:
        raise InvalidValueError(
            f"vocabulary_size is {V}: it must be in [1, {predictions.vocabulary_size}], the "
            "vocabulary of the predictions"
        )
    if not 1 <= k <= V:
        raise InvalidValueError(f"k is {k}: it must be in [1, {V}], the size of the vocabulary")
    targets_M = targets_M.cpu().long()
    check_targets(targets_M, M, V)
    size = max(1, CHUNK_BYTES // (8 * V))
    for start in range(0, M, size):
        rows = slice(start, min(start + size, M))
        logits_BV = predictions.logits(rows, slice(0, V)).cpu()
        largest_B = logits_BV.amax(dim=1)
        check_rows(largest_B, first_row + start)
        top_BK, tokens_BK = logits_BV.topk(k, dim=1)
        target_B1 = targets_M[rows, None]
        mass_BV = (logits_BV.double() - largest_B[:, None].double()).exp_()
        log_total_B = mass_BV.sum(dim=1).log_()
        mass_BV.scatter_(1, tokens_BK, 0.0).scatter_(1, target_B1, 0.0)
        rest_B = mass_BV.sum(dim=1)
        log_rest_B = rest_B.log() - log_total_B
        # Where the sum underflows, the mass is computed from logarithms: a rest of 0 must mean that
        # every other token has probability 0.
        for row in (rest_B == 0).nonzero()[:, 0].tolist():
            others_V = logits_BV[row].to(torch.float64, copy=True)
            others_V[tokens_BK[row]] = others_V[targets_M[start + row]] = -torch.inf
            log_rest_B[row] = (others_V - largest_B[row]).logsumexp(dim=0) - log_total_B[row]
        yield {
            "top_logits": top_BK,
            "top_tokens": tokens_BK.int(),
            "target_logits": logits_BV.gather(1, target_B1)[:, 0],
            "log_normaliser": largest_B.double() + log_total_B,
            "log_rest": log_rest_B,
        }
