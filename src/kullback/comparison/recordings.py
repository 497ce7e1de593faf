"""Comparing predictions that are on disk.

* :func:`record_text` writes what a model says of a text (:mod:`kullback.predictions.recording`);
* :func:`compare_recorded` compares two such recordings, or one of either kind with a model.  From
  top-k recordings a KL is only bounded, and the measure is called a bound.  (An exact recording and
  a model have a whole comparison: :mod:`kullback.comparison.models`.)
* :func:`compare_logits_files` takes two base-logits files of llama.cpp.

Axes: M scored tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from kullback.comparison.llama_cpp import llama_cpp_statistics
from kullback.comparison.measures import compare_tokens, kl_quantiles, paired_measures
from kullback.comparison.operands import ModelOperand, RecordingOperand, check_is_text
from kullback.errors import InvalidValueError
from kullback.evaluation.measures import Places
from kullback.evaluation.on_text import model_fingerprint, plain
from kullback.evaluation.passes import ModelPredictor, TokenizedText
from kullback.models.interface import TextModel
from kullback.predictions.base import Predictions
from kullback.predictions.llama_cpp_logits import LlamaCppLogits
from kullback.predictions.recording import Kind, Recording
from kullback.predictions.recording_writer import RecordingWriter
from kullback.predictions.truncated import TruncatedPredictions
from kullback.results.measurement import Measurement
from kullback.results.text import DifferentBytes, StoredResults
from kullback.runtime.workers import ProcessGroup
from kullback.scoring.divergence import (
    DivergenceStatistics,
    concatenate_divergences,
    divergence_statistics,
)
from kullback.scoring.kl_bounds import KLBounds, kl_bounds
from kullback.scoring.token_statistics import token_statistics
from kullback.text.documents import Document
from kullback.text.fingerprint import Fingerprint, check_same_text
from kullback.text.protocol import Protocol
from kullback.uncertainty.intervals import mean_with_interval

__all__ = [
    "Origin",
    "compare_logits_files",
    "compare_recorded",
    "nll_and_top1",
    "record_text",
    "stored_results",
]

Progress = Callable[[int, int], None]
ROWS = 512
NO_WEIGHTS = (
    "recordings do not keep how often a token counts: those of overlapping windows count 1 each, "
    "unlike in a comparison with a model"
)


def record_text(
    model: TextModel,
    documents: Sequence[Document],
    protocol: Protocol,
    path: Path,
    kind: Kind = "exact",
    k: int = 64,
    progress: Progress = lambda done, total: None,
    size_bytes: int | None = None,
) -> int:
    """Write what `model` says of `documents` to `path`; returns the scored tokens.

    `size_bytes` is what the weights take, where that is known: a comparison ranks by it.  Raises
    `InvalidValueError` for a text, protocol or kind that does not fit, `RunError` where the file
    cannot be written.
    """
    tokenized = TokenizedText.of(documents, protocol, model.tokenizer, model.context)
    metadata = {
        "model": model.name,
        "size_bytes": size_bytes,
        **model_fingerprint(model, documents, tokenized).parts,
    }
    live, places = ModelPredictor(model), tokenized.places
    with RecordingWriter(path, kind, metadata, model.vocabulary_size, k) as writer:
        for index, window in enumerate(tokenized.windows):
            rows = slice(int(tokenized.starts[index]), int(tokenized.starts[index + 1]))
            writer.append(
                live.predictions(window, rows),
                window.targets,
                places.document_M[rows],
                places.position_M[rows],
            )
            progress(rows.stop, len(tokenized))
    return len(tokenized)


@dataclass(frozen=True)
class Origin:
    """Where one side's numbers come from."""

    name: str
    identity: Fingerprint | None = None
    """What they depend on; None where nobody wrote it down."""


@dataclass(frozen=True, eq=False)
class _Pair:
    """Some rows of both sides."""

    reference: Predictions
    candidate: Predictions
    targets_M: Int[np.ndarray, "M"]


@dataclass(frozen=True, eq=False)
class _Bounded:
    """What is known of some rows where one side is a top-k recording."""

    kl: KLBounds
    nll: tuple[Float[np.ndarray, "M"], Float[np.ndarray, "M"]]
    """Of both sides."""
    same_top1_M: Bool[np.ndarray, "M"]

    def __len__(self) -> int:
        return len(self.same_top1_M)


Part = TypeVar("Part", DivergenceStatistics, _Bounded)


