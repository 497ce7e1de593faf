"""What is known of a source, and sentences of it, as documents for JSON.

Entropies and surprisals are in nats.
"""

from __future__ import annotations

import math
from typing import TypedDict

import numpy as np

from kullback.errors import InvalidValueError
from kullback.runtime.ranges import SEEDS
from kullback.sources.catalogue import Source
from kullback.sources.language import Language

__all__ = ["SampledSentence", "sampled_sentences", "source_facts"]


class SampledSentence(TypedDict):
    """A sentence, the sum of its true surprisals, and the number of its tokens."""

    text: str
    surprisal: float
    tokens: int


def source_facts(source: Source) -> dict[str, object]:
    """The name of the source, and the exact entropies of its languages."""
    facts: dict[str, object] = {"name": source.name, "training": _facts(source.training)}
    if source.held_out is not None:
        facts["held_out"] = _facts(source.held_out)
    return facts


def sampled_sentences(
    source: Source, n: int, seed: int = 0, held_out: bool = False
) -> list[SampledSentence]:
    """`n` sentences of the training language, or of the held-out one.

    Raises `InvalidValueError` where nothing is held out, and for a negative `n`.
    """
    SEEDS.check("seed", seed)
    language = source.held_out if held_out else source.training
    if language is None:
        raise InvalidValueError("--held-out needs held-out cells: add --holdout CELLS")
    sample = language.sample(n, np.random.default_rng(seed))
    surprisals = sample.surprisals.sum(axis=1).tolist()
    rows = zip(sample.texts(), surprisals, sample.lengths.tolist(), strict=True)
    return [{"text": text, "surprisal": nats, "tokens": length} for text, nats, length in rows]


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
