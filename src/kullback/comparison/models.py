"""Models, and exact recordings of models, against a reference on the same tokens.

Both vocabularies are streamed over the same windows; no logits are stored.  The reference is read
once (:mod:`kullback.comparison.kept_predictions`), each candidate is loaded when its turn comes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

import msgspec

from kullback.comparison.detail import describe_candidate
from kullback.comparison.kept_pass import KeptPasses
from kullback.comparison.kept_reference import kept_reference
from kullback.comparison.measures import largest_padding, padding_notes
from kullback.comparison.noise_floor import above_noise, noise_floor
from kullback.comparison.operands import Operand, check_context
from kullback.comparison.ranking import CandidateRows, choose, rank_candidates
from kullback.comparison.sensitivity import Sensitivity, measure_sensitivity
from kullback.comparison.stored import origin
from kullback.comparison.token_agreement import bos_note, check_tokens
from kullback.errors import InvalidValueError
from kullback.evaluation.agreement import check_same_tokens
from kullback.evaluation.on_text import coverage_notes
from kullback.evaluation.passes import (
    BatchLimit,
    Predictor,
    TokenizedText,
    divergence_rows,
)
from kullback.evaluation.text_ahead import TextAhead
from kullback.models.interface import TextModel
from kullback.models.quantization import Scheme
from kullback.models.streamed import StreamedModel
from kullback.results import comparison as results
from kullback.results.evaluation import NonZeroRank
from kullback.results.measurement import Measurement
from kullback.runtime.progress import Progress
from kullback.runtime.workers import ProcessGroup
from kullback.scoring.divergence import DivergenceStatistics
from kullback.text.documents import Document
from kullback.text.fingerprint import Fingerprint
from kullback.text.inputs import text_name
from kullback.text.protocol import Protocol
from kullback.text.tokenizer import TextTokenizer

__all__ = ["Candidate", "Task", "compare_models"]


@dataclass(frozen=True, eq=False)
class Candidate:
    """What is compared with the reference; `open` loads it when its turn comes."""

    name: str
    open: Callable[[], Operand]
    tokenizer: Callable[[], TextTokenizer] | None = None
    """Reads its tokenizer alone, where that is possible: what differs is then said first."""
    context: int | None = None
    """The longest input, where that is known before it is loaded."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Task:
    """What to do beside the comparison itself."""

    reference_name: str | None = None
    """What to call the reference, as the candidates are called; by default its model's name."""
    noise: bool = False
    noise_dtype: Sequence[Callable[[], TextModel | None]] = ()
    """Ways to load the reference in another type, for the noise floor."""
    sensitivity: Scheme | None = None
    """Rank the reference's layers by what this scheme costs in each."""
    tolerance: float = 0.01
    """Nats/token of ΔCE that are accepted."""
    budget: int | None = None
    """Bytes that the candidate may take."""
    passages: bool = False
    """Keep the beginning of the text, token by token, for a report."""
    command: str = ""


def compare_models(
    reference: Operand,
    candidates: Sequence[Candidate],
    documents: Sequence[Document],
    protocol: Protocol,
    task: Task | None = None,
    progress: Progress | None = None,
    processes: ProcessGroup | None = None,
) -> results.Comparison | NonZeroRank:
    """Everything about how far the candidates are from `reference` on `documents`.

    Each operand is a model, or an exact recording of one; the candidates are ranked with intervals
    that hold for all at once.  The `processes` share the windows of every pass; non-zero ranks are
    told that rank 0 has the result.  Raises `InvalidValueError` where tokenizers differ, where a
    recording is of another text or protocol, and where the task needs a model and the reference is
    a recording.
    """
    task, progress, processes = task or Task(), progress or Progress(), processes or ProcessGroup()
    _check_task(reference, task)
    reader, opened = _reader(reference, candidates)
    progress.part("cutting the text into tokens")
    with TextAhead.of(documents, protocol, reader, progress, processes) as text:
        text.begin()
        if processes.world_size > 1:
            check_same_tokens(processes, text.whole)
        reference.check(documents, text, reader)
        _check_unopened(candidates, reader, text)
        began = time.perf_counter()
        source = _source(reference, len(candidates), task, text, processes, progress)
        of_reference = _identity(reference, documents, text, processes)
        passes = _Passes(
            reference, source, of_reference, documents, text, reader, task, processes, progress
        )
        with passes.kept.noted():
            compared = passes.all(candidates, opened)
            floor, layers = passes.noise(), passes.sensitivity()
    if not processes.is_rank_zero:
        return NonZeroRank(rank=processes.rank, world_size=processes.world_size)
    tokenized = text.whole
    ranked = rank_candidates(
        [candidate.rows for candidate in compared], tokenized.places, reference.size_bytes, floor,
        task.tolerance, task.budget,
    )  # fmt: skip
    passes.kept.forget()
    name = task.reference_name or reference.name
    return results.Comparison(
        title=title_of([candidate.name for candidate in candidates], name),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=task.command,
        kind="models",
        reference=origin(name, of_reference, reference.size_bytes),
        candidates=tuple(
            msgspec.structs.replace(result, above_noise=above_noise(result.measures["kl"], floor))
            for result in (candidate.result for candidate in compared)
        ),
        scored_tokens=tokenized.coverage.scored_tokens,
        text=text_name(documents),
        documents=len(documents),
        bytes=tokenized.coverage.bytes,
        seconds=time.perf_counter() - began,
        notes=(*_notes(reference, compared, tokenized), *passes.limit.notes, *passes.notes),
        ranked=ranked,
        tolerance=task.tolerance,
        budget=task.budget,
        choice=choose(ranked, task.budget),
        noise_floor=floor,
        sensitivity=tuple(
            results.LayerSensitivity(layer=cost.group, kl=cost.kl, bytes_saved=cost.bytes_saved)
            for cost in (layers.groups if layers else ())
        ),
        sensitivity_sum=layers.sum_of_parts if layers else None,
        sensitivity_whole=layers.whole if layers else None,
    )


