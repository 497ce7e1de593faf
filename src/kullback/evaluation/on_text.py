"""`kullback evaluate MODEL --text`, whole: from a model and documents to plain results.

The pass over the text is that of :mod:`kullback.evaluation.passes`, the measures those of
:mod:`kullback.evaluation.measures`; here they become the document that ``--json`` prints and the
report shows (:mod:`kullback.results.text`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from kullback.evaluation.measures import NLL_EDGES, MeansBy, means_by, measure_text, position_edges
from kullback.evaluation.passes import (
    ModelPredictor,
    TokenizedText,
    divergence_rows,
    subsample,
    token_rows,
)
from kullback.evaluation.temperature import fit_temperature, tempered_nll
from kullback.evaluation.token_records import (
    Records,
    RecordsMetadata,
    concatenate_records,
)
from kullback.evaluation.token_records_writer import RecordsWriter
from kullback.models.interface import TextModel
from kullback.predictions.base import Predictions
from kullback.results.measurement import Measurement
from kullback.results.text import (
    Curve,
    Histogram,
    MeasurementData,
    Passage,
    ReliabilityData,
    TextResults,
    TextToken,
)
from kullback.runtime.threads import cores, workers
from kullback.runtime.workers import ProcessGroup
from kullback.scoring.divergence import concatenate_divergences, nll_differences
from kullback.scoring.token_statistics import TokenStatistics, concatenate_statistics
from kullback.text.documents import Document
from kullback.text.fingerprint import Fingerprint, fingerprint
from kullback.text.protocol import Protocol
from kullback.text.tokenizer import TextTokenizer
from kullback.text.windows import Window
from kullback.uncertainty.calibration import Calibration
from kullback.uncertainty.intervals import mean_with_interval

__all__ = [
    "coverage_notes",
    "curve",
    "evaluate_text",
    "histogram",
    "model_fingerprint",
    "passages",
    "plain",
    "top_tokens",
    "window_records",
]

# Tokens at the beginning of the text that the report shows, and the alternatives of each.
SHOWN_TOKENS = 1200
TOP_K = 5
# Enough for the noise of a narrower type, which is much the same everywhere.
NOISE_TOKENS = 2048


def evaluate_text(
    model: TextModel,
    documents: Sequence[Document],
    protocol: Protocol,
    processes: ProcessGroup | None = None,
    records: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    command: str = "",
    with_passages: bool = False,
    exact: Callable[[], TextModel] | None = None,
    with_temperature: bool = False,
    stage: Callable[[str], None] = lambda what: None,
) -> TextResults | None:
    """Everything about `model` on `documents`; None for a process that does not lead its team.

    `records` names a Parquet file for one row a token; a run that was killed goes on after the
    rows that are on disk.  `with_passages` keeps the beginning of the text, token by token, for a
    report.  `exact` loads the same model in float32: the noise of the narrower type is measured on
    a part of the text and noted.  `with_temperature` adds the temperature that would serve best.
    `stage` is called with what is done after the reading.

    Raises `InvalidValueError` for a text, protocol or model that cannot be measured, `RunError`
    where the records cannot be written.
    """
    processes = processes or ProcessGroup()
    tokenized = TokenizedText.of(documents, protocol, model.tokenizer, model.context)
    identity = model_fingerprint(model, documents, tokenized)
    began = time.perf_counter()
    with ExitStack() as stack:
        writer = None
        if records is not None and processes.is_rank_zero:
            metadata = RecordsMetadata.of(model.name, identity, tokenized.documents)
            writer = stack.enter_context(RecordsWriter(records, metadata))
        # Windows whose rows are all on disk are not read again.
        done = processes.share(0 if writer is None else writer.done)
        first = int(np.searchsorted(tokenized.starts, done, side="right")) - 1
        parts = [writer.earlier().part(slice(0, int(tokenized.starts[first])))] if writer else []
        shown: list[TokenStatistics] = []
        rows = token_rows(
            ModelPredictor(model), tokenized, processes, progress, first,
            top_k=TOP_K, top_rows=SHOWN_TOKENS if with_passages else 0,
        )  # fmt: skip
        for index, found in enumerate(rows, start=first):
            if found.top_tokens.shape[1]:
                shown.append(found)
            parts.append(window_records(tokenized, index, found))
            if writer is not None:
                writer.append(int(tokenized.starts[index]), parts[-1])
    seconds = time.perf_counter() - began
    if not processes.is_rank_zero:
        return None
    if with_passages and first > 0:
        stage("reading the beginning of the text again, for the report")
        shown = _shown_again(model, tokenized)
    found, places = _statistics(concatenate_records(parts)), tokenized.places
    measured = measure_text(found, places)
    measures = {name: plain(one) for name, one in measured.measures.items()}
    notes = [*model.notes, *coverage_notes(tokenized)]
    if exact is not None:
        stage("measuring the noise of the arithmetic, against float32")
        notes.append(arithmetic_noise(model, exact(), tokenized))
    if with_temperature:
        stage("looking for the best temperature")
        notes.append(_best_temperature(model, tokenized, measures))
    position_M = places.position_M.astype(np.float64)
    by_position = means_by(
        found.nll, position_M, position_edges(places.position_M), places.document_M, "nats/token"
    )
    return {
        "title": f"{model.name} on {_names(documents)}",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "model": model.name,
        "fingerprint": str(identity),
        "protocol": dict(identity.parts),
        "notes": notes,
        "documents": len(documents),
        "tokens": tokenized.coverage.tokens,
        "scored_tokens": tokenized.coverage.scored_tokens,
        "bytes": tokenized.coverage.bytes,
        "words": sum(document.n_words for document in documents),
        "seconds": seconds,
        "tokens_per_second": (len(tokenized) - int(tokenized.starts[first])) / seconds,
        "measures": measures,
        "nll_by_position": curve(by_position),
        "nll_histogram": histogram(found.nll, NLL_EDGES),
        "reliability": _reliability(measured.calibration),
        "target_reliability": _reliability(measured.target_calibration),
        "passages": _passages(tokenized, shown, model.tokenizer) if shown else [],
    }


def _reliability(calibration: Calibration) -> list[ReliabilityData]:
    """The bins of a reliability diagram as plain data."""
    return [
        {
            "low": one.low,
            "high": one.high,
            "confidence": one.confidence,
            "accuracy": one.accuracy,
            "weight": one.weight,
        }
        for one in calibration.diagram
    ]


def window_records(tokenized: TokenizedText, index: int, found: TokenStatistics) -> Records:
    """The rows of one window, in the types of the records, whether they are written or not."""
    rows = slice(int(tokenized.starts[index]), int(tokenized.starts[index + 1]))
    places, spans_M2 = tokenized.places, tokenized.byte_spans[rows]
    return Records(
        document=places.document_M[rows],
        byte_start=spans_M2[:, 0],
        byte_length=spans_M2[:, 1] - spans_M2[:, 0],
        token_id=tokenized.windows[index].targets,
        position=places.position_M[rows],
        weight=places.weight_M[rows],
        nll=found.nll,
        entropy=found.entropy,
        rank=found.rank,
        top1=found.top1,
        top1_probability=found.top1_probability,
        sum_of_squares=found.sum_of_squares,
    ).typed()


def _statistics(records: Records) -> TokenStatistics:
    """The columns that the measures are computed from."""
    return replace(
        TokenStatistics.empty(len(records)),
        nll=records.nll,
        entropy=records.entropy,
        rank=records.rank,
        top1=records.top1,
        top1_probability=records.top1_probability.astype(np.float64),
        sum_of_squares=records.sum_of_squares.astype(np.float64),
    )


def _shown_again(model: TextModel, tokenized: TokenizedText) -> list[TokenStatistics]:
    """The beginning of the text, for a run that went on after it."""
    count = int(np.searchsorted(tokenized.starts, SHOWN_TOKENS))
    rows = token_rows(ModelPredictor(model), tokenized, top_k=TOP_K, top_rows=SHOWN_TOKENS)
    return list(islice(rows, count))


def model_fingerprint(
    model: TextModel, documents: Sequence[Document], tokenized: TokenizedText
) -> Fingerprint:
    """The fingerprint of what `model` says of `documents` under the reading's protocol."""
    return fingerprint(
        documents,
        model.tokenizer.fingerprint,
        model.weights_fingerprint(),
        tokenized.protocol,
        str(model.dtype).removeprefix("torch."),
        model.device.type,
    )


