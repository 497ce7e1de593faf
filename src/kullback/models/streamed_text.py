"""What a streamed model has read: inputs, each different one once, and their hidden states.

Axes: N sequences, T positions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from kullback.models.hidden_states import HiddenStates

__all__ = ["Text"]


class Text:
    """Inputs, then short ones to check the model with, by their numbers; found by their ids."""

    hidden: HiddenStates
    """Of every number, after the last layer that has run."""

    def __init__(
        self,
        inputs: Sequence[Int[np.ndarray, "N T"]],
        probes: Sequence[Int[Tensor, "N T"]],
    ) -> None:
        self._inputs, self._probes = inputs, probes
        self._numbers: dict[bytes, int] = {}
        self._places: list[int] = []
        self.shapes: list[tuple[int, int]] = []
        """N and T."""
        for place in range(len(inputs)):
            ids_NT = inputs[place]
            if self._numbers.setdefault(_key(ids_NT), len(self._places)) == len(self._places):
                self._places.append(place)
                self.shapes.append((len(ids_NT), ids_NT.shape[1]))
        self.first_probe = len(self._places)
        for i, probe_NT in enumerate(probes):
            self._numbers.setdefault(_key(probe_NT.cpu().numpy()), self.first_probe + i)
            self.shapes.append((len(probe_NT), probe_NT.shape[1]))

    @property
    def tokens(self) -> int:
        """All of them."""
        return sum(n * t for n, t in self.shapes)

    @property
    def longest(self) -> int:
        """The most tokens of a sequence."""
        return max(t for _, t in self.shapes)

    def ids(self, i: int) -> Int[Tensor, "N T"]:
        """Input `i`."""
        if i >= self.first_probe:
            return self._probes[i - self.first_probe]
        return torch.from_numpy(self._inputs[self._places[i]])

    def find(self, ids_NT: Int[Tensor, "N T"]) -> int | None:
        """The number of an input with these ids; None where there is none."""
        return self._numbers.get(_key(ids_NT.cpu().numpy()))

    def has(self, inputs: Sequence[Int[np.ndarray, "N T"]]) -> bool:
        """Whether all of these are there."""
        return all(_key(inputs[i]) in self._numbers for i in range(len(inputs)))


def _key(ids_NT: Int[np.ndarray, "N T"]) -> bytes:
    digest = hashlib.blake2b(str(ids_NT.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(ids_NT, np.int64).tobytes())
    return digest.digest()
