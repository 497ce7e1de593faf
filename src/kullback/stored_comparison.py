"""Comparing what is on disk, and what has no tokens in common.

* :func:`record_text` writes what a model says of a text (:mod:`kullback.models.recording`), and
  :func:`compare_recorded` takes such a recording in the place of either model, or of both.  From
  top-k recordings a KL is only bounded, and the measure is called a bound.
* :func:`compare_logits_files` takes two base-logits files of llama.cpp.
* :func:`compare_by_bytes` takes two models whose tokenizers differ, at the bytes where both have a
  boundary.

Axes: M scored tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int

from kullback.byte_boundaries import ScoredBytes, compare_at_shared_boundaries
from kullback.compare import compare_tokens, concatenate_divergences, kl_quantiles
from kullback.documents import Document
from kullback.evaluate.bounds import KLBounds, kl_bounds
from kullback.evaluate.divergence import divergence_statistics
from kullback.evaluate.llama_cpp_statistics import llama_cpp_statistics
from kullback.evaluate.protocol import Protocol
from kullback.evaluate.reading import LiveModel, Reading, token_rows
from kullback.evaluate.text import Places, concatenate
from kullback.evaluate.uncertainty import mean_with_interval
from kullback.models.base import Predictions, TextModel
from kullback.models.llama_cpp_logits import LlamaCppLogits
from kullback.models.recording import Kind, Recording, RecordingWriter, check_same_text
from kullback.report.text_results import DifferentBytes, MeasurementData, StoredResults
from kullback.text_evaluation import model_fingerprint, plain

__all__ = ["compare_by_bytes", "compare_logits_files", "compare_recorded", "record_text"]

Progress = Callable[[int, int], None]
ROWS = 512
SHOWN_SEGMENTS = 12


def record_text(
    model: TextModel,
    documents: Sequence[Document],
    protocol: Protocol,
    path: Path,
    kind: Kind = "exact",
    k: int = 64,
    progress: Progress = lambda done, total: None,
) -> int:
    """Write what `model` says of `documents` to `path`; returns the scored tokens.

    Raises `InvalidValueError` for a text, protocol or kind that does not fit, `RunError` where the
    file cannot be written.
    """
    reading = Reading.of(documents, protocol, model.tokenizer, model.context)
    metadata = {"model": model.name, **model_fingerprint(model, documents, reading).parts}
    live, places = LiveModel(model), reading.places
    with RecordingWriter(path, kind, metadata, model.vocabulary_size, k) as writer:
        for index, window in enumerate(reading.windows):
            rows = slice(int(reading.starts[index]), int(reading.starts[index + 1]))
            writer.append(
                live.predictions(window, rows),
                window.targets,
                places.document_M[rows],
                places.position_M[rows],
            )
            progress(rows.stop, len(reading))
    return len(reading)


@dataclass(frozen=True, eq=False)
class _Pair:
    """Some rows of both sides."""

    reference: Predictions
    candidate: Predictions
    targets_M: Int[np.ndarray, "M"]


def compare_recorded(
    reference: Recording | TextModel,
    candidate: Recording | TextModel,
    documents: Sequence[Document] = (),
    protocol: Protocol | None = None,
    progress: Progress = lambda done, total: None,
) -> StoredResults:
    """Compare two recordings, or a recording and a model that reads the text now.

    Raises `InvalidValueError` where text, tokenizer or protocol are not the same.
    """
    if isinstance(reference, Recording) and isinstance(candidate, Recording):
        check_same_text(reference.metadata, candidate.metadata)
        places = _places(reference.documents, reference.positions)
        pairs = _recorded_pairs(reference, candidate)
    else:
        model = candidate if isinstance(reference, Recording) else reference
        recording = reference if isinstance(reference, Recording) else candidate
        assert isinstance(recording, Recording)
        assert not isinstance(model, Recording)
        reading = Reading.of(documents, protocol or Protocol(), model.tokenizer, model.context)
        parts = model_fingerprint(model, documents, reading).parts
        check_same_text(recording.metadata, parts)
        places = reading.places
        pairs = _mixed_pairs(recording, model, reading, swap=recording is candidate)
    truncated = any(
        isinstance(one, Recording) and one.kind == "top-k" for one in (reference, candidate)
    )
    measure = _bounds if truncated else _divergences
    title = f"{candidate.name} against {reference.name}"
    return measure(pairs, places, title, progress)


def _recorded_pairs(reference: Recording, candidate: Recording) -> Iterator[_Pair]:
    for start in range(0, len(reference), ROWS):
        rows = slice(start, min(start + ROWS, len(reference)))
        targets_M = reference.targets[rows]
        yield _Pair(reference.predictions(rows), candidate.predictions(rows), targets_M)


def _mixed_pairs(
    recording: Recording, model: TextModel, reading: Reading, swap: bool
) -> Iterator[_Pair]:
    live = LiveModel(model)
    for index, window in enumerate(reading.windows):
        rows = slice(int(reading.starts[index]), int(reading.starts[index + 1]))
        sides = [recording.predictions(rows), live.predictions(window, rows)]
        reference, candidate = sides[::-1] if swap else sides
        yield _Pair(reference, candidate, window.targets)


def _divergences(
    pairs: Iterator[_Pair], places: Places, title: str, progress: Progress
) -> StoredResults:
    parts, done = [], 0
    for pair in pairs:
        targets_M = torch.from_numpy(pair.targets_M.astype(np.int64))
        parts.append(divergence_statistics(pair.reference, pair.candidate, targets_M))
        done += len(targets_M)
        progress(done, len(places))
    found = concatenate_divergences(parts)
    measures = {name: plain(one) for name, one in compare_tokens(found, places).items()}
    return _results(title, measures, kl_quantiles(found.kl))


def _bounds(
    pairs: Iterator[_Pair], places: Places, title: str, progress: Progress
) -> StoredResults:
    parts: list[KLBounds] = []
    done = 0
    for pair in pairs:
        parts.append(kl_bounds(pair.reference, pair.candidate))
        done += len(pair.targets_M)
        progress(done, len(places))
    lower_M = np.concatenate([part.lower_M for part in parts])
    upper_M = np.concatenate([part.upper_M for part in parts])
    document_M = places.document_M
    measures = {
        "kl_lower_bound": plain(mean_with_interval(lower_M, document_M, "nats/token")),
        "kl_upper_bound": plain(mean_with_interval(upper_M, document_M, "nats/token")),
    }
    return _results(title, measures, {}, [note for note in {part.note for part in parts} if note])


def _places(document_M: Int[np.ndarray, "M"], position_M: Int[np.ndarray, "M"]) -> Places:
    nothing = np.zeros(len(document_M))
    return Places(document_M, position_M, nothing.astype(np.int64), nothing, nothing + 1)


def compare_logits_files(base: Path, q: Path) -> tuple[StoredResults, str]:
    """Two base-logits files of llama.cpp: our measures, and what llama.cpp prints beside ours.

    Raises `InvalidValueError` where a file is damaged, or the two are of different texts.
    """
    files = LlamaCppLogits.open(base), LlamaCppLogits.open(q)
    printed = llama_cpp_statistics(*files)
    chunk_M = np.arange(len(files[0])) // files[0].rows_per_chunk
    position_M = np.tile(np.arange(files[0].rows_per_chunk), len(files[0].tokens_CT))
    pairs = (
        _Pair(files[0].predictions(rows), files[1].predictions(rows), files[0].targets[rows])
        for start in range(0, len(files[0]), ROWS)
        for rows in [slice(start, min(start + ROWS, len(files[0])))]
    )
    places = _places(chunk_M, position_M + files[0].context // 2 + 1)
    found = _divergences(pairs, places, f"{q.name} against {base.name}", lambda done, total: None)
    error = float(np.abs(files[0].mass_error(slice(0, ROWS))).max())
    found["notes"] = [
        f"llama.cpp's files clip and round: the base's rows sum to 1 ± {error:.1e}; the measures "
        "are those of the rows made to sum to 1"
    ]
    return found, str(printed)


def compare_by_bytes(
    reference: TextModel,
    candidate: TextModel,
    documents: Sequence[Document],
    protocol: Protocol,
    progress: Progress = lambda done, total: None,
) -> StoredResults:
    """Two models that read a text as different tokens: ΔCE by byte and by document.

    Each reads with its own tokenizer under the same protocol.  Raises `InvalidValueError` where
    nothing can be compared.
    """
    scored = []
    for number, model in enumerate((reference, candidate)):
        reading = Reading.of(documents, protocol, model.tokenizer, model.context)

        def half(done: int, total: int, offset: int = number) -> None:
            progress(done + offset * total, 2 * total)

        found = concatenate(list(token_rows(LiveModel(model), reading, progress=half)))
        nll_M: Float[np.ndarray, "M"] = found.nll
        lengths = np.array([document.n_bytes for document in reading.documents])
        scored.append(
            ScoredBytes.of_scored(reading.byte_spans, nll_M, reading.places.document_M, lengths)
        )
    compared = compare_at_shared_boundaries(*scored)
    texts = [document.text.encode() for document in reading.documents]
    spans: list[DifferentBytes] = []
    for segment in compared.largest(SHOWN_SEGMENTS):
        begin, end = (int(place) for place in compared.byte_spans_S2[segment])
        document = int(compared.document_S[segment])
        spans.append(
            {
                "document": reading.documents[document].name,
                "byte_start": begin,
                "text": texts[document][begin:end].decode(errors="replace"),
                "reference_nll": float(compared.reference_nll_S[segment]),
                "candidate_nll": float(compared.candidate_nll_S[segment]),
            }
        )
    measures = {
        "delta_cross_entropy_per_byte": plain(compared.per_byte),
        "delta_cross_entropy_per_document": plain(compared.per_document),
    }
    results = _results(f"{candidate.name} against {reference.name}, by bytes", measures, {})
    results["spans"] = spans
    results["notes"] = ["above 0 the candidate predicts worse; tokenizers differ: no KL by token"]
    if compared.unscored_bytes:
        results["notes"] = [*results["notes"], f"{compared.unscored_bytes:,} bytes are not scored"]
    return results


def _results(
    title: str,
    measures: dict[str, MeasurementData],
    quantiles: dict[str, float],
    notes: Sequence[str] = (),
) -> StoredResults:
    return {
        "title": title,
        "notes": list(notes),
        "measures": measures,
        "kl_quantiles": quantiles,
        "spans": [],
    }
