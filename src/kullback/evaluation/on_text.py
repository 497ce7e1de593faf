"""One model on a text: the pass, the measures, and the result.

The pass is that of :mod:`kullback.evaluation.recorded_pass`, the measures those of
:mod:`kullback.evaluation.measures`; the result is a `kullback.results.evaluation.Evaluation`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch

from kullback.errors import InvalidValueError, KullbackError
from kullback.evaluation.agreement import check_same_tokens
from kullback.evaluation.measures import TextMeasures, measure_text
from kullback.evaluation.numeric_type import arithmetic_noise
from kullback.evaluation.passages import text_passages
from kullback.evaluation.passes import Batch, BatchLimit, ModelPredictor, TokenizedText, subsample
from kullback.evaluation.predictors import inputs_at_once, prepare
from kullback.evaluation.recorded_pass import RecordedPass, record_pass
from kullback.evaluation.temperature import TemperatureFit, fit_temperature, tempered_nll
from kullback.evaluation.text_ahead import PassText, TextAhead
from kullback.models.interface import TextModel
from kullback.predictions.base import Predictions
from kullback.results.build import curve
from kullback.results.evaluation import Evaluation, NonZeroRank, ReliabilityBin
from kullback.results.table import Table
from kullback.runtime.background import in_background
from kullback.runtime.memory import lacks_memory
from kullback.runtime.progress import Progress
from kullback.runtime.threads import cores, workers
from kullback.runtime.workers import ProcessGroup
from kullback.text.documents import Document
from kullback.text.fingerprint import Fingerprint, fingerprint
from kullback.text.inputs import text_name
from kullback.text.lost_text import lost_text_notes
from kullback.text.protocol import Protocol
from kullback.text.special_spellings import spelled_note
from kullback.text.tokenizer import TextTokenizer
from kullback.text.windows import Window
from kullback.uncertainty.calibration import Calibration

__all__ = ["TextTask", "coverage_notes", "evaluate_text", "model_fingerprint"]


@dataclass(frozen=True, kw_only=True)
class TextTask:
    """What to do beside the measures themselves."""

    records: Path | None = None
    """A Parquet file for one row a token; a killed run resumes after the rows on disk."""
    passages: bool = False
    """Keep the beginning of the text, token by token, for a report."""
    temperature: bool = False
    """Find the temperature that minimises the nll."""
    exact: Callable[[], TextModel] | None = None
    """Loads the model in float32: the noise of the narrower type is measured and noted."""
    command: str = ""
    what: str = "evaluating"
    """The name of the stage."""


def evaluate_text(
    model: TextModel,
    documents: Sequence[Document],
    protocol: Protocol,
    task: TextTask | None = None,
    processes: ProcessGroup | None = None,
    progress: Progress | None = None,
) -> Evaluation | NonZeroRank:
    """Everything about `model` on `documents`; non-zero ranks are told that rank 0 has it.

    Raises `InvalidValueError` for a text, protocol or model that cannot be measured, `RunError`
    where the records cannot be written.
    """
    task, progress = task or TextTask(), progress or Progress()
    processes = processes or ProcessGroup()
    # Other processes need no fingerprint.
    rank_zero = processes.is_rank_zero
    weights = in_background(model.weights_fingerprint) if rank_zero else model.weights_fingerprint
    progress.part("cutting the text into tokens")
    with TextAhead.of(documents, protocol, model, progress, processes) as text:
        text.begin()
        if processes.world_size > 1:
            check_same_tokens(processes, text.whole)
        identity = model_fingerprint(model, documents, text, weights)
        progress.stage(f"{task.what} {model.name} on {model.device.type}")
        limit = BatchLimit()
        recorded = record_pass(
            model, text, identity, task.records, processes, progress, task.passages, limit
        )
    if recorded is None:
        return NonZeroRank(rank=processes.rank, world_size=processes.world_size)
    tokenized = recorded.tokenized
    progress.part("measures and intervals")
    measured = measure_text(recorded)
    notes = [*model.notes, *lost_text_notes(model.tokenizer, documents)]
    notes += [*coverage_notes(tokenized), *limit.notes]
    if task.exact is not None:
        progress.stage("measuring the noise of the arithmetic, against float32")
        notes.append(arithmetic_noise(model, task.exact, tokenized))
    if task.temperature:
        progress.stage("searching the best temperature")
        notes.append(_add_temperature(model, tokenized, measured))
    progress.part("the result, and the fingerprint of the weights")
    return _result(model, documents, tokenized, identity, recorded, measured, task, tuple(notes))


def _result(
    model: TextModel,
    documents: Sequence[Document],
    tokenized: TokenizedText,
    identity: Fingerprint,
    recorded: RecordedPass,
    measured: TextMeasures,
    task: TextTask,
    notes: tuple[str, ...],
) -> Evaluation:
    """The result: the measures, with what the text, the model and the protocol are."""
    return Evaluation(
        title=f"{model.name} on {text_name(documents)}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=task.command,
        model=model.name,
        text=text_name(documents),
        fingerprint=str(identity),
        protocol=dict(identity.parts),
        notes=notes,
        documents=len(documents),
        total_tokens=tokenized.coverage.tokens,
        scored_tokens=tokenized.coverage.scored_tokens,
        bytes=tokenized.coverage.bytes,
        words=sum(document.n_words for document in documents),
        seconds=recorded.seconds,
        tokens_per_second=recorded.tokens_read / recorded.seconds,
        measures=measured.measures,
        nll_by_position=curve(measured.nll_by_position.x_B, measured.nll_by_position.means),
        nll_histogram=measured.nll_histogram,
        reliability=_reliability(measured.calibration),
        target_reliability=_reliability(measured.target_calibration),
        passages=(
            text_passages(tokenized, recorded.beginning, model.tokenizer)
            if recorded.beginning is not None
            else ()
        ),
        token_table=_token_table(recorded, tokenized, model.tokenizer),
    )


def _token_table(
    recorded: RecordedPass, tokenized: TokenizedText, tokenizer: TextTokenizer
) -> Table:
    """One row a scored token; texts are decoded when they are asked for."""
    records = recorded.records
    names = [document.name for document in tokenized.documents]
    columns = ("position", "weight", "nll", "entropy", "rank", "top1")
    return Table(
        {
            "document": lambda: [names[document] for document in records.column("document")],
            **{name: partial(records.column, name) for name in ("byte_start", "byte_length")},
            "token_id": partial(records.column, "token_id"),
            "text": lambda: [tokenized.text_of(row) for row in range(len(records))],
            **{name: partial(records.column, name) for name in columns},
            "top1_text": lambda: [
                tokenizer.token_text(int(token)) for token in records.column("top1")
            ],
            "top1_probability": partial(records.column, "top1_probability"),
        }
    )


def _reliability(calibration: Calibration) -> tuple[ReliabilityBin, ...]:
    """The bins of a reliability diagram."""
    return tuple(
        ReliabilityBin(bin.low, bin.high, bin.confidence, bin.accuracy, bin.weight)
        for bin in calibration.diagram
    )


def model_fingerprint(
    model: TextModel,
    documents: Sequence[Document],
    tokenized: PassText,
    weights: Callable[[], str] | None = None,
) -> Fingerprint:
    """The fingerprint of what `model` predicts of `documents` under the text's protocol.

    That of the weights is waited for when it is needed: `weights` gives it, by default a thread
    that is started here.
    """
    backend = getattr(model, "backend", None)
    return fingerprint(
        documents,
        model.tokenizer.fingerprint,
        weights or in_background(model.weights_fingerprint),
        tokenized.protocol,
        # llama.cpp computes in a type for each tensor.
        "stored types" if backend else str(model.dtype).removeprefix("torch."),
        model.device.type,
        backend,
    )


def coverage_notes(tokenized: TokenizedText, weighted: bool = True) -> list[str]:
    """What the user must know about what was read and scored.

    `weighted` is whether tokens count as often as the protocol says.
    """
    covered = tokenized.coverage
    notes = spelled_note(tokenized.spelled, tokenized.protocol.special_tokens or "text")
    if not covered.complete:
        notes.append(
            f"{covered.bytes - covered.scored_bytes:,} of {covered.bytes:,} bytes are not scored "
            f"under the protocol {tokenized.protocol.preset}"
        )
    if (tokenized.windows.weight_W != 1).any():
        notes.append(
            "tokens of overlapping windows count a little less than 1, as in the Transformers "
            "guide; measures of calibration count each token once"
            if weighted
            else "every token counts once here, unlike in the Transformers guide, where those of "
            "overlapping windows count a little less"
        )
    return notes


def _add_temperature(model: TextModel, tokenized: TokenizedText, measured: TextMeasures) -> str:
    """Add what the best temperature saves to the measures; a note on it, or why it is missing."""
    try:
        fit, tokens = _fit_temperature(model, tokenized)
    except (KullbackError, RuntimeError, MemoryError) as error:
        # A target of probability 0: the measures are an answer, if infinite ones.
        if isinstance(error, InvalidValueError):
            return f"the temperature was not searched: {error}"
        if not lacks_memory(error):
            raise
        return (
            "the temperature was not searched: the memory is too small for the predictions of the "
            f"{len(subsample(tokenized)):,} tokens that it is fitted to"
        )
    measured.measures["temperature_saves"] = fit.saved
    return _temperature_note(fit, tokens)


def _fit_temperature(model: TextModel, tokenized: TokenizedText) -> tuple[TemperatureFit, int]:
    """The temperature that minimises the nll of a part of the text, and the tokens of it."""
    part, predictor = subsample(tokenized), ModelPredictor(model)

    def read(window: Window) -> tuple[Predictions, torch.Tensor]:
        batch = Batch((window,), (slice(0, 0),))
        return predictor.predictions(batch), torch.from_numpy(batch.targets)

    inputs = [Batch((window,), (slice(0, 0),)).inputs for window in part.windows]
    at_once = inputs_at_once(predictor)
    prepare(predictor, inputs, at_once)
    with workers(at_once, cores_each=cores() // at_once) as pool:
        windows = list(pool.map(read, part.windows))

        def nll(temperature_T: np.ndarray) -> np.ndarray:
            def of_window(window: tuple[Predictions, torch.Tensor]) -> np.ndarray:
                return tempered_nll(window[0], window[1], temperature_T)

            return np.concatenate(list(pool.map(of_window, windows)), axis=1)

        return fit_temperature(nll, part.places.document_M), len(part)


def _temperature_note(fit: TemperatureFit, tokens: int) -> str:
    ends = ", the end of the range that was searched," if fit.at_limit else ""
    return (
        f"temperature {fit.temperature:.4f}{ends} minimises the nll and would save {fit.saved} "
        f"(fitted to {tokens:,} tokens)"
    )
