"""Batches: which windows of a text are read together, and in which order.

One forward pass over a few tokens costs as much as one over a few hundred, so that short windows
share it.  Consecutive windows form *groups* of a bounded number of tokens.  Within a group windows
are sorted by length and cut into batches of a *token budget*, which counts padding; then the
batches are sorted by their first window.  Groups and batches depend on all windows of the text and
on the budget, not on where a run resumes, so that a resumed run reads the same batches.

Axes: W windows, N windows of a batch, T tokens of the longest of them, M their scored tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int

from kullback.models.interface import Sharing
from kullback.text.windows import Window

__all__ = [
    "Batch",
    "BatchPlan",
    "PlannedBatch",
    "cut",
    "padded_tokens",
    "plan_batches",
    "windows_of_whole_groups",
]

# Batches of a full budget in a group, and tokens: enough for lengths that hardly differ within a
# batch, few enough for a group to take seconds.
BATCHES_A_GROUP, TOKENS_A_GROUP = 16, 65_536
# Padding of a batch that is accepted: this part of its tokens, or of the budget where that is more,
# since another forward pass costs about as much.
PADDED_PART, PADDED_PART_OF_BUDGET = 4, 16


@dataclass(frozen=True, eq=False)
class Batch:
    """Windows that are read together."""

    windows: tuple[Window, ...]
    rows: tuple[slice, ...]
    """The rows of the text that are theirs."""
    planned_from: int | None = None
    """The first row of the planned batch that this is a part of; None where it is all of one."""

    @property
    def first_row(self) -> int:
        """The first row of the planned batch, so that its parts are computed alike."""
        own = min(rows.start for rows in self.rows)
        return own if self.planned_from is None else self.planned_from

    @cached_property
    def targets(self) -> Int[np.ndarray, "M"]:
        """The target tokens, window after window."""
        targets = np.concatenate([window.targets for window in self.windows])
        targets_M: Int[np.ndarray, "M"] = targets.astype(np.int64, copy=False)
        return targets_M

    @cached_property
    def row_numbers(self) -> Int[np.ndarray, "M"]:
        """The row of the text that each prediction is of."""
        return np.concatenate([np.arange(rows.start, rows.stop) for rows in self.rows])

    @cached_property
    def inputs(self) -> Int[np.ndarray, "N T"]:
        """The tokens to read; each window is padded on the right with its own last token."""
        inputs = [window.inputs for window in self.windows]
        longest = max(map(len, inputs))
        padded_NT = np.empty((len(inputs), longest), np.int64)
        for row_T, ids in zip(padded_NT, inputs, strict=True):
            row_T[: len(ids)], row_T[len(ids) :] = ids, ids[-1]
        return padded_NT

    @property
    def positions(self) -> Int[np.ndarray, "M"]:
        """Which of the N·T predictions are scored."""
        T = max(window.n_inputs for window in self.windows)
        scored = [(n * T, window.rows) for n, window in enumerate(self.windows)]
        return np.concatenate([np.arange(at + r.start, at + r.stop) for at, r in scored])

    def alone(self) -> Iterator[Batch]:
        """Each window by itself."""
        for window, rows in zip(self.windows, self.rows, strict=True):
            yield Batch((window,), (rows,))


@dataclass(frozen=True, eq=False)
class PlannedBatch:
    """The numbers of the windows of a batch, and of all windows of its group."""

    numbers_N: Int[np.ndarray, "N"]
    """By length, the shortest first."""
    group: slice


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """The batches of a text."""

    batches: list[PlannedBatch]
    full_batches: int
    """How many batches as large as the largest would be as much to read; at least one."""

    def from_window(self, first: int) -> list[PlannedBatch]:
        """The batches with a window from number `first` on."""
        return [
            batch
            for batch in self.batches
            if batch.group.stop > first and int(batch.numbers_N.max()) >= first
        ]


def plan_batches(
    n_inputs_W: Int[np.ndarray, "W"], budget: int, sharing: Callable[[int], Sharing]
) -> BatchPlan:
    """The batches of windows of these lengths.

    `sharing` says how windows of at most so many tokens may share a batch; it is asked for the
    longest that would be in a batch with a shorter one.
    """
    batches = _batches(n_inputs_W, budget, "padded")
    padded = [
        longest
        for shortest, longest in (_ends(batch, n_inputs_W) for batch in batches)
        if shortest < longest
    ]
    shared = any(len(batch.numbers_N) > 1 for batch in batches)
    if shared:
        allowed = sharing(max(padded, default=1))
        if allowed != "padded":
            batches = _batches(n_inputs_W, budget, allowed)
    sizes = [padded_tokens(batch.numbers_N, n_inputs_W) for batch in batches]
    return BatchPlan(batches, max(1, round(sum(sizes) / max(sizes, default=1))))


def _ends(batch: PlannedBatch, n_inputs_W: Int[np.ndarray, "W"]) -> tuple[int, int]:
    """The lengths of the shortest and the longest window."""
    return int(n_inputs_W[batch.numbers_N[0]]), int(n_inputs_W[batch.numbers_N[-1]])


def padded_tokens(numbers_N: Int[np.ndarray, "N"], n_inputs_W: Int[np.ndarray, "W"]) -> int:
    """N·T of windows that are sorted by length."""
    return len(numbers_N) * int(n_inputs_W[numbers_N[-1]])


def windows_of_whole_groups(n_inputs_W: Int[np.ndarray, "W"], budget: int) -> int:
    """How many of the first windows of a text are in groups that end before the last of these."""
    group_W = _groups(n_inputs_W, budget)
    return int(np.searchsorted(group_W, group_W[-1])) if len(group_W) else 0


def _groups(n_inputs_W: Int[np.ndarray, "W"], budget: int) -> Int[np.ndarray, "W"]:
    """The number of each window's group."""
    ends_W = np.cumsum(n_inputs_W)
    group_tokens = max(budget, min(BATCHES_A_GROUP * budget, TOKENS_A_GROUP))
    group_W: Int[np.ndarray, "W"] = (ends_W - n_inputs_W) // group_tokens
    return group_W