@dataclass(frozen=True, eq=False)
class _Compared:
    """What is kept of a candidate when its model has gone."""

    rows: CandidateRows
    result: results.CandidateComparison
    notes: tuple[str, ...]
    padding: float
    """The largest probability of tokens that only one of the models has."""

    @classmethod
    def of(
        cls,
        name: str,
        operand: Operand,
        identity: Fingerprint,
        divergences: DivergenceStatistics,
        tokenized: TokenizedText,
        reader: TextModel,
        task: Task,
    ) -> _Compared:
        """The rows to rank by, and the measures."""
        result = describe_candidate(
            origin(name, identity, operand.size_bytes),
            divergences, tokenized, reader.tokenizer, task.passages,
        )  # fmt: skip
        return cls(
            CandidateRows.of(name, operand.size_bytes, divergences),
            result,
            operand.notes,
            largest_padding(divergences),
        )


@dataclass(frozen=True, eq=False)
class _Passes:
    """The passes over the text, and what they share."""

    reference: Operand
    source: Predictor
    """The reference, kept where it is read more than once."""
    of_reference: Fingerprint
    documents: Sequence[Document]
    text: TextAhead
    reader: TextModel
    task: Task
    processes: ProcessGroup
    progress: Progress
    kept: KeptPasses = field(default_factory=KeptPasses)
    limit: BatchLimit = field(default_factory=BatchLimit)
    notes: list[str] = field(default_factory=list)
    """Beside the models' own."""

    def all(self, candidates: Sequence[Candidate], opened: dict[int, Operand]) -> list[_Compared]:
        """What is kept of all candidates; nothing on non-zero ranks."""
        compared: list[_Compared] = []
        for i, candidate in enumerate(candidates):
            # Each is freed before the next is loaded.
            compared += self.of(candidate.name, opened.pop(i) if i in opened else candidate.open())
        return compared

    def of(self, name: str, operand: Operand) -> list[_Compared]:
        """What is kept of a candidate; nothing on non-zero ranks."""
        text, progress = self.text, self.progress
        operand.check(self.documents, text, self.reader)
        self._note_beginning(name, operand)
        progress.stage(f"comparing {name}")
        identity = _identity(operand, self.documents, text, self.processes)
        kinds = [type(model).__name__ for model in (self.reference, operand)]
        divergences = self.kept.rows(
            lambda: [self.of_reference.full, identity.full, *kinds],
            text,
            partial(self._divergences, operand),
            self.processes,
        )
        if not self.processes.is_rank_zero:
            return []
        self.of_reference.wait()  # its layers may be quantised, for their sensitivity
        progress.part("measures and intervals")
        return [
            _Compared.of(name, operand, identity, divergences, text.whole, self.reader, self.task)
        ]

    def _note_beginning(self, name: str, operand: Operand) -> None:
        """Note where a model would begin a text in another way than the reader does."""
        if operand.model is not None:
            reader, own = self.reader, operand.model.tokenizer
            bos = self.text.protocol.bos
            self.notes.extend(bos_note(name, own, reader.name, reader.tokenizer, bos))

    def _divergences(self, operand: Operand, first_window: int) -> Iterator[DivergenceStatistics]:
        """The rows of the windows from one on; the first pass reads the text as it is known."""
        vocabulary_size = min(self.reference.vocabulary_size, operand.vocabulary_size)
        for tokenized, first in self.text.parts(first_window, self.source, operand):
            for rows in divergence_rows(
                self.source, operand, tokenized, self.processes, self.progress.tokens,
                vocabulary_size, first, self.limit,
            ):  # fmt: skip
                yield rows
                self.text.check()

    def noise(self) -> dict[str, Measurement]:
        """The noise floor, where it is asked for."""
        model = self.reference.model
        if not self.task.noise or model is None:
            return {}
        return noise_floor(
            self.source, model, self.text.whole, self.task.noise_dtype, self.processes,
            self.progress, self.notes.append,
        )  # fmt: skip

    def sensitivity(self) -> Sensitivity | None:
        """What quantising each group of layers costs, where it is asked for; on rank 0."""
        model, scheme = self.reference.model, self.task.sensitivity
        if scheme is None or model is None:
            return None
        self.progress.stage("sensitivity: layers, one at a time")
        return measure_sensitivity(
            model, scheme, self.text.whole, self.source, self.processes, self.progress.tokens
        )


