"""Our own runs as language models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from kullback.gpt import GPT
from kullback.models.base import FactoredPredictions, Head
from kullback.run_folder import load_model

__all__ = ["GPTModel"]


@dataclass(frozen=True, eq=False)
class GPTModel:
    """A mini-GPT, ready to be measured."""

    gpt: GPT
    name: str = "mini-GPT"

    @classmethod
    def load(cls, run: Path) -> GPTModel:
        """The model in a run folder; `RunError` where that is missing or damaged."""
        return cls(load_model(run), run.name)

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.gpt.config.vocabulary_size

    @torch.inference_mode()
    def predict(self, inputs_NT: Int[Tensor, "N T"]) -> FactoredPredictions:
        """Hidden states at all positions, and the head."""
        hidden_MD = self.gpt.hidden(inputs_NT).flatten(0, 1)
        return FactoredPredictions(hidden_MD, Head(self.gpt.head_weight))
