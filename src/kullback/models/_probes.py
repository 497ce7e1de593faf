"""Short inputs that a model is tried with before it reads a text.

Axes: T positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from kullback.models._context import configured_context

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from kullback.text.tokenizer import TextTokenizer

__all__ = ["changed", "probe_of", "probes_of"]

PROBE_TOKENS = 12
RESERVED = 4


def probes_of(
    model: PreTrainedModel, tokenizer: TextTokenizer, device: torch.device
) -> list[Int[Tensor, "1 T"]]:
    """The short inputs that `HuggingFaceModel.wrap` tries a model with."""
    config = model.config.get_text_config(decoder=True)
    probe_1T = probe_of(min(config.vocab_size, tokenizer.vocabulary_size), config, device)
    return [probe_1T, changed(probe_1T)]


def changed(probe_1T: Int[Tensor, "1 T"]) -> Int[Tensor, "1 T"]:
    """A probe with the same first half, and the rest in another order."""
    half = probe_1T.shape[1] // 2
    return torch.cat([probe_1T[:, :half], probe_1T[:, half:].flip(1).roll(1, 1)], dim=1)


def probe_of(
    vocabulary_size: int, config: PreTrainedConfig, device: torch.device
) -> Int[Tensor, "1 T"]:
    """Distinct ids from all over the vocabulary, as far as it and the context go."""
    # Of a short context some positions may be none (`kullback.models._context`).
    context = max(1, (configured_context(config) or 2 * PROBE_TOKENS) - RESERVED)
    T = min(PROBE_TOKENS, vocabulary_size, context)
    return (torch.arange(T, device=device) * (vocabulary_size // T))[None]
