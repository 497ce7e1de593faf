"""Computations that read the rows of a text in parts, several times, many at once.

A text of tens of millions of tokens does not have to be in memory to be measured: its rows come in
consecutive parts, and what a mean or an interval needs of them is small.  A computation is a
generator: it yields an accumulator, which one pass over all parts fills, reads it, and yields the
next, or returns its result.  `together` lets many share their passes.  Arrays in memory are the
case of one part.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

__all__ = ["Accumulator", "Computation", "Task", "compute", "mapped", "one_pass", "together"]

Rows = TypeVar("Rows")
RowsIn = TypeVar("RowsIn", contravariant=True)
Other = TypeVar("Other")
Result = TypeVar("Result")
ResultOut = TypeVar("ResultOut", covariant=True)


class Accumulator(Protocol[RowsIn]):
    """What one pass over the rows fills."""

    def add(self, rows: RowsIn, /) -> None:
        """The next part of the rows, in text order."""


Computation: TypeAlias = Generator[Accumulator[Rows], None, Result]


class Task(Generic[Rows, ResultOut]):
    """A computation that has begun: the accumulator that it waits for, or its result."""

    def __init__(self, computation: Computation[Rows, ResultOut]) -> None:
        self._computation = computation
        self._results: list[ResultOut] = []
        self.accumulator: Accumulator[Rows] | None = None
        self.resume()

    @property
    def result(self) -> ResultOut:
        """What the computation returned."""
        (result,) = self._results
        return result

    def resume(self) -> None:
        """Continue after a pass, up to the next one or to the end."""
        try:
            self.accumulator = next(self._computation)
        except StopIteration as stop:
            self.accumulator = None
            self._results.append(stop.value)


@dataclass(frozen=True)
class _All(Generic[Rows]):
    """Several accumulators that share a pass."""

    accumulators: Sequence[Accumulator[Rows]]

    def add(self, rows: Rows, /) -> None:
        for accumulator in self.accumulators:
            accumulator.add(rows)


@dataclass(frozen=True)
class _Mapped(Generic[Rows, Other]):
    """An accumulator of what `convert` makes of each part."""

    convert: Callable[[Rows], Other]
    accumulator: Accumulator[Other]

    def add(self, rows: Rows, /) -> None:
        self.accumulator.add(self.convert(rows))


def together(*tasks: Task[Rows, object]) -> Computation[Rows, None]:
    """Run all tasks to their ends, each pass shared by those that need one."""
    while waiting := [task for task in tasks if task.accumulator is not None]:
        yield _All([task.accumulator for task in waiting if task.accumulator is not None])
        for task in waiting:
            task.resume()


def one_pass(accumulator: Accumulator[Rows]) -> Computation[Rows, None]:
    """A computation that fills an accumulator and returns nothing."""
    yield accumulator


def mapped(
    convert: Callable[[Rows], Other], computation: Computation[Other, Result]
) -> Computation[Rows, Result]:
    """The same computation on rows that `convert` turns into those it reads."""
    task = Task(computation)
    while task.accumulator is not None:
        yield _Mapped(convert, task.accumulator)
        task.resume()
    return task.result


def compute(computation: Computation[Rows, Result], parts: Callable[[], Iterable[Rows]]) -> Result:
    """The result of a computation; `parts` gives all rows anew for each pass.

    >>> class Total:
    ...     value = 0.0
    ...     def add(self, rows: list[float]) -> None:
    ...         self.value += sum(rows)
    >>> def mean(count: int) -> Computation[list[float], float]:
    ...     total = Total()
    ...     yield total
    ...     return total.value / count
    >>> compute(mean(4), lambda: [[1.0, 2.0, 3.0], [6.0]])
    3.0
    """
    task = Task(computation)
    while task.accumulator is not None:
        for rows in parts():
            task.accumulator.add(rows)
        task.resume()
    return task.result