def _batches(n_inputs_W: Int[np.ndarray, "W"], budget: int, sharing: Sharing) -> list[PlannedBatch]:
    group_W = _groups(n_inputs_W, budget)
    edges = np.flatnonzero(np.diff(group_W, prepend=-1, append=-1))
    planned = []
    for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        order = begin + np.argsort(n_inputs_W[begin:end], kind="stable")
        parts = cut(order, n_inputs_W, budget, sharing)
        parts.sort(key=lambda numbers_N: int(numbers_N.min()))
        planned += [PlannedBatch(numbers_N, slice(begin, end)) for numbers_N in parts]
    return planned


def cut(
    numbers_N: Int[np.ndarray, "N"],
    n_inputs_W: Int[np.ndarray, "W"],
    budget: int,
    sharing: Sharing = "padded",
) -> list[Int[np.ndarray, "n"]]:
    """Windows, sorted by length, in batches of at most `budget` tokens or one window.

    >>> [part.tolist() for part in cut(np.arange(4), np.array([3, 4, 4, 9]), 12)]
    [[0, 1, 2], [3]]
    """
    edges, tokens, n = [0], 0, 0
    lengths: Sequence[int] = n_inputs_W[numbers_N].tolist()
    for i, length in enumerate(lengths):
        padded = (n + 1) * length
        padding = padded - tokens - length
        if n and (
            padded > budget
            or sharing == "alone"
            or (sharing == "equal lengths" and padding)
            or padding > max(padded // PADDED_PART, budget // PADDED_PART_OF_BUDGET)
        ):
            edges.append(i)
            tokens, n = 0, 0
        tokens, n = tokens + length, n + 1
    return np.split(numbers_N, edges[1:])
