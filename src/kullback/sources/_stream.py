"""Sampling of hidden Markov processes without a loop over the symbols.

A step with the random number u is a map of states to states.  A stream is cut into K segments that
are computed together, each from every state that it may begin in with the *same* random numbers;
then the K segments are joined one after the other.  Paths that have met stay together, so after a
few steps there is mostly one path for each segment.

Axes: K segments, N windows, T positions, V symbols, S states, A arcs, R paths of a segment.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

__all__ = ["StreamSampler"]

# Segments that are computed together: their arrays stay in the cache.
SEGMENTS = 4096


class StreamSampler:
    """One endless sample of a process; the same seed and the same pieces give the same symbols."""

    def __init__(
        self,
        transitions: Float[np.ndarray, "V S S"],
        stationary: Float[np.ndarray, "S"],
        rng: np.random.Generator,
    ) -> None:
        states, targets, symbols = np.nonzero(transitions.transpose(1, 2, 0) > 0)
        p_A = transitions[symbols, states, targets]
        self._symbols, self._targets = symbols, targets
        degrees = np.bincount(states, minlength=len(stationary))
        self._last = np.cumsum(degrees) - 1
        # The arcs of state s are in [s, s + 1): one search finds state and arc.
        sums = np.cumsum(p_A)
        before = np.concatenate([[0.0], sums[self._last]])[states]
        total = np.diff(np.concatenate([[0.0], sums[self._last]]))[states]
        self._edges = states + (sums - before) / total
        self._rng = rng
        self._stationary = stationary
        self._state = int(rng.choice(len(stationary), p=stationary))

    def _arcs(
        self, states: Int[np.ndarray, "..."], draws: Float[np.ndarray, "..."]
    ) -> Int[np.ndarray, "..."]:
        arcs = np.searchsorted(self._edges, states + draws, side="right")
        # A draw next to 1 may be rounded up to the next state.
        chosen: np.ndarray = np.minimum(arcs, self._last[states])
        return chosen

    def windows(self, n: int, length: int) -> Int[np.ndarray, "N T"]:
        """`n` independent windows of `length` symbols; the stream does not move."""
        states = self._rng.choice(len(self._stationary), size=n, p=self._stationary)
        symbols = np.empty((n, length), dtype=np.int64)
        for t in range(length):
            arcs = self._arcs(states, self._rng.random(n))
            symbols[:, t], states = self._symbols[arcs], self._targets[arcs]
        return symbols

    def read(self, n: int) -> Int[np.ndarray, "n"]:
        """The next `n` symbols of the stream, as numbers of symbols."""
        segments = min(SEGMENTS, n)
        steps = -(-n // segments)
        paths_KR = np.tile(np.arange(len(self._stationary)), (segments, 1))
        column_KS = paths_KR.copy()  # the path of each state that a segment may begin in
        blocks: list[tuple[np.ndarray, list[np.ndarray]]] = [(column_KS, [])]
        for step in range(steps):
            # Paths that have met are joined after 1, 2, 4, 8, ... steps.
            if paths_KR.shape[1] > 1 and step & (step - 1) == 0:
                paths_KR, column_KR = _joined(paths_KR)
                column_KS = np.take_along_axis(column_KR, column_KS, axis=1)
                blocks.append((column_KS, []))
            arcs_KR = self._arcs(paths_KR, self._rng.random((segments, 1)))
            blocks[-1][1].append(arcs_KR)
            paths_KR = self._targets[arcs_KR]
        starts = self._starts(paths_KR, column_KS)
        arcs = np.empty((segments, steps), dtype=np.int64)
        rows, step = np.arange(segments), 0
        for column_KS, block in blocks:
            columns = column_KS[rows, starts]
            for arcs_KR in block:
                arcs[:, step] = arcs_KR[rows, columns]
                step += 1
        used = arcs.reshape(-1)[:n]
        self._state = int(self._targets[used[-1]])
        symbols: np.ndarray = self._symbols[used]
        return symbols

    def _starts(
        self, paths_KR: Int[np.ndarray, "K R"], column_KS: Int[np.ndarray, "K S"]
    ) -> Int[np.ndarray, "K"]:
        """The state that each segment begins in: the one that the segment before it ends in."""
        starts, state = [], self._state
        for ends, columns in zip(paths_KR.tolist(), column_KS.tolist(), strict=True):
            starts.append(state)
            state = ends[columns[state]]
        return np.array(starts)


def _joined(
    paths_KR: Int[np.ndarray, "K R"],
) -> tuple[Int[np.ndarray, "K Q"], Int[np.ndarray, "K R"]]:
    """The different paths of each segment, padded with the last one, and where each path went."""
    order = np.argsort(paths_KR, axis=1, kind="stable")
    sorted_KR = np.take_along_axis(paths_KR, order, axis=1)
    label_KR = np.zeros_like(paths_KR)
    np.cumsum(sorted_KR[:, 1:] != sorted_KR[:, :-1], axis=1, out=label_KR[:, 1:])
    column_KR = np.empty_like(label_KR)
    np.put_along_axis(column_KR, order, label_KR, axis=1)
    joined = np.repeat(sorted_KR[:, -1:], int(label_KR.max()) + 1, axis=1)
    np.put_along_axis(joined, label_KR, sorted_KR, axis=1)
    return joined, column_KR