@dataclass(frozen=True, eq=False)
class _Rows:
    """All rows of both sides, in pieces that are made when their turn comes."""

    pieces: Sequence[Callable[[], _Pair]]
    places: Places
    progress: Progress

    def each(self, measure: Callable[[_Pair], Part]) -> list[Part]:
        """`measure` of every piece, in order, shared between threads."""
        found: list[Part] = []
        done = 0
        for part in ProcessGroup().map(lambda make: measure(make()), self.pieces):
            found.append(part)
            done += len(part)
            self.progress(done, len(self.places))
        return found


def compare_recorded(
    reference: RecordingOperand | ModelOperand,
    candidate: RecordingOperand | ModelOperand,
    documents: Sequence[Document] = (),
    protocol: Protocol | None = None,
    progress: Progress = lambda done, total: None,
) -> StoredResults:
    """Compare two recordings, or a recording and a model that reads the text now.

    Two recordings need no text; one that is given must be theirs.  Raises `InvalidValueError` where
    text, tokenizer or protocol are not the same.
    """
    sides = (reference, candidate)
    notes = [note for side in sides if isinstance(side, RecordingOperand) for note in side.notes]
    if isinstance(reference, RecordingOperand) and isinstance(candidate, RecordingOperand):
        if documents:
            check_is_text(reference.name, reference.identity.parts, documents)
        rows = _recorded_rows(reference, candidate, progress)
        identities = (reference.identity, candidate.identity)
        if _preset(reference.identity) == "hf-stride":
            notes.append(NO_WEIGHTS)
    else:
        reader = reference.model or candidate.model
        assert reader is not None
        tokenized = TokenizedText.of(
            documents, protocol or Protocol(), reader.tokenizer, reader.context
        )
        for side in sides:
            side.check(documents, tokenized, reader)
        rows = _read_rows(reference, candidate, tokenized, progress)
        identities = (
            reference.fingerprint(documents, tokenized),
            candidate.fingerprint(documents, tokenized),
        )
    first = Origin(reference.name, identities[0])
    second = Origin(candidate.name, identities[1])
    if any(isinstance(side, RecordingOperand) and side.recording.kind == "top-k" for side in sides):
        measures, bounds = _bounds(rows)
        return stored_results(first, second, measures, len(rows.places), notes=[*bounds, *notes])
    measures, quantiles = _divergences(rows)
    return stored_results(
        first, second, measures, len(rows.places), kl_quantiles=quantiles, notes=notes
    )


def _recorded_rows(
    reference: RecordingOperand, candidate: RecordingOperand, progress: Progress
) -> _Rows:
    one, two = reference.recording, candidate.recording
    check_same_text(one.metadata, two.metadata, (reference.name, candidate.name))
    if not np.array_equal(one.targets, two.targets):
        raise InvalidValueError(
            f"{reference.name} has {len(one):,} rows and {candidate.name} {len(two):,}, and they "
            "are not about the same tokens, though the text is the same: one is damaged; record "
            "both again"
        )
    return _stored_rows(one, two, _places(one.documents, one.positions), progress)


def _stored_rows(
    one: Recording | LlamaCppLogits,
    two: Recording | LlamaCppLogits,
    places: Places,
    progress: Progress,
) -> _Rows:
    def piece(start: int) -> _Pair:
        rows = slice(start, min(start + ROWS, len(one)))
        return _Pair(one.predictions(rows), two.predictions(rows), one.targets[rows])

    pieces = [partial(piece, start) for start in range(0, len(one), ROWS)]
    return _Rows(pieces, places, progress)


def _read_rows(
    reference: RecordingOperand | ModelOperand,
    candidate: RecordingOperand | ModelOperand,
    tokenized: TokenizedText,
    progress: Progress,
) -> _Rows:
    def piece(index: int) -> _Pair:
        window = tokenized.windows[index]
        rows = slice(int(tokenized.starts[index]), int(tokenized.starts[index + 1]))
        return _Pair(
            reference.predictions(window, rows),
            candidate.predictions(window, rows),
            window.targets,
        )

    pieces = [partial(piece, index) for index in range(len(tokenized.windows))]
    return _Rows(pieces, tokenized.places, progress)


def _divergences(rows: _Rows) -> tuple[dict[str, Measurement], dict[str, float]]:
    def measure(pair: _Pair) -> DivergenceStatistics:
        targets_M = torch.from_numpy(pair.targets_M.astype(np.int64))
        return divergence_statistics(pair.reference, pair.candidate, targets_M)

    found = concatenate_divergences(rows.each(measure))
    return compare_tokens(found, rows.places), kl_quantiles(found.kl)


