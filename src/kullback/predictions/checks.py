"""Checks that rows of predictions are distributions, and that targets fit them.

Axes: M rows of the predictions, B of them, V vocabulary, D width, K most probable tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kullback.errors import InvalidValueError
from kullback.predictions.base import Head

__all__ = ["PLACES", "check_recording", "check_rows", "check_targets"]

PLACES = ("targets", "documents", "positions")
"""The columns of a recording: the target token of each row, its document and its position."""


def check_rows(
    largest_B: Float[Tensor, "B"],
    first_row: int,
    owner: str = "the predictions",
    numbers: str = "logits",
) -> None:
    """Raise `InvalidValueError` naming the first row that is no distribution.

    `largest_B` is the largest logit of each row, or its log-sum-exp: NaN where a logit is NaN, inf
    where one is +inf, and -inf where all are.  `first_row` is the number that the message gives to
    the first row; `owner` and `numbers` say whose numbers they are, and which.
    """
    bad_B = ~torch.isfinite(largest_B)
    if bool(bad_B.any()):
        row = int(bad_B.nonzero()[0, 0])
        value = float(largest_B[row])
        content = "only -inf" if value == -torch.inf else "+inf" if value == torch.inf else "NaN"
        raise InvalidValueError(
            f"row {first_row + row} of {owner}: its {numbers} contain {content}; the model is "
            "damaged, or its arithmetic overflows (float16?): try float32"
        )


def check_targets(targets_M: Int[Tensor, "M"], rows: int, vocabulary_size: int) -> None:
    """Raise `InvalidValueError` unless `targets_M` gives one token id for each row."""
    if targets_M.shape != (rows,):
        raise InvalidValueError(
            f"targets_M has shape {tuple(targets_M.shape)}; it must be ({rows},), one token for "
            "each row of the predictions"
        )
    bad_M = (targets_M < 0) | (targets_M >= vocabulary_size)
    if bool(bad_M.any()):
        row = int(bad_M.nonzero()[0, 0])
        raise InvalidValueError(
            f"targets_M[{row}] is {int(targets_M[row])}: it must be in [0, {vocabulary_size}); "
            "does the tokenizer belong to this model?"
        )


def check_recording(
    kind: str, columns: Mapping[str, Tensor], head: Head | None, vocabulary_size: int
) -> None:
    """Raise `ValueError` or `KeyError` where the columns of a file are not those of a recording."""
    M = len(columns["targets"])
    whole: dict[str, tuple[int, ...]] = dict.fromkeys(PLACES, (M,))
    numbers: dict[str, tuple[int, ...]] = {}
    if kind == "top-k":
        k = columns["top_tokens"].shape[-1]
        if not 1 <= k <= vocabulary_size:
            raise ValueError(f"it has the {k} most probable of {vocabulary_size} tokens")
        whole["top_tokens"] = (M, k)
        numbers = {"top_logits": (M, k)}
        numbers |= dict.fromkeys(("target_logits", "log_normaliser", "log_rest"), (M,))
    elif head is None:
        numbers = {"logits": (M, vocabulary_size)}
    else:
        V, D = head.weight_VD.shape
        if vocabulary_size != V or (head.bias_V is not None and tuple(head.bias_V.shape) != (V,)):
            raise ValueError(f"its head has {V} rows, and its vocabulary {vocabulary_size} tokens")
        numbers = {"hidden": (M, D)}
    if M == 0:
        raise ValueError("it has no rows")
    for name, shape in (whole | numbers).items():
        column = columns[name]
        if tuple(column.shape) != shape:
            raise ValueError(f"{name} has the shape {tuple(column.shape)}, not {shape}")
        if column.is_floating_point() != (name in numbers):
            raise ValueError(f"{name} has the type {column.dtype}")
    for name in whole:
        limit = 2**31 if name in ("documents", "positions") else vocabulary_size
        if int(columns[name].min()) < 0 or int(columns[name].max()) >= limit:
            raise ValueError(f"{name} has ids outside [0, {limit})")
    if kind == "top-k":
        for name in numbers:
            if columns[name].isnan().any() or (columns[name] == torch.inf).any():
                raise ValueError(f"{name} contains NaN or infinity")
