"""Dropout of what the blocks add to the residual stream.

In training, a fraction of the numbers that a block adds to the residual stream, attention and MLP
together, is set to 0, and the rest are divided by what remains (Srivastava et al. 2014, section
10, "inverted dropout"; Radford et al. 2018 use it on the output of each sub-layer).  Validation
leaves nothing out.

Which numbers these are is a function of the seed, the step, the block, the index of the token in
the batch and the channel alone: a hash, not a generator with a state.  So a resumed run leaves out
the same numbers, as does one whose batch is cut into other pieces, for other threads or processes,
and a block that is computed again for its backward pass.

Axes: M tokens of a piece of a batch, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kullback.runtime.transfers import to_device
from kullback.training.config import DROPOUT_UNITS

__all__ = ["Dropout"]

# Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators": SplitMix64.
_GAMMA = 0x9E3779B97F4A7C15
_FACTORS = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
# Appleby 2011, the finaliser of MurmurHash3 for 32 bits; and the golden ratio in 32 bits.
_FACTORS_32 = 0x85EBCA6B, 0xC2B2AE35
_GOLDEN_32 = 0x9E3779B9


@dataclass(frozen=True)
class Dropout:
    """Of one piece of the batch of a step: its tokens are those from `first_token` on."""

    fraction: float
    """Of the numbers that are left out, in [0, 1); to the nearest multiple of 2^-16."""
    seed: int
    step: int
    first_token: int

    def applied(
        self, block: int, before_MD: Float[Tensor, "M D"], after_MD: Float[Tensor, "M D"]
    ) -> Float[Tensor, "M D"]:
        """The residual stream after the block of that index, less what is left out of it."""
        # before + factor × (after - before)
        return torch.lerp(before_MD, after_MD, self.factors(block, after_MD))

    def factors(self, block: int, like_MD: Float[Tensor, "M D"]) -> Float[Tensor, "M D"]:
        """0 for what is left out, else 1 / (1 - fraction); D is even."""
        M, D = like_MD.shape
        keys_M = to_device(torch.from_numpy(self._keys(block, M)), like_MD.device)
        pairs = torch.arange(D // 2, device=like_MD.device, dtype=torch.int32)
        bits = keys_M[:, None] ^ (pairs * _signed(_GOLDEN_32))
        first, second = (_signed(factor) for factor in _FACTORS_32)
        bits ^= (bits >> 16) & 0xFFFF
        bits *= first
        bits ^= (bits >> 13) & 0x7FFFF
        bits *= second
        bits ^= (bits >> 16) & 0xFFFF
        # Of 32 bits each half decides about one channel.
        left_out = round(self.fraction * DROPOUT_UNITS)
        kept_MD = bits.view(torch.int16) >= left_out - DROPOUT_UNITS // 2
        return kept_MD.to(like_MD.dtype).mul_(1.0 / (1.0 - self.fraction))

    def _keys(self, block: int, tokens: int) -> Int[np.ndarray, "M"]:
        """32 bits for each token."""
        key = np.zeros(1, dtype=np.uint64)
        for part in (self.seed, self.step, block):
            key = _mixed(key ^ np.uint64(part))
        indices = np.arange(self.first_token, self.first_token + tokens, dtype=np.uint64)
        return (_mixed(key + indices * np.uint64(_GAMMA)) >> np.uint64(32)).astype(np.int32)


def _mixed(x: Int[np.ndarray, "M"]) -> Int[np.ndarray, "M"]:
    """SplitMix64 of each number, modulo 2^64."""
    x = x + np.uint64(_GAMMA)
    for shift, factor in zip((30, 27), _FACTORS, strict=True):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    mixed: Int[np.ndarray, "M"] = x ^ (x >> np.uint64(31))
    return mixed


def _signed(bits: int) -> int:
    """The number that 32 bits are in two's complement."""
    return bits - (1 << 32) if bits >> 31 else bits
