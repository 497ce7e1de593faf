"""What is known of a source, and sentences of it, as documents for JSON.

Entropies and surprisals are in nats.
"""

from __future__ import annotations

import math
from typing import TypedDict

import numpy as np

from kullback.errors import InvalidValueError
from kullback.runtime.ranges import SEEDS
from kullback.sources.catalogue import AnySource
from kullback.sources.language import Language
from kullback.sources.mixed_states import EntropyBounds
from kullback.sources.process import Process, check_window

__all__ = ["WINDOW", "SampledSentence", "bounds", "sampled_sentences", "source_facts", "window_of"]

WINDOW = 64
"""Symbols of a window of a process, unless another number is given."""


class SampledSentence(TypedDict):
    """A sentence, the sum of its true surprisals, and the number of its tokens."""

    text: str
    surprisal: float
    tokens: int


def source_facts(source: AnySource, window: int | None = None) -> dict[str, object]:
    """The name of the source, and the exact entropies of its languages, or of its windows.

    `window` is the number of symbols of a window of a process (default: 64); `InvalidValueError`
    where it is given for a source of sentences.
    """
    if isinstance(source, Process):
        return _process_facts(source, window_of(source, window))
    window_of(source, window)
    facts: dict[str, object] = {"name": source.name, "training": _facts(source.training)}
    if source.held_out is not None:
        facts["held_out"] = _facts(source.held_out)
    return facts


def window_of(source: AnySource, window: int | None, or_text: bool = False) -> int:
    """The symbols of a window of a process; `InvalidValueError` for one of sentences.

    `or_text` is whether a text could have been given instead.
    """
    if isinstance(source, Process):
        window = WINDOW if window is None else window
        check_window(window)
        return window
    if window is not None:
        other = ", or for a text (--text FILE)" if or_text else "; leave it out"
        raise InvalidValueError(
            f"--window is {window}: {source.name} is made of sentences, and a window is for a "
            f"process{other}"
        )
    return 0


def sampled_sentences(
    source: AnySource,
    n: int,
    seed: int = 0,
    held_out: bool = False,
    window: int | None = None,
) -> list[SampledSentence]:
    """`n` sentences of the training language, or of the held-out one; `n` windows of a process.

    The first symbol of a window is given and not counted.  Raises `InvalidValueError` where nothing
    is held out, and for a negative `n`.
    """
    SEEDS.check("seed", seed)
    window = window_of(source, window)
    if isinstance(source, Process):
        if held_out:
            raise InvalidValueError(
                "--held-out needs held-out cells, which a process does not have"
            )
        symbols = source.sample(n, window, np.random.default_rng(seed))
        nats = source.predictor.surprisals(symbols).sum(axis=1).tolist()
        texts = (" ".join(source.symbols[i] for i in row) for row in symbols.tolist())
        return [
            {"text": text, "surprisal": surprisal, "tokens": window - 1}
            for text, surprisal in zip(texts, nats, strict=True)
        ]
    language = source.held_out if held_out else source.training
    if language is None:
        raise InvalidValueError("--held-out needs held-out cells: add --holdout CELLS")
    sample = language.sample(n, np.random.default_rng(seed))
    surprisals = sample.surprisals.sum(axis=1).tolist()
    rows = zip(sample.texts(), surprisals, sample.lengths.tolist(), strict=True)
    return [{"text": text, "surprisal": nats, "tokens": length} for text, nats, length in rows]


def _process_facts(process: Process, window: int) -> dict[str, object]:
    return {
        "name": process.name,
        "vocabulary": list(process.vocabulary),
        "states": len(process.states),
        "beliefs": process.predictor.beliefs,
        "entropy_rate": bounds(process.entropy_rate),
        "window": window,
        "entropy_per_token": bounds(process.window_entropy(window)),
        "conditional_entropies": [bounds(h) for h in process.conditional_entropies(window)],
        "block_entropies": [bounds(block) for block in process.block_entropies(window)],
    }


def bounds(entropy: EntropyBounds) -> dict[str, float]:
    """An entropy in nats, and the most by which it is off."""
    return {"nats": entropy.value, "error": entropy.error}


def _facts(language: Language) -> dict[str, object]:
    slots = language.entropy_by_slot()
    return {
        "vocabulary": list(language.vocabulary),
        "number_of_sentences": _exact(language.number_of_sentences),
        "number_of_prefixes": _exact(language.number_of_prefixes),
        "tokens_per_sentence": language.tokens_per_sentence,
        "entropy_per_sentence": language.entropy_per_sentence,
        "entropy_per_token": language.entropy_per_token,
        "slots": {name: slot._asdict() for name, slot in slots.items()},
    }


def _exact(number: float | int) -> float | int | str:
    """An exact integer, or a string where Python writes no number of so many digits."""
    return number if number == math.inf or number < 10**4000 else f"10^{math.log10(number):.3f}"