def nll_and_top1(
    predictions: Predictions, targets_M: Int[np.ndarray, "M"]
) -> tuple[Float[np.ndarray, "M"], Int[np.ndarray, "M"]]:
    """-log q of the targets, and the likeliest words: what a top-k recording, too, has exactly."""
    if isinstance(predictions, TruncatedPredictions):
        nll_M = -predictions.target_log_probability_M.numpy()
        return nll_M, predictions.top_tokens_MK[:, 0].numpy()
    found = token_statistics(predictions, torch.from_numpy(targets_M.astype(np.int64)))
    return found.nll, found.top1


def _bounds(rows: _Rows) -> tuple[dict[str, Measurement], list[str]]:
    def measure(pair: _Pair) -> _Bounded:
        (nll_M, top1_M), (other_nll_M, other_top1_M) = (
            nll_and_top1(side, pair.targets_M) for side in (pair.reference, pair.candidate)
        )
        kl = kl_bounds(pair.reference, pair.candidate)
        return _Bounded(kl, (nll_M, other_nll_M), top1_M == other_top1_M)

    parts = rows.each(measure)
    places = rows.places

    def mean(values_M: Float[np.ndarray, "M"]) -> Measurement:
        weighted_M = values_M * places.weight_M
        return mean_with_interval(weighted_M, places.document_M, "nats/token", places.weight_M)

    measures = {
        "kl_lower_bound": mean(np.concatenate([part.kl.lower_M for part in parts])),
        "kl_upper_bound": mean(np.concatenate([part.kl.upper_M for part in parts])),
        **paired_measures(
            np.concatenate([part.nll[0] for part in parts]),
            np.concatenate([part.nll[1] for part in parts]),
            np.concatenate([part.same_top1_M for part in parts]),
            places.document_M,
            places.weight_M,
        ),
    }
    # The longest says what the others say, too.
    return measures, sorted({part.kl.note for part in parts if part.kl.note}, key=len)[-1:]


def _places(document_M: Int[np.ndarray, "M"], position_M: Int[np.ndarray, "M"]) -> Places:
    nothing = np.zeros(len(document_M))
    return Places(document_M, position_M, nothing.astype(np.int64), nothing, nothing + 1)


def _preset(identity: Fingerprint) -> object:
    protocol = identity.parts.get("protocol")
    return protocol.get("preset") if isinstance(protocol, dict) else None


def compare_logits_files(base: Path, q: Path) -> StoredResults:
    """Two base-logits files of llama.cpp: our measures, and what llama.cpp prints beside ours.

    They say nothing of text or model, so that there is no fingerprint.  Raises `InvalidValueError`
    where a file is damaged, or the two are of different texts.
    """
    one, two = LlamaCppLogits.open(base), LlamaCppLogits.open(q)
    printed = llama_cpp_statistics(one, two)
    chunk_M = np.arange(len(one)) // one.rows_per_chunk
    position_M = np.tile(np.arange(one.rows_per_chunk), len(one.tokens_CT))
    places = _places(chunk_M, position_M + one.context // 2 + 1)
    measures, quantiles = _divergences(_stored_rows(one, two, places, lambda done, total: None))
    error = float(np.abs(one.mass_error(slice(0, ROWS))).max())
    note = (
        f"llama.cpp's files clip and round: the base's rows sum to 1 ± {error:.1e}; the measures "
        "are those of the rows made to sum to 1"
    )
    found = stored_results(
        Origin(base.name), Origin(q.name), measures, len(one), kl_quantiles=quantiles, notes=[note]
    )
    return {**found, "llama_cpp": str(printed)}


def stored_results(
    reference: Origin,
    candidate: Origin,
    measures: Mapping[str, Measurement],
    scored_tokens: int,
    *,
    title: str = "",
    kl_quantiles: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
    spans: Sequence[DifferentBytes] = (),
) -> StoredResults:
    """The measures as plain data, with what each side's numbers depend on."""
    identities = [side.identity or Fingerprint({}) for side in (reference, candidate)]
    fingerprints = [str(each) if each.parts else "" for each in identities]
    return {
        "title": title or f"{candidate.name} against {reference.name}",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "",
        "reference": reference.name,
        "candidate": candidate.name,
        "fingerprint": fingerprints[0],
        "protocol": dict(identities[0].parts),
        "candidate_fingerprint": fingerprints[1],
        "candidate_protocol": dict(identities[1].parts),
        "notes": list(notes),
        "scored_tokens": scored_tokens,
        "measures": {name: plain(one) for name, one in measures.items()},
        "kl_quantiles": dict(kl_quantiles or {}),
        "spans": list(spans),
    }
