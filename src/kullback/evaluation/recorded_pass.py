"""One pass of a model over a text that keeps a row a token, in memory and, where asked, on disk."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from kullback.errors import InvalidValueError
from kullback.evaluation.kept_rows import StateWriter, kept_rows
from kullback.evaluation.measures import Places
from kullback.evaluation.passages import SHOWN_TOKENS, TOP_K
from kullback.evaluation.passes import (
    BatchLimit,
    ModelPredictor,
    Predictor,
    TokenizedText,
    token_rows,
)
from kullback.evaluation.record_columns import RecordColumns
from kullback.evaluation.text_ahead import TextAhead
from kullback.evaluation.token_records import (
    Records,
    RecordsMetadata,
    read_metadata,
    read_records,
)
from kullback.evaluation.token_records_writer import RecordsWriter, remove_begun
from kullback.models.interface import TextModel
from kullback.runtime.progress import Progress
from kullback.runtime.workers import ProcessGroup
from kullback.scoring.token_statistics import TokenStatistics, concatenate_statistics
from kullback.text.fingerprint import Fingerprint
from kullback.text.plan import bos_of

__all__ = ["RecordedPass", "record_pass", "window_records"]

# Rows whose places are looked up together, and the longest that they wait for it.
ROWS_AT_ONCE = 8192
SECONDS_AT_ONCE = 2.0


@dataclass(frozen=True, eq=False)
class RecordedPass:
    """What a pass leaves; only in rank 0."""

    records: RecordColumns
    tokenized: TokenizedText
    beginning: TokenStatistics | None
    """Of the first `SHOWN_TOKENS` rows or a few more, with the most probable tokens."""
    seconds: float
    tokens_read: int
    """Rows that were computed in this call, not taken from a file."""

    def __len__(self) -> int:
        """M."""
        return len(self.records)

    def parts(self) -> Iterator[tuple[TokenStatistics, Places]]:
        """The columns that the measures are computed from, of whole windows at a time."""
        starts = self.tokenized.starts
        for windows in self.tokenized.window_parts():
            rows = slice(int(starts[windows.start]), int(starts[windows.stop]))
            yield _statistics(self.records.part(rows)), self.tokenized.places_of(windows)


def record_pass(
    model: TextModel,
    text: TextAhead,
    identity: Fingerprint,
    path: Path | None,
    processes: ProcessGroup,
    progress: Progress,
    with_beginning: bool,
    limit: BatchLimit | None = None,
) -> RecordedPass | None:
    """Run `model` over the text; None for non-zero ranks.

    The model reads the beginning of a long text before all of it is cut into tokens.

    `path` names a Parquet file for one row a token; a killed run resumes after the rows on disk,
    and a file that is finished is read instead.  Without it, the rows are in the state folder until
    the pass is done, for a run after one that was stopped or killed.  `with_beginning` keeps the
    most probable tokens of the first rows, for a report.  `limit` is as for `token_rows`.
    Raises as `token_rows` does, and `RunError` where the file cannot be written.
    """
    began = time.perf_counter()
    records = RecordColumns()
    begins_with = bos_of(text.protocol, model.tokenizer)
    metadata = RecordsMetadata.of(model.name, identity, text.documents, begins_with)
    is_finished = processes.is_rank_zero and path is not None and _is_finished(path, metadata)
    if processes.broadcast(is_finished):
        return _finished(path, model, text.whole, processes, progress, with_beginning)
    predictor = ModelPredictor(model)
    unreadable: InvalidValueError | None = None
    beginning: list[TokenStatistics] = []
    with ExitStack() as stack:
        writer = None
        if processes.is_rank_zero:
            writer = stack.enter_context(kept_rows(path, metadata, records, text))
        first = 0
        try:
            first = _first_window(text, writer, records, processes)
            for tokenized, first_of_part in _parts(text, first, predictor):
                rows = token_rows(
                    predictor, tokenized, processes, progress.tokens, first_of_part,
                    top_k=TOP_K, top_rows=SHOWN_TOKENS if with_beginning else 0, limit=limit,
                )  # fmt: skip
                with _RowBuffer(tokenized, records, writer, first_of_part) as buffer:
                    for statistics in rows:
                        if statistics.top_tokens.shape[1]:
                            beginning.append(statistics)
                        buffer.append(statistics)
                        with _reading():
                            text.check()
        except _UnreadableError as error:
            unreadable = error.reason  # raised below: the writer keeps rows where it sees an error
            if writer is not None:  # no run resumes these rows: another text has others
                writer.assembled = False
    if unreadable is not None:
        raise unreadable
    seconds = time.perf_counter() - began
    if not processes.is_rank_zero:
        return None
    tokenized = text.whole
    if with_beginning and first > 0:
        progress.stage("reading the beginning of the text again, for the report")
        beginning = _beginning_again(model, tokenized)
    return RecordedPass(
        records=records,
        tokenized=tokenized,
        beginning=concatenate_statistics(beginning) if beginning else None,
        seconds=seconds,
        tokens_read=len(tokenized) - int(tokenized.starts[first]),
    )


def _first_window(
    text: TextAhead,
    writer: RecordsWriter | StateWriter | None,
    records: RecordColumns,
    processes: ProcessGroup,
) -> int:
    """The first window some of whose rows are not on disk; the rows before it join `records`."""
    done = processes.broadcast(0 if writer is None else writer.done)
    if not done:
        return 0
    with _reading():
        starts = text.whole.starts
    first = int(np.searchsorted(starts, done, side="right")) - 1
    if writer is not None:
        for earlier in writer.earlier(int(starts[first])):
            records.append(earlier)
    return first


class _UnreadableError(Exception):
    """The tokenizer cannot read a part of the text."""

    def __init__(self, reason: InvalidValueError) -> None:
        super().__init__(str(reason))
        self.reason = reason


def _parts(
    text: TextAhead, first_window: int, predictor: Predictor
) -> Iterator[tuple[TokenizedText, int]]:
    """As `TextAhead.parts`, with the errors of the tokenizer as `_UnreadableError`."""
    with _reading():
        yield from text.parts(first_window, predictor)


@contextmanager
def _reading() -> Iterator[None]:
    """Raise `_UnreadableError` for an error in it, which so is told from one of the model."""
    try:
        yield
    except InvalidValueError as error:
        raise _UnreadableError(error) from None


def _is_finished(path: Path, metadata: RecordsMetadata) -> bool:
    """Whether the file contains the rows of this very pass."""
    try:
        return path.is_file() and read_metadata(path).to_json() == metadata.to_json()
    except InvalidValueError:
        return False  # damaged, or another file, which is replaced


def _finished(
    path: Path | None,
    model: TextModel,
    tokenized: TokenizedText,
    processes: ProcessGroup,
    progress: Progress,
    with_beginning: bool,
) -> RecordedPass | None:
    """The pass whose rows a file contains already."""
    if not processes.is_rank_zero:
        return None
    assert path is not None
    began = time.perf_counter()
    progress.stage(f"reading {path}, which is finished")
    remove_begun(path)
    records = RecordColumns()
    records.append(read_records(path)[1])
    if len(records) != len(tokenized):
        raise InvalidValueError(
            f"the records {path} have {len(records):,} rows, and the text {len(tokenized):,} "
            "scored tokens: remove the file, then run the command again"
        )
    beginning = _beginning_again(model, tokenized) if with_beginning else []
    return RecordedPass(
        records=records,
        tokenized=tokenized,
        beginning=concatenate_statistics(beginning) if beginning else None,
        seconds=time.perf_counter() - began,
        tokens_read=0,
    )


class _RowBuffer:
    """Collects the statistics of windows, and appends them to the records, in memory and on disk.

    What waits is appended when the context is left, after Ctrl-C, too.
    """

    def __init__(
        self,
        tokenized: TokenizedText,
        records: RecordColumns,
        writer: RecordsWriter | StateWriter | None,
        first_window: int,
    ) -> None:
        self._tokenized = tokenized
        self._records = records
        self._writer = writer
        self._window = first_window
        self._waiting: list[TokenStatistics] = []
        self._rows = 0
        self._appended = time.monotonic()

    def __enter__(self) -> _RowBuffer:
        return self

    def __exit__(self, *exception: object) -> None:
        self._append()

    def append(self, statistics: TokenStatistics) -> None:
        """Add the statistics of the next windows."""
        self._waiting.append(statistics)
        self._rows += len(statistics)
        late = time.monotonic() - self._appended >= SECONDS_AT_ONCE
        if self._rows >= ROWS_AT_ONCE or late:
            self._append()

    def _append(self) -> None:
        if self._waiting:
            last = int(self._tokenized.starts[self._window]) + self._rows
            windows = slice(self._window, int(np.searchsorted(self._tokenized.starts, last)))
            rows = window_records(self._tokenized, windows, self._waiting)
            self._records.append(rows)
            if self._writer is not None:
                self._writer.append(int(self._tokenized.starts[windows.start]), rows)
            self._window, self._waiting, self._rows = windows.stop, [], 0
        self._appended = time.monotonic()


def window_records(
    tokenized: TokenizedText, windows: slice, statistics: Sequence[TokenStatistics]
) -> Records:
    """The rows of some windows, in the types of the records, whether they are written or not."""
    places, spans_M2 = tokenized.columns_of(windows), tokenized.byte_spans_of(windows)

    def column(name: str) -> Shaped[np.ndarray, "M"]:
        return np.concatenate([getattr(rows, name) for rows in statistics])

    return Records(
        document=places["document_M"],
        byte_start=spans_M2[:, 0],
        byte_length=places["bytes_M"],
        token_id=tokenized.targets_of(windows),
        position=places["position_M"],
        weight=places["weight_M"],
        nll=column("nll"),
        entropy=column("entropy"),
        rank=column("rank"),
        top1=column("top1"),
        top1_probability=column("top1_probability"),
        sum_of_squares=column("sum_of_squares"),
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


def _beginning_again(model: TextModel, tokenized: TokenizedText) -> list[TokenStatistics]:
    """The beginning of the text, for a run that resumed after it; no other windows are read."""
    count = int(np.searchsorted(tokenized.starts, SHOWN_TOKENS))
    begin = replace(tokenized, windows=tokenized.windows[: min(count, len(tokenized.windows))])
    return list(token_rows(ModelPredictor(model), begin, top_k=TOP_K, top_rows=SHOWN_TOKENS))
