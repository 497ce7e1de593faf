"""What a pass layer by layer reads, holds and takes, decided before it starts."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from kullback.models.hidden_states import Place
from kullback.runtime.byte_sizes import shown_bytes
from kullback.runtime.fast_linear import linear
from kullback.runtime.free_memory import available_memory
from kullback.runtime.temporary import temporary_folder
from kullback.runtime.threads import cores

__all__ = ["Plan", "Sizes", "estimated_seconds"]

# What the activations of a layer and the interpreter take beside weights and hidden states.
RESERVE = 256 << 20
# The width of a product that takes about 20 ms on one core.
TRIAL = 1024


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of a model's parts and of a text, in bytes."""

    read: int
    """All that is read of the files."""
    kept: int
    """Weights that are in memory all the time."""
    ends: int
    """The embedding or the head, whichever is larger."""
    layer: int
    """The largest layer, loaded."""
    stored_layer: int
    """The largest layer, as it is stored."""
    hidden: int
    """The hidden states of the text."""

    @property
    def weights(self) -> int:
        """The most that weights take at a time; a layer is stored and converted for a moment."""
        return self.kept + max(self.ends, self.layer + self.stored_layer)


@dataclass(frozen=True)
class Plan:
    """Where hidden states are between layers, and whether the next layer is read ahead."""

    sizes: Sizes
    place: Place
    ahead: bool

    @classmethod
    def of(cls, sizes: Sizes, device: torch.device) -> Plan:
        """The fastest that fits the memory that is free now."""
        host = available_memory()
        if device.type == "cpu":
            free = host - sizes.weights - RESERVE
            in_memory = sizes.hidden <= 0.9 * free
            left = free - (sizes.hidden if in_memory else 0)
            return cls(sizes, "memory" if in_memory else "disk", sizes.stored_layer <= 0.9 * left)
        ahead = sizes.stored_layer <= 0.5 * host
        if device.type == "cuda":
            free = torch.cuda.mem_get_info(device)[0] - sizes.weights - 8 * RESERVE
            if sizes.hidden <= 0.5 * free:
                return cls(sizes, "device", ahead)
        return cls(sizes, "memory" if sizes.hidden <= 0.5 * host else "disk", ahead)

    def announcement(self, name: str, layers: int, tokens: int, seconds: float) -> str:
        """What the user should know before it starts."""
        place = {"device": "on the device", "memory": "in memory"}.get(self.place)
        if place is None:
            place = f"in a temporary file in {temporary_folder()}, removed at the end"
        held = self.sizes.weights + (self.sizes.stored_layer if self.ahead else 0)
        return (
            f"{name} is read layer by layer, {layers} of them: {shown_bytes(self.sizes.read)} of "
            f"weights from disk, at most {shown_bytes(held)} of them in memory at a time; the "
            f"hidden states of {tokens:,} tokens take {shown_bytes(self.sizes.hidden)} {place}; "
            f"about {_duration(seconds)}"
        )


def estimated_seconds(
    weights: int, tokens: int, read_bytes: int, bytes_per_second: float,
    dtype: torch.dtype, device: torch.device,
) -> float:  # fmt: skip
    """The time of two products and sums a weight and token, and of reading, from short trials."""
    matrix = torch.ones(TRIAL, TRIAL, dtype=dtype, device=device)
    best = float("inf")
    with torch.inference_mode():
        for _ in range(3):
            began = time.perf_counter()
            float(linear(matrix, matrix, None)[0, 0])  # waits for an accelerator
            best = min(best, time.perf_counter() - began)
    threads = cores() if device.type == "cpu" else 1
    products = 2 * weights * tokens / (2 * TRIAL**3 / best) / threads
    return products + read_bytes / bytes_per_second


def _duration(seconds: float) -> str:
    """In a unit that suits it.

    >>> _duration(0.3), _duration(40), _duration(600), _duration(20_000)
    ('2 seconds', '40 seconds', '10 minutes', '5.6 hours')
    """
    if seconds < 90:
        return f"{max(seconds, 2):.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
