"""Sentences sampled from a model, token by token."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from kullback.errors import InvalidValueError
from kullback.runtime.limits import check_fits
from kullback.runtime.ranges import SEEDS, SENTENCES, TEMPERATURES
from kullback.text.piece_encoders import is_of_characters
from kullback.text.special_tokens import BOS_ID, EOS_ID
from kullback.training.gpt import GPT
from kullback.training.gpt_config import GPTConfig
from kullback.training.run_folder import load_model, load_tokenizer, read_json

__all__ = ["generate", "sample_texts"]


def sample_texts(
    run: str | Path, prompt: str = "", n: int = 10, temperature: float = 1.0, seed: int = 0
) -> list[str]:
    """`n` sentences of the model in a run folder that begin with `prompt`, as text.

    Raises `RunError` where the run is missing or damaged, `InvalidValueError` for a word of the
    prompt that is not in the vocabulary of a source, and for what `generate` refuses.
    """
    run = Path(run)
    SENTENCES.check("n", n)
    TEMPERATURES.check("temperature", temperature)
    SEEDS.check("seed", seed)
    gpt = load_model(run)
    tokenizer = load_tokenizer(run / "tokenizer.json")
    vocabulary = tokenizer.get_vocab()
    description = json.loads(tokenizer.to_str())
    words: Iterable[str] = ()
    if description["model"]["type"] == "WordLevel":
        words = prompt if is_of_characters(description) else prompt.split()
    for word in words:
        if word not in vocabulary:
            raise InvalidValueError(
                f"the prompt's word {word!r} is not in the vocabulary of {run} "
                f"({len(vocabulary)} tokens)"
            )
    token_ids = tokenizer.encode(prompt, add_special_tokens=False).ids
    config = read_json(run / "config.json")
    special = tuple(config.get(f"{name}_token_id") for name in ("bos", "eos"))
    rng = np.random.default_rng(seed)
    sentences = generate(gpt, token_ids, n, rng, temperature, (special[0], special[1]))
    return [tokenizer.decode(sentence) for sentence in sentences]


@torch.inference_mode()
def generate(
    gpt: GPT,
    prompt: Sequence[int],
    n: int,
    rng: np.random.Generator,
    temperature: float = 1.0,
    special_ids: tuple[int | None, int | None] = (BOS_ID, EOS_ID),
) -> list[list[int]]:
    """`n` sentences that begin with `prompt` (token ids, without BOS), as token ids.

    `special_ids` are those of BOS and EOS, None where the tokenizer has none; without BOS a
    sentence begins after EOS, without either with the prompt.

    Tokens are sampled from softmax(logits / temperature); temperature 0 takes the most probable
    token.  A sentence ends before its end-of-sentence token, or with the token that follows as many
    as the model's context has.  Raises `InvalidValueError` for a prompt that is longer than the
    context or has unknown ids, a temperature that is negative or not finite, or n < 1.
    """
    SENTENCES.check("n", n)
    TEMPERATURES.check("temperature", temperature)
    for position, token in enumerate(prompt):
        if not 0 <= token < gpt.config.vocabulary_size:
            raise InvalidValueError(
                f"prompt[{position}] is {token}: the model's ids are 0 to "
                f"{gpt.config.vocabulary_size - 1}; use the tokenizer of its own folder"
            )
    bos, eos = special_ids
    first = eos if bos is None else bos
    if first is None and not prompt:
        raise InvalidValueError(
            "the prompt is empty, and the model's tokenizer has neither BOS nor EOS to begin with: "
            "give a prompt"
        )
    given = [*([] if first is None else [first]), *prompt]
    if len(given) > gpt.config.context:
        beginning = "" if first is None else ", and another token is before it"
        raise InvalidValueError(
            f"the prompt has {len(prompt)} tokens: the model's context is {gpt.config.context}"
            f"{beginning}; shorten the prompt"
        )
    _check_memory(gpt.config, n, len(given))
    tokens_NT = torch.tensor([given] * n)
    sentences: list[list[int]] = [list(prompt) for _ in range(n)]
    alive = np.arange(n)
    while len(alive) and tokens_NT.shape[1] <= gpt.config.context:
        _check_memory(gpt.config, *tokens_NT.shape)
        hidden_ND = gpt.hidden(tokens_NT)[:, -1]
        logits_NV = (hidden_ND @ gpt.head_weight.T).double()
        if bos is not None and bos != eos:
            logits_NV[:, bos] = -torch.inf  # BOS only begins a sequence
        if temperature == 0:
            chosen_N = logits_NV.argmax(dim=1).numpy()
        else:
            # The Gumbel-max trick: argmax(logits + noise) is a sample of the softmax.
            # Relative to the largest logit, so that no small temperature overflows.
            logits_NV -= logits_NV.amax(dim=1, keepdim=True)
            noise = rng.gumbel(size=logits_NV.shape)
            chosen_N = (logits_NV / temperature + torch.from_numpy(noise)).argmax(dim=1).numpy()
        continuing = chosen_N != (-1 if eos is None else eos)
        for row, token in zip(alive[continuing], chosen_N[continuing], strict=True):
            sentences[row].append(int(token))
        alive = alive[continuing]
        chosen = torch.from_numpy(chosen_N[continuing])[:, None]
        tokens_NT = torch.cat([tokens_NT[torch.from_numpy(continuing)], chosen], dim=1)
    return sentences


def _check_memory(config: GPTConfig, n: int, tokens: int) -> None:
    """Raise `InvalidValueError` where `n` sentences of `tokens` tokens do not fit into memory.

    Of a token, activations of the widest part of a block; of a sentence, two rows of logits.
    """
    activations = 4 * max(8 * config.width, 2 * config.width + 3 * config.mlp_width)
    check_fits(
        n * (tokens * activations + 16 * config.vocabulary_size),
        f"{n:,} sentences of {tokens} tokens at once",
        "ask for fewer sentences (-n), several times with other seeds",
    )