def coverage_notes(tokenized: TokenizedText) -> list[str]:
    """What the user must know about what was scored."""
    notes, covered = [], tokenized.coverage
    if not covered.complete:
        notes.append(
            f"{covered.bytes - covered.scored_bytes:,} of {covered.bytes:,} bytes are not scored "
            f"under the protocol {tokenized.protocol.preset}"
        )
    if (tokenized.places.weight_M != 1).any():
        notes.append(
            "tokens of overlapping windows count a little less than 1, as in the Transformers guide"
        )
    return notes


def arithmetic_noise(model: TextModel, exact: TextModel, tokenized: TokenizedText) -> str:
    """What the arithmetic of `model` costs against that of `exact`, on a part of the text."""
    part = subsample(tokenized, NOISE_TOKENS)
    rows = divergence_rows(ModelPredictor(exact), ModelPredictor(model), part)
    found = concatenate_divergences(list(rows))
    document_M = part.places.document_M
    difference_M = nll_differences(found.reference.nll, found.candidate.nll)
    change = mean_with_interval(difference_M, document_M, "nats/token")
    kl = mean_with_interval(found.kl, document_M, "nats/token")
    names = [str(one.dtype).removeprefix("torch.") for one in (model, exact)]
    distance = float(np.abs(difference_M).mean())
    return (
        f"{names[0]} instead of {names[1]} changes the cross-entropy by {change}, with a KL of "
        f"{kl} and a mean |Δnll| of {distance:.2g} nats a token (measured on {len(part):,} tokens)"
    )