def _identity(
    operand: Operand,
    documents: Sequence[Document],
    text: TextAhead,
    processes: ProcessGroup,
) -> Fingerprint:
    """What the numbers of an operand depend on; rank 0 alone needs it, and reads the weights."""
    if not processes.is_rank_zero:
        return Fingerprint({})
    return operand.fingerprint(documents, text)


def _source(
    reference: Operand,
    candidates: int,
    task: Task,
    text: TextAhead,
    processes: ProcessGroup,
    progress: Progress,
) -> Predictor:
    """The reference, kept where it is read more than once."""
    # A streamed model keeps its hidden states itself.
    several = candidates > 1 and not isinstance(reference.model, StreamedModel)
    if several or task.noise or task.sensitivity is not None:
        return kept_reference(reference, text, processes, progress)
    return reference


def _check_unopened(candidates: Sequence[Candidate], reader: TextModel, text: TextAhead) -> None:
    """Raise `InvalidValueError` where a candidate reads other tokens, or shorter windows.

    Before anything is computed, as far as that is known of those that are not loaded yet.
    """
    for candidate in candidates:
        check_context(candidate.name, candidate.context, text)
        if candidate.tokenizer is not None:
            tokenizer = candidate.tokenizer()
            check_tokens(candidate.name, tokenizer, (reader.name, reader.tokenizer), text)


def title_of(candidates: Sequence[str], reference: str) -> str:
    """What a comparison is called.

    >>> title_of(["m@int8", "m@int4", "m@fp8"], "m")
    '3 candidates against m'
    """
    what = candidates[0] if len(candidates) == 1 else f"{len(candidates)} candidates"
    return f"{what} against {reference}"


def _notes(
    reference: Operand, compared: Sequence[_Compared], tokenized: TokenizedText
) -> tuple[str, ...]:
    # Several models may have the same note, of this processor for example.
    own = [*reference.notes, *(note for candidate in compared for note in candidate.notes)]
    return (
        *dict.fromkeys(own),
        *coverage_notes(tokenized),
        results.MOVED_IS_NOT_WORSE,
        *padding_notes(max(candidate.padding for candidate in compared)),
    )


def _check_task(reference: Operand, task: Task) -> None:
    """Raise `InvalidValueError` where the reference's model is needed and is not here."""
    wanted = {
        "the noise floor": task.noise,
        "the sensitivity of layers": task.sensitivity is not None,
    }
    for what, needed in wanted.items():
        if needed and reference.model is None:
            raise InvalidValueError(
                f"{what} needs the model itself, and the reference {reference.name} is a "
                "recording: name the model, or leave that out"
            )


def _reader(
    reference: Operand, candidates: Sequence[Candidate]
) -> tuple[TextModel, dict[int, Operand]]:
    """The first model, whose tokenizer reads the text, and the candidates opened to find it."""
    opened: dict[int, Operand] = {}
    if not candidates:
        raise InvalidValueError("there is no candidate: name a model, or schemes (--schemes)")
    if reference.model is not None:
        return reference.model, opened
    for i, candidate in enumerate(candidates):
        opened[i] = candidate.open()
        model = opened[i].model
        if model is not None:
            return model, opened
    raise InvalidValueError(
        "all operands are recordings, which have no tokenizer to read the text with: name a model "
        "among them, or compare two recordings alone"
    )
