"""Mini-GPTs of run folders as language models.

A run folder contains what `kullback train` wrote: weights, sizes and the tokenizer.  It is a
Hugging Face folder too; reading it here does not need transformers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from kullback.errors import InvalidValueError
from kullback.models.interface import Sharing
from kullback.predictions.base import FactoredPredictions, Head
from kullback.runtime.weights import weights_fingerprint
from kullback.text.tokenizer import TextTokenizer
from kullback.training.gpt import GPT
from kullback.training.run_folder import load_model

__all__ = ["GPTModel", "GPTTextModel"]


@dataclass(frozen=True, eq=False)
class GPTModel:
    """A mini-GPT as a language model."""

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

    @property
    def context(self) -> int:
        """The longest sequence that the model was trained on."""
        return self.gpt.config.context

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.gpt.head_weight.device

    @torch.inference_mode()
    def predict(self, inputs_NT: Int[Tensor, "N T"]) -> FactoredPredictions:
        """Hidden states at all positions, and the head."""
        hidden_MD = self.gpt.hidden(inputs_NT).flatten(0, 1)
        if hidden_MD.dtype != torch.float64:
            # The head's arithmetic is that of the hidden states: never 16-bit.
            hidden_MD = hidden_MD.float()
        return FactoredPredictions(hidden_MD, Head(self.gpt.head_weight))


@dataclass(frozen=True, eq=False)
class GPTTextModel(GPTModel):
    """A mini-GPT with the tokenizer of its run folder, which makes it a `TextModel`."""

    tokenizer: TextTokenizer = field(kw_only=True)
    notes: tuple[str, ...] = ()
    factored: bool = True

    @classmethod
    def load(
        cls, run: Path, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
    ) -> GPTTextModel:
        """The model and the tokenizer of a run folder, in `dtype` (None: float32).

        Raises `RunError` where the model is missing or damaged, `InvalidValueError` where the
        tokenizer is, or where it has ids that the model has no row for.
        """
        gpt = load_model(run).to(device=device, dtype=dtype or torch.float32).eval()
        tokenizer = TextTokenizer.load(run)
        if tokenizer.vocabulary_size > gpt.config.vocabulary_size:
            raise InvalidValueError(
                f"the tokenizer of {run} has {tokenizer.vocabulary_size} ids and the model "
                f"predicts {gpt.config.vocabulary_size}: they do not match; restore the run's own "
                "tokenizer.json"
            )
        return cls(gpt.requires_grad_(False), run.name, tokenizer=tokenizer)

    @property
    def dtype(self) -> torch.dtype:
        """The data type of the weights."""
        return self.gpt.head_weight.dtype

    def sharing(self, longest: int) -> Sharing:
        """Padded: attention is causal, and rotations depend on the position alone."""
        return "padded"

    def weights_fingerprint(self) -> str:
        """SHA-256 of the weights."""
        return weights_fingerprint(self.gpt.state_dict())