def _best_temperature(
    model: TextModel, tokenized: TokenizedText, measures: dict[str, MeasurementData]
) -> str:
    """Fit the temperature on a part of the text, add it to the measures, and say what it is."""
    part, live = subsample(tokenized), ModelPredictor(model)

    def read(window: Window) -> tuple[Predictions, torch.Tensor]:
        targets_M = torch.from_numpy(window.targets.astype(np.int64))
        return live.predictions(window, slice(0, 0)), targets_M

    with workers(cores()) as pool:
        windows = list(pool.map(read, part.windows))

        def nll(temperature_T: np.ndarray) -> np.ndarray:
            def one(read: tuple[Predictions, torch.Tensor]) -> np.ndarray:
                return tempered_nll(read[0], read[1], temperature_T)

            return np.concatenate(list(pool.map(one, windows)), axis=1)

        fit = fit_temperature(nll, part.places.document_M)
    measures["temperature_saves"] = plain(fit.saved)
    ends = ", the end of the range that was searched," if fit.at_limit else ""
    return (
        f"temperature {fit.temperature:.4f}{ends} minimises the nll and would save {fit.saved} "
        f"(fitted to {len(part):,} tokens)"
    )


def plain(measured: Measurement) -> MeasurementData:
    """A measurement as plain data."""
    low, high = measured.interval
    known = math.isfinite(low) and math.isfinite(high)
    return {
        "value": measured.value,
        "unit": measured.unit,
        "interval": (low, high) if known else None,
        "n": measured.n,
        "effective_n": _finite(measured.effective_n),
        "design_effect": _finite(measured.design_effect),
        "method": _method(measured),
    }


def _method(measured: Measurement) -> str:
    """How the interval was computed and what to know of it, or why there is none."""
    if measured.note.startswith(measured.method):
        return measured.note
    return measured.method + (f"; {measured.note}" if measured.note else "")


def curve(found: MeansBy) -> Curve:
    """Means in bins as plain data."""
    intervals = [one.interval for one in found.means]
    return {
        "x": found.x_B.tolist(),
        "mean": [_finite(one.value) for one in found.means],
        "low": [_finite(low) for low, _ in intervals],
        "high": [_finite(high) for _, high in intervals],
        "count": [one.n for one in found.means],
    }


def histogram(values_M: np.ndarray, edges: np.ndarray) -> Histogram:
    """The share of the values between neighbouring edges."""
    counts, _ = np.histogram(values_M, edges)
    return {"edges": edges.tolist(), "share": (counts / max(1, len(values_M))).tolist()}


def passages(
    tokenized: TokenizedText, count: int, token: Callable[[int], TextToken]
) -> list[Passage]:
    """The first `count` rows of the reading as they stand in their documents."""
    shown: list[tuple[int, int, list[TextToken]]] = []
    places, spans_M2 = tokenized.places, tokenized.byte_spans
    for row in range(count):
        document = int(places.document_M[row])
        follows = row > 0 and places.document_M[row - 1] == document
        if not follows or spans_M2[row, 0] != spans_M2[row - 1, 1]:
            shown.append((document, int(spans_M2[row, 0]), []))
        shown[-1][2].append(token(row))
    return [
        {"document": tokenized.documents[document].name, "byte_start": start, "tokens": tokens}
        for document, start, tokens in shown
    ]


def top_tokens(
    found: TokenStatistics, row: int, tokenizer: TextTokenizer
) -> list[tuple[str, float]]:
    """The most probable tokens of a row and their probabilities."""
    words, log_probabilities = found.top_tokens[row], found.top_log_probabilities[row]
    return [
        (tokenizer.token_text(int(word)), float(np.exp(log_probability)))
        for word, log_probability in zip(words, log_probabilities, strict=True)
        if word >= 0
    ]


def _passages(
    tokenized: TokenizedText, shown: Sequence[TokenStatistics], tokenizer: TextTokenizer
) -> list[Passage]:
    found = concatenate_statistics(shown)

    def token(row: int) -> TextToken:
        return {
            "text": tokenized.text_of(row),
            "nll": float(found.nll[row]),
            "rank": int(found.rank[row]),
            "top": top_tokens(found, row, tokenizer),
        }

    return passages(tokenized, min(len(found), SHOWN_TOKENS), token)


def _names(documents: Sequence[Document]) -> str:
    if len(documents) == 1:
        return documents[0].name
    return f"{documents[0].name} and {len(documents) - 1} more"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
