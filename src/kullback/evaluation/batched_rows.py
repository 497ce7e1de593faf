"""Rows of a text, computed batch by batch and put back into the order of the text.

Where the memory is too small for a batch it is halved, and so are those after it; a window that
does not fit beside those of other threads is read when these rest, and fewer threads read after it.

Axes: N windows of a batch, M rows, K columns of a statistic that has several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int

from kullback.errors import InvalidValueError, RunError
from kullback.evaluation.agreement import check_same_plan, check_same_reading
from kullback.evaluation.batch_limit import BatchLimit
from kullback.evaluation.batches import Batch, PlannedBatch, cut, padded_tokens, plan_batches
from kullback.evaluation.predictors import (
    ModelPredictor,
    Predictor,
    is_exclusive,
    is_streamed,
    joint_sharing,
    prepare,
    token_budget,
)
from kullback.evaluation.row_columns import concatenated, like, mapped, put
from kullback.evaluation.tokenized_text import TokenizedText
from kullback.models.devices import check_float32_products
from kullback.models.interface import Sharing
from kullback.predictions.base import FactoredPredictions, Predictions, at_least_float32
from kullback.runtime.memory import empty_cache, is_out_of_memory
from kullback.runtime.progress import Tokens as TokensDone
from kullback.runtime.workers import ProcessGroup
from kullback.scoring.divergence import DivergenceStatistics
from kullback.scoring.token_statistics import TokenStatistics

__all__ = ["BatchLimit", "batched_rows", "window_predictions"]

Rows = TypeVar("Rows", TokenStatistics, DivergenceStatistics)
Value = TypeVar("Value")
Result = TypeVar("Result")


def batched_rows(
    start: Callable[[Batch], Callable[[], Rows]],
    tokenized: TokenizedText,
    predictors: tuple[Predictor, ...],
    processes: ProcessGroup | None = None,
    progress: TokensDone = lambda done, total: None,
    first_window: int = 0,
    limit: BatchLimit | None = None,
) -> Iterator[Rows]:
    """The rows of all batches, of one window or several at a time: whole windows in the order of
    the text, from `first_window` on.

    `start` begins to compute the rows of a batch and returns what waits for them.  An accelerator
    is given a batch before the host waits for the one before it.
    Raises `InvalidValueError` naming document and token where these raise it, and where processes
    do not read the same; `RunError` where the memory is too small for a window by itself.
    """
    processes, limit = processes or ProcessGroup(), limit or BatchLimit()
    for predictor in predictors:
        check_float32_products(predictor.device)
    n_inputs_W = tokenized.windows.read()
    reader = _Reader(start, tokenized, predictors, n_inputs_W, limit)
    on_accelerator = any(predictor.device.type != "cpu" for predictor in predictors)
    # An accelerator is filled by one batch.
    is_alone = on_accelerator or any(map(is_exclusive, predictors))
    check_same_reading(processes, tokenized, predictors)
    planned, at_once = _planned(tokenized, predictors, first_window, is_alone, processes)
    check_same_plan(processes, planned, at_once)
    done = int(tokenized.starts[first_window])
    group: _Group[Rows] | None = None
    scored_W = tokenized.windows.scored()
    # In a thread of its own an accelerator's libraries would start anew: 126 ms on an H100.
    in_caller = on_accelerator and processes.world_size == 1
    results = (
        _one_ahead(partial(_start_rows, reader), planned)
        if in_caller
        else processes.map(lambda batch: _start_rows(reader, batch)(), planned, at_once, is_alone)
    )
    # Non-zero ranks have no results.
    for (rows, reached), batch in zip(results, planned, strict=False):
        limit.lower(*reached)
        if group is None or group.windows != batch.group:
            group = _Group(tokenized, batch.group, first_window)
        done += int(scored_W[batch.numbers_N[batch.numbers_N >= first_window]].sum())
        ready = group.add(batch.numbers_N, rows)
        progress(done, tokenized.total)
        if ready is not None:
            yield ready


def _planned(
    tokenized: TokenizedText,
    predictors: tuple[Predictor, ...],
    first_window: int,
    is_alone: bool,
    processes: ProcessGroup,
) -> tuple[list[PlannedBatch], int]:
    """The batches from a window on, which streamed models have read, and how many at a time.

    Whether windows share batches is tried by rank 0, where the memory may be another's.
    """

    def sharing(longest: int) -> Sharing:
        return processes.decide(lambda: joint_sharing(longest, *predictors))

    return _prepared(tokenized, predictors, first_window, is_alone, sharing)


def _prepared(
    tokenized: TokenizedText,
    predictors: tuple[Predictor, ...],
    first_window: int,
    is_alone: bool,
    sharing: Callable[[int], Sharing],
) -> tuple[list[PlannedBatch], int]:
    """As `_planned`, with what `sharing` allows."""
    n_inputs_W, budget = tokenized.windows.read(), token_budget(*predictors)
    while True:
        plan = plan_batches(n_inputs_W, budget, sharing)
        # It depends on all windows, not on those left to do: where a run resumes, the same cores
        # share a batch as in one that was never stopped.
        at_once = 1 if is_alone else plan.full_batches
        planned = plan.from_window(first_window)
        inputs = _Inputs(tokenized, planned)
        if all(prepare(predictor, inputs, at_once) for predictor in predictors):
            return planned, at_once


def window_predictions(
    predictor: ModelPredictor,
    tokenized: TokenizedText,
    first_window: int = 0,
    limit: BatchLimit | None = None,
) -> Iterator[tuple[int, Predictions]]:
    """The number and the predictions of each window, in order, from `first_window` on.

    Windows share the batches of `batched_rows`, if the model has a head: else they are read one by
    one, since others wait for their turn and each takes V numbers a row.  A streamed model has read
    them before the first is given.  Raises as it does.
    """

    def sharing(longest: int) -> Sharing:
        return joint_sharing(longest, predictor) if predictor.model.factored else "alone"

    def start(batch: Batch) -> Callable[[], Predictions]:
        predictions = predictor.predictions(batch)
        return lambda: predictions

    check_float32_products(predictor.device)
    n_inputs_W = tokenized.windows.read()
    planned, _ = _prepared(tokenized, (predictor,), first_window, True, sharing)
    reader = _Reader(start, tokenized, (predictor,), n_inputs_W, limit or BatchLimit())
    waiting: dict[int, Callable[[], Predictions]] = {}
    for batch in planned:
        for part_N, finish in reader.parts(batch.numbers_N):
            waiting |= _by_window(finish(), part_N, tokenized, predictor.device)
            del finish  # which keeps the hidden states of the batch on the device
        while first_window in waiting:
            yield first_window, waiting.pop(first_window)()
            first_window += 1


def _by_window(
    predictions: Predictions,
    numbers_N: Int[np.ndarray, "N"],
    tokenized: TokenizedText,
    device: torch.device,
) -> dict[int, Callable[[], Predictions]]:
    """What gives the predictions of each window of a batch, by its number."""
    numbers = numbers_N.tolist()
    if len(numbers) == 1:
        return {numbers[0]: lambda: predictions}
    sizes = [len(tokenized.windows[number]) for number in numbers]
    if not isinstance(predictions, FactoredPredictions):  # of a streamed model without a head
        rows = torch.split(torch.arange(len(predictions), device=device), sizes)
        return {
            n: partial(predictions.select, rows_m) for n, rows_m in zip(numbers, rows, strict=True)
        }
    head = predictions.head
    parts = torch.split(predictions.hidden_on_host(), sizes)

    def of_part(hidden_mD: Float[torch.Tensor, "m D"]) -> Predictions:
        return FactoredPredictions(at_least_float32(hidden_mD.to(device)), head)

    return {n: partial(of_part, hidden_mD) for n, hidden_mD in zip(numbers, parts, strict=True)}


def _one_ahead(
    start: Callable[[PlannedBatch], Callable[[], Value]], planned: Sequence[PlannedBatch]
) -> Iterator[Value]:
    """The results of all batches, each waited for when the next has been started."""
    waiting: Callable[[], Value] | None = None
    for batch in planned:
        started = start(batch)
        if waiting is not None:
            yield waiting()
        waiting = started
    if waiting is not None:
        yield waiting()


class _Inputs(Sequence[Int[np.ndarray, "N T"]]):
    """The tokens that are read in each of some batches."""

    def __init__(self, tokenized: TokenizedText, planned: Sequence[PlannedBatch]) -> None:
        self._tokenized, self._planned = tokenized, planned

    def __len__(self) -> int:
        return len(self._planned)

    def __getitem__(self, i: Any) -> Any:
        return self._tokenized.batch(self._planned[i].numbers_N.tolist()).inputs


@dataclass(frozen=True, eq=False)
class _Reader(Generic[Value]):
    """Computes batches, in smaller parts where the memory asks for it."""

    start_batch: Callable[[Batch], Callable[[], Value]]
    tokenized: TokenizedText
    predictors: tuple[Predictor, ...]
    n_inputs_W: Int[np.ndarray, "W"]
    limit: BatchLimit

    def parts(
        self, numbers_N: Int[np.ndarray, "N"], first_row: int | None = None
    ) -> Iterator[tuple[Int[np.ndarray, "n"], Callable[[], Value]]]:
        """Start a batch; the windows of each part of it, in its order, and what waits for it.

        `first_row` is that of the planned batch, where these windows are a part of one.
        """
        if first_row is None:
            first_row = int(self.tokenized.starts[numbers_N.min()])
        for part_N in self._cut(numbers_N):
            with self.limit.turns.shared() as turn:
                started = self._attempt(part_N, first_row)
            if started is None and len(part_N) > 1 and not any(map(is_streamed, self.predictors)):
                self._free()
                self.limit.lower(padded_tokens(part_N, self.n_inputs_W) // 2)
                yield from self.parts(part_N, first_row)
                continue
            yield part_N, started or self._started_alone(part_N, first_row, turn.most)

    def _started_alone(
        self, numbers_N: Int[np.ndarray, "N"], first_row: int, together: int
    ) -> Callable[[], Value]:
        """Start a window that did not fit beside what other threads read, `together` with it.

        Of a streamed model, which has read its batches, a batch.
        """
        with self.limit.turns.alone():
            self._free()
            started = self._attempt(numbers_N, first_row)
        if started is None:
            # From an error without torch's own, whose traceback keeps tensors.
            longest = int(self.n_inputs_W[numbers_N].max())
            raise RunError(self._too_long(longest)) from MemoryError()
        if together > 1:
            self.limit.lower(at_once=together // 2)
        return started

    def _free(self) -> None:
        """Give memory that is kept for reuse back to the devices."""
        for predictor in self.predictors:
            empty_cache(predictor.device)

    def _cut(self, numbers_N: Int[np.ndarray, "N"]) -> list[Int[np.ndarray, "n"]]:
        tokens = self.limit.tokens
        if tokens is None or padded_tokens(numbers_N, self.n_inputs_W) <= tokens:
            return [numbers_N]
        return cut(numbers_N, self.n_inputs_W, tokens)

    def _attempt(
        self, numbers_N: Int[np.ndarray, "N"], first_row: int
    ) -> Callable[[], Value] | None:
        """What waits for the result; None where the memory is too small."""
        try:
            return self._started(numbers_N, first_row)
        # torch has one class of errors for its accelerators, and none for its memory on a CPU.
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _started(
        self, numbers_N: Int[np.ndarray, "N"], first_row: int | None = None
    ) -> Callable[[], Value]:
        batch = replace(self.tokenized.batch(numbers_N.tolist()), planned_from=first_row)
        finish = self._placed(numbers_N, lambda: self.start_batch(batch))
        return lambda: self._placed(numbers_N, finish)

    def _placed(self, numbers_N: Int[np.ndarray, "N"], compute: Callable[[], Result]) -> Result:
        """Say where in the text it was that predictions could not be measured."""
        try:
            return compute()
        except InvalidValueError as error:
            if len(numbers_N) > 1:
                for number in numbers_N:  # the window that is at fault raises
                    self._started(np.array([number]))()
            window = self.tokenized.windows[int(numbers_N[0])]
            name = self.tokenized.documents[window.document].name
            first, last = int(window.tokens[0]), int(window.tokens[-1])
            raise InvalidValueError(f"{name}, tokens {first} to {last}: {error}") from None

    def _too_long(self, tokens: int) -> str:
        names = " and ".join(dict.fromkeys(predictor.name for predictor in self.predictors))
        return (
            f"the memory is too small to read a window of {tokens:,} tokens with {names}: use a "
            "shorter --window, a narrower --dtype, or a device with more memory"
        )


def _start_rows(
    reader: _Reader[Rows], planned: PlannedBatch
) -> Callable[[], tuple[Rows, tuple[int | None, int | None]]]:
    """Start a batch; what is returned waits for its rows, and what the memory allowed."""
    parts = list(reader.parts(planned.numbers_N))

    def finish() -> tuple[Rows, tuple[int | None, int | None]]:
        rows = [part() for _, part in parts]
        return rows[0] if len(rows) == 1 else concatenated(rows), reader.limit.reached

    return finish


class _Group(Generic[Rows]):
    """The rows of a group of windows, until all before them are there."""

    def __init__(self, tokenized: TokenizedText, windows: slice, first_window: int) -> None:
        self.windows = windows
        self._starts = tokenized.starts[windows.start : windows.stop + 1]
        self._next = max(first_window - windows.start, 0)
        self._is_there = np.zeros(windows.stop - windows.start + 1, bool)
        self._rows: Rows | None = None

    def add(self, numbers_N: Int[np.ndarray, "N"], rows: Rows) -> Rows | None:
        """Add a batch; the rows of the windows that come next, where they are there."""
        own_N = numbers_N - self.windows.start
        self._is_there[own_N] = True
        first = self._next
        self._next += int(np.argmin(self._is_there[first:]))
        starts = self._starts
        if len(own_N) == 1 and own_N[0] == first and self._next == first + 1:
            return rows
        if self._rows is None:
            self._rows = like(rows, int(starts[-1] - starts[0]))
        sizes_N = np.diff(starts)[own_N]
        begins_N = starts[own_N] - starts[0]
        shift_N = begins_N - (np.cumsum(sizes_N) - sizes_N)
        put(self._rows, np.arange(len(rows)) + np.repeat(shift_N, sizes_N), rows)
        if self._next == first:
            return None
        ready = slice(int(starts[first] - starts[0]), int(starts[self._next] - starts[0]))
        return mapped(self._rows, lambda column_M: column_M[ready])
