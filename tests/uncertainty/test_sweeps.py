"""Computations that share their passes."""

from __future__ import annotations

from collections.abc import Iterator

from kullback.uncertainty.sweeps import Computation, Task, compute, mapped, one_pass, together


class Total:
    """A sum."""

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, rows: list[float], /) -> None:
        """The next numbers."""
        self.value += sum(rows)


def variance() -> Computation[list[float], float]:
    """In two passes: the sum, then that of squares."""
    total, count, squares = Total(), Total(), Total()
    ones = mapped(lambda rows: [1.0] * len(rows), one_pass(count))
    yield from together(Task(one_pass(total)), Task(ones))
    mean = total.value / count.value
    yield from mapped(lambda rows: [(x - mean) ** 2 for x in rows], one_pass(squares))
    return squares.value / count.value


def test_passes_are_shared() -> None:
    """A computation of two passes and one of a single pass read the rows twice."""
    passes = []

    def parts() -> Iterator[list[float]]:
        passes.append(1)
        yield from ([1.0, 2.0], [], [3.0])

    def both() -> Computation[list[float], tuple[float, float]]:
        total = Total()
        task = Task(variance())
        yield from together(task, Task(one_pass(total)))
        return task.result, total.value

    assert compute(both(), parts) == (2 / 3, 6.0)
    assert len(passes) == 2
