"""RoPE whose frequencies depend on the length of the input, computed anew for every input.

The layers of transformers keep these frequencies: LongRoPE those of the last input, dynamic NTK
those of the longest one so far.  Threads share the layers, so that an input of another length
would change the numbers of the one that is being read.  Inputs get what they get by themselves:
one is read at a time, and the layers forget the one before.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from kullback.models.batch_probe import scales_with_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["LengthScaling"]

# Frequencies as they are made from the configuration; models with several kinds of layers have a
# set for each, whose names begin with the kind.
ORIGINAL = "original_inv_freq"

# Several adapters may have one model.
_lock = threading.RLock()


class LengthScaling:
    """The layers of `model` that keep frequencies of the length of an input, where it has any."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.is_used = scales_with_length(model.config)
        """Whether the configuration scales positions by the length of the input."""
        self._layers: list[nn.Module] = []
        if self.is_used:
            self._layers = [module for module in model.modules() if _kinds(module)]

    def notes(self, name: str) -> list[str]:
        """What the user must know of a model called `name` whose own code keeps frequencies."""
        if not self.is_used or self._layers:
            return []
        return [
            f"positions of {name} are scaled by the length of its input, by code of its own: where "
            "that keeps the scale of a longer window, the numbers depend on the order of windows"
        ]

    @contextmanager
    def anew(self) -> Iterator[None]:
        """Lets one input be read as if it were the first."""
        if not self.is_used:
            yield
            return
        with _lock:
            self.forget()
            yield

    def forget(self) -> None:
        """Let all layers have the frequencies that they were made with."""
        for layer in self._layers:
            _forget(layer)


def _kinds(module: nn.Module) -> list[str]:
    """What the names of the frequencies of a layer begin with."""
    names = [*module._buffers, *vars(module)]
    return [name.removesuffix(ORIGINAL) for name in names if name.endswith(ORIGINAL)]


def _forget(layer: Any) -> None:
    for kind in _kinds(layer):
        own, original = f"{kind}inv_freq", getattr(layer, f"{kind}{ORIGINAL}")
        # A buffer of its own, since LongRoPE writes into it, in training too.
        with torch.inference_mode(False):
            layer.register_buffer(own, original.clone(), persistent=False)
        # Of a model that is streamed, made where tensors have no numbers.
        vars(layer).pop(f"{kind}long_inv_freq", None)
        if kind:
            vars(layer).pop(f"{kind}max_seq_len_cached", None)
    if hasattr(layer, "original_max_seq_len"):
        layer.max_seq_len_cached = layer.original_max_seq_len
