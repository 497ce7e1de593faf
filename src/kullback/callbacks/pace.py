"""How many rows are measured, and after how many steps, from the time that a step takes.

The first steps are timed (fewer where the user has rows measured sooner), then a forward of a few
rows.  With B the budget (a share of the time of the steps), s the seconds of a step and N the steps
between two logs of the trainer, a measurement may take B·s·N.  As many rows are taken as that pays
for, between `LEAST` and `MOST`; where it does not pay for `LEAST` of them, N grows until it does.
The first measurement corrects N once more.
"""

from __future__ import annotations

import math
import time
from itertools import pairwise
from statistics import median
from typing import Any

__all__ = ["LEAST", "MOST", "WARM_UP", "Pace", "seconds_now"]

LEAST, MOST = 16, 1024
"""Rows of a measurement."""
WARM_UP = 10
"""Steps that are timed, the first half of which counts as warming up."""
# Of the budget, what is planned for: times vary.
PLANNED = 0.7
BETWEEN = 50
"""Steps between two measurements where the trainer has no interval of its own."""


class Pace:
    """The interval and the number of rows; both None until the first steps are timed.

    `every` and `rows` are set where the user chose them.
    """

    def __init__(self, every: int | None, rows: int | None, budget: float) -> None:
        self.every, self.rows = every, rows
        self._budget = budget
        self._is_fixed = every is not None
        self._ends: list[float] = []
        self._step_seconds = 0.0

    @property
    def is_set(self) -> bool:
        """Whether both are known."""
        return self.every is not None and self.rows is not None

    def step(self, now: float, step: int) -> bool:
        """A step ended; whether it is time to `plan`.

        Enough steps are timed then, or the rows are to be measured after this one already.
        """
        if self.is_set:
            return False
        self._ends.append(now)
        return len(self._ends) > WARM_UP or (self.every is not None and step % self.every == 0)

    def plan(self, seconds_of_least: float, between: int | None) -> None:
        """Choose, given the seconds of a forward of `LEAST` rows and the trainer's interval."""
        ends = self._ends[min(WARM_UP, len(self._ends)) // 2 :]
        # After a single step none is timed: `LEAST` rows.
        self._step_seconds = median([b - a for a, b in pairwise(ends)] or [0.0])
        share = PLANNED * self._budget * self._step_seconds
        between = self.every or between or BETWEEN
        if self.rows is None:
            affordable = share * between / max(seconds_of_least, 1e-9)
            self.rows = min(MOST, max(LEAST, int(affordable) * LEAST))
        if self.every is None:
            needed = seconds_of_least * self.rows / LEAST / max(share, 1e-9)
            self.every = max(between, math.ceil(needed))

    def took(self, seconds: float) -> None:
        """A measurement took so long: wait longer where it was more than planned, once."""
        if self._is_fixed or self.every is None:
            return
        self._is_fixed = True
        share = self._budget * self._step_seconds
        if share > 0:
            self.every = max(self.every, math.ceil(seconds / share))

    def is_due(self, step: int) -> bool:
        """Whether the rows are measured after this step."""
        return self.is_set and step % (self.every or 1) == 0

    def share(self, other: Any) -> None:
        """Take the choice of another process, so that all of them measure at the same steps."""
        self.every, self.rows = other
        self._is_fixed = True


def seconds_now(device: Any) -> float:
    """The clock, after an accelerator has finished what it was given."""
    import torch

    if getattr(device, "type", "cpu") == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
