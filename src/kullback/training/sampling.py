"""Sentences from a model: sample the next token from its distribution until it ends."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from kullback.errors import InvalidValueError
from kullback.text.special_tokens import BOS_ID, EOS_ID
from kullback.training.gpt import GPT

__all__ = ["generate"]


@torch.inference_mode()
def generate(
    gpt: GPT,
    prompt: Sequence[int],
    n: int,
    rng: np.random.Generator,
    temperature: float = 1.0,
) -> list[list[int]]:
    """`n` sentences that begin with `prompt` (token ids, without the beginning token).

    Each is sampled from softmax(logits / temperature); temperature 0 takes the most probable token.
    A sentence ends before the end-of-sentence token, or where the model's context does.  Raises
    `InvalidValueError` for a prompt that fills the context or has ids that the model has not, a
    temperature that is negative or not finite, or n < 1.
    """
    if n < 1:
        raise InvalidValueError(f"n is {n}: at least one sentence must be asked for")
    if not 0 <= temperature < math.inf:
        raise InvalidValueError(f"temperature is {temperature}: it must be finite, at least 0")
    for place, token in enumerate(prompt):
        if not 0 <= token < gpt.config.vocabulary_size:
            raise InvalidValueError(
                f"prompt[{place}] is {token}: the model's ids are 0 to "
                f"{gpt.config.vocabulary_size - 1}; use the tokenizer of its own folder"
            )
    if len(prompt) + 1 >= gpt.config.context:
        raise InvalidValueError(
            f"the prompt has {len(prompt)} tokens: the model's context is {gpt.config.context}, "
            "and one place must be left to go on; shorten the prompt"
        )
    tokens_NT = torch.tensor([[BOS_ID, *prompt]] * n)
    sentences: list[list[int]] = [list(prompt) for _ in range(n)]
    alive = np.arange(n)
    while len(alive) and tokens_NT.shape[1] < gpt.config.context:
        hidden_ND = gpt.hidden(tokens_NT)[:, -1]
        logits_NV = (hidden_ND @ gpt.head_weight.T).double()
        logits_NV[:, BOS_ID] = -torch.inf  # it stands only in front
        if temperature == 0:
            chosen_N = logits_NV.argmax(dim=1).numpy()
        else:
            # The Gumbel-max trick: argmax(logits + noise) is a sample of the softmax.
            # From the largest logit down, so that no small temperature makes an infinity.
            logits_NV -= logits_NV.amax(dim=1, keepdim=True)
            noise = rng.gumbel(size=logits_NV.shape)
            chosen_N = (logits_NV / temperature + torch.from_numpy(noise)).argmax(dim=1).numpy()
        going_on = chosen_N != EOS_ID
        for row, token in zip(alive[going_on], chosen_N[going_on], strict=True):
            sentences[row].append(int(token))
        alive = alive[going_on]
        chosen = torch.from_numpy(chosen_N[going_on])[:, None]
        tokens_NT = torch.cat([tokens_NT[torch.from_numpy(going_on)], chosen], dim=1)
    return sentences
