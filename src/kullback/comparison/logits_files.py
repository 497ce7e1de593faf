"""A base-logits file of llama.cpp beside another, or beside a model that reads its tokens now.

Cross-entropies, ΔCE and agreement are those of the numbers as they are stored.  Of the KL a file
says all but what clipping and rounding leave: where nothing was clipped it is exact to the
rounding, elsewhere it is bounded (:mod:`kullback.scoring.rounded_bounds`).

Axes: M scored tokens, B rows of a block, V vocabulary, C chunks, T tokens of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float

from kullback.comparison.llama_cpp import TokenColumns, check_same_tokens, llama_cpp_statistics
from kullback.comparison.logits_tokens import bos_notes, check_model, check_text, windows_of
from kullback.comparison.measures import compare_tokens, kl_quantiles, paired_measures
from kullback.comparison.operands import ModelOperand
from kullback.comparison.row_pairs import unweighted_places
from kullback.comparison.stored import origin, stored_comparison
from kullback.evaluation.measures import Places, weighted_mean
from kullback.evaluation.passes import Batch, ModelPredictor
from kullback.evaluation.predictors import inputs_at_once
from kullback.predictions.base import DensePredictions
from kullback.predictions.llama_cpp_logits import LlamaCppLogits
from kullback.predictions.rounded import RoundedRows
from kullback.results.comparison import MOVED_IS_NOT_WORSE, Comparison
from kullback.results.comparison import Operand as Origin
from kullback.results.measurement import Measurement
from kullback.runtime.progress import Progress
from kullback.runtime.workers import ProcessGroup
from kullback.scoring.divergence import (
    DivergenceStatistics,
    concatenate_divergences,
    divergence_statistics,
)
from kullback.scoring.rounded_bounds import rounded_kl_bounds
from kullback.text.documents import Document
from kullback.text.protocol import Bos
from kullback.text.special_spellings import Spelled

__all__ = ["compare_logits_files", "compare_logits_with_model"]

# Of float64 a block; a dozen of them are in memory, and a few in the cache of a core.
BLOCK_BYTES = 1 << 20
# Rows of two files that a thread reads at a time.
ROWS = 512

Block: TypeAlias = "tuple[Float[np.ndarray, 'B V'], RoundedRows]"
"""Logits in float32, to be overwritten, and what they say of the probabilities."""


@dataclass(frozen=True, eq=False)
class _Candidate:
    """Rows of Q, piece by piece."""

    origin: Origin
    pieces: Sequence[slice]
    open: Callable[[slice], Callable[[slice], Block]]
    """For a piece, what gives any of its rows."""
    clipped: bool
    normalised: bool
    at_once: int
    """Pieces that are opened at a time."""
    notes: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class _Rows:
    """What is kept of some rows."""

    printed: TokenColumns
    base_nll_M: Float[np.ndarray, "M"]
    nll_M: Float[np.ndarray, "M"]
    lower_M: Float[np.ndarray, "M"]
    upper_M: Float[np.ndarray, "M"]
    clipped_M: Bool[np.ndarray, "M"]
    """Whether the target is clipped in either."""
    divergences: DivergenceStatistics | None
    """None where anything is clipped."""


def compare_logits_files(base: Path, q: Path, progress: Progress | None = None) -> Comparison:
    """The comparison of two files, which say nothing of text or model: there is no fingerprint.

    Raises `InvalidValueError` where a file is damaged, or the two are of different texts.
    """
    first, second = LlamaCppLogits.open(base), LlamaCppLogits.open(q)
    check_same_tokens(first, second)

    def block(rows: slice) -> Block:
        rounded = second.rounded(rows)
        second.check_mass(rows.start, rounded.log_p_BV.exp().sum(dim=1).numpy())
        return second.log_probabilities(rows), rounded

    names = (base.name, q.name) if base.name != q.name else (str(base), str(q))
    starts = range(0, len(first), ROWS)
    pieces = [slice(start, min(start + ROWS, len(first))) for start in starts]
    candidate = _Candidate(
        origin(names[1]), pieces, lambda piece: block, second.clipped, True, len(pieces)
    )
    return _compare(first, names[0], candidate, (), progress or Progress())


def compare_logits_with_model(
    base: Path,
    operand: ModelOperand,
    name: str,
    bos: Bos = "auto",
    documents: Sequence[Document] = (),
    progress: Progress | None = None,
    special_tokens: Spelled | None = None,
) -> Comparison:
    """The comparison of a file with a model, called `name`, that reads the file's tokens.

    As in llama.cpp, BOS replaces the first token of each chunk where the tokenizer begins a text
    with it, or where `bos` is "always".  `documents` is the text, where it is given, and
    `special_tokens` how it spells special tokens.  Raises
    `InvalidValueError` where the file is damaged, and where vocabulary, tokenizer, text or context
    are not those of the file.
    """
    progress = progress or Progress()
    first, model = LlamaCppLogits.open(base), operand.model
    check_model(first, model, bos)
    if documents:
        check_text(first, model, bos, documents, progress, special_tokens)
    progress.stage(f"comparing {name}")
    windows = windows_of(first, model, bos)
    predictor, V = ModelPredictor(model), first.vocabulary_size

    def open_piece(piece: slice) -> Callable[[slice], Block]:
        window = windows[piece.start // first.rows_per_chunk]
        predictions = predictor.predictions(Batch((window,), (piece,)))

        def block(rows: slice) -> Block:
            own = slice(rows.start - piece.start, rows.stop - piece.start)
            logits_BV = predictions.logits(own, slice(0, V)).cpu().float()
            return logits_BV.numpy(), RoundedRows.exactly(logits_BV.clone(), rows.start)

        return block

    n = first.rows_per_chunk
    candidate = _Candidate(
        origin(name, None, operand.size_bytes),
        [slice(start, start + n) for start in range(0, len(first), n)],
        open_piece,
        clipped=False,
        normalised=False,
        at_once=inputs_at_once(predictor),
        notes=[*bos_notes(first, model, bos), *operand.notes],
    )
    return _compare(first, first.name, candidate, documents, progress)


def _compare(
    base: LlamaCppLogits,
    base_name: str,
    candidate: _Candidate,
    documents: Sequence[Document],
    progress: Progress,
) -> Comparison:
    parts: list[_Rows] = []
    done = 0

    def measure(piece: slice) -> list[_Rows]:
        block = candidate.open(piece)
        size = max(1, BLOCK_BYTES // (8 * base.vocabulary_size))
        starts = range(piece.start, piece.stop, size)
        rows = [slice(start, min(start + size, piece.stop)) for start in starts]
        return [_rows(base, candidate, part, block(part)) for part in rows]

    for rows in ProcessGroup().map(measure, candidate.pieces, candidate.at_once):
        parts += rows
        done += sum(len(part.nll_M) for part in rows)
        progress.tokens(done, len(base))
    printed = TokenColumns.concatenated([part.printed for part in parts])
    chunk_M = np.arange(len(base)) // base.rows_per_chunk
    position_M = np.tile(np.arange(base.rows_per_chunk), len(base.tokens_CT))
    places = unweighted_places(chunk_M, position_M + base.context // 2 + 1)
    measures, quantiles, notes = _measures(parts, places)
    return stored_comparison(
        "llama.cpp",
        (origin(base_name), candidate.origin),
        measures,
        len(base),
        kl_quantiles=quantiles,
        notes=[*notes, *candidate.notes, MOVED_IS_NOT_WORSE],
        llama_cpp=str(llama_cpp_statistics(base, printed)),
        documents=documents,
    )


def _rows(base: LlamaCppLogits, candidate: _Candidate, rows: slice, block: Block) -> _Rows:
    logits_BV, q = block
    p = base.rounded(rows)
    target_B1 = torch.from_numpy(base.targets[rows])[:, None]
    lower_B, upper_B = rounded_kl_bounds(p, q)
    divergences = None
    if not (base.clipped or candidate.clipped):
        divergences = divergence_statistics(
            DensePredictions(p.log_p_BV.float()),
            DensePredictions(q.log_p_BV.float()),
            target_B1[:, 0],
        )
    clipped_B = np.zeros(len(target_B1), dtype=bool)
    for operand in (p, q):
        if operand.clipped_BV is not None:
            clipped_B |= operand.clipped_BV.gather(1, target_B1)[:, 0].numpy()
    return _Rows(
        printed=TokenColumns.of(base, rows, logits_BV, candidate.normalised),
        base_nll_M=-p.log_p_BV.gather(1, target_B1)[:, 0].numpy(),
        nll_M=-q.log_p_BV.gather(1, target_B1)[:, 0].numpy(),
        lower_M=lower_B.numpy(),
        upper_M=upper_B.numpy(),
        clipped_M=clipped_B,
        divergences=divergences,
    )


def _measures(
    parts: Sequence[_Rows], places: Places
) -> tuple[dict[str, Measurement], dict[str, float] | None, list[str]]:
    """The measures, the quantiles of the KL where it is exact, and notes."""

    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    lower_M, upper_M = column("lower_M"), column("upper_M")
    same_top_M = np.concatenate([part.printed.same_top for part in parts])
    paired = paired_measures(column("base_nll_M"), column("nll_M"), same_top_M, places)
    exact = [part.divergences for part in parts if part.divergences is not None]
    if len(exact) == len(parts):
        divergences = concatenate_divergences(exact)
        measures = {**compare_tokens(divergences, places), **paired}
        kl = measures["kl"].value
        left = max(float(upper_M.mean()) - kl, kl - float(lower_M.mean()))
        note = (
            "nothing was clipped: the total variation is that of the rounded probabilities, and "
            f"the KL is exact to what rounding leaves, {left:.1g} nats/token"
        )
        return measures, kl_quantiles(divergences.kl), [note]
    bounds = {
        "kl_lower_bound": weighted_mean(lower_M, places),
        "kl_upper_bound": weighted_mean(upper_M, places),
    }
    notes = [
        "a logits file clips log-probabilities 16 nats below the largest and rounds the others to "
        "65,536 steps: the KL is bounded by what that leaves, and the total variation is left out"
    ]
    if np.isinf(upper_M).any():
        notes.append("no upper bound: the candidate's clipped probabilities may be 0")
    clipped = int(column("clipped_M").sum())
    if clipped:
        notes.append(
            f"{clipped:,} of {len(places):,} target tokens are clipped: their surprisal, and so "
            "the cross-entropy, is at least what is shown"
        )
    return {**bounds, **paired}, None, notes
