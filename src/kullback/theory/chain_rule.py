r"""What does a sentence cost, token by token?  The chain rule, on a language of eight sentences.

A distribution over sentences is a product of conditionals, so its surprisal is a sum::

    -log q(y₁..y_T) = Σₜ -log q(y_t | y_<t)                       the loss of a language model
    H(p, q) = Σ over prefixes of  P(prefix) · H(p(·|prefix), q(·|prefix))       and so KL, and H

The loss of a model *per token* is the first divided by T; exp of that is its perplexity.  Here both
sides are computed, over whole sentences and over prefixes, for three models: the truth itself, a
bigram model that knows the exact frequencies of pairs of words and forgets the rest, and a uniform
one, which is what an untrained network is.  Nats; sentences end with ``<end>``, which counts.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kullback.errors import InvalidValueError
from kullback.theory.information import entropy, kl_divergence, normalise
from kullback.theory.likelihood import sequence_cross_entropy

__all__ = ["END", "SENTENCES", "Factorisation", "TokenCost", "factorise"]

END = "<end>"
Sentence: TypeAlias = tuple[str, ...]
#: After "once" the tense is open; after the other cues the form of the verb is certain.
SENTENCES: Mapping[Sentence, float] = {
    ("yesterday", "I", "went", END): 0.20,
    ("yesterday", "she", "went", END): 0.20,
    ("today", "I", "go", END): 0.15,
    ("today", "she", "goes", END): 0.15,
    ("once", "I", "went", END): 0.10,
    ("once", "I", "go", END): 0.05,
    ("once", "she", "went", END): 0.10,
    ("once", "she", "goes", END): 0.05,
}


@dataclass(frozen=True)
class TokenCost:
    """One token: -log q(token | before) of the three models, and H and KL(truth‖bigram) there."""

    token: str
    truth: float
    bigram: float
    uniform: float
    entropy: float
    kl: float


@dataclass(frozen=True)
class Factorisation:
    """A sentence, token by token, and the language that it comes from.

    ``totals``, ``per_token`` and ``perplexities`` have the keys truth, bigram and uniform.  The KL
    of a sentence from the bigram model comes twice: between the distributions over sentences, and
    summed over prefixes.  ``entropy_after`` is H of the next word after each prefix there is.
    """

    vocabulary: list[str]
    tokens: list[TokenCost]
    sentence_log_prob: float
    totals: dict[str, float]
    per_token: dict[str, float]
    perplexities: dict[str, float]
    entropy_per_sentence: float
    cross_entropy_per_sentence: float
    kl_per_sentence: float
    kl_over_prefixes: float
    tokens_per_sentence: float
    entropy_after: dict[str, float]


def factorise(sentences: Mapping[Sentence, float], shown: Sentence) -> Factorisation:
    """Factorise the sentence ``shown``, and check the chain rule on all ``sentences``.

    ``sentences`` maps each sentence, a tuple of words with ``END`` last, to its probability.
    Raises InvalidValueError where those do not sum to 1 or ``shown`` is not among the sentences.

    >>> found = factorise(SENTENCES, ("yesterday", "she", "went", END))
    >>> [round(token.bigram, 4) for token in found.tokens]
    [0.9163, 0.6931, 0.5108, 0.0]
    >>> round(found.kl_per_sentence, 6), round(found.kl_over_prefixes, 6)
    (0.482057, 0.482057)
    """
    if not sentences.get(shown):
        raise InvalidValueError(
            f"shown is {' '.join(shown)!r}: it must be one of the {len(sentences)} sentences"
        )
    masses = np.array(list(sentences.values()))
    h = float(entropy(masses))  # which refuses what is no distribution
    vocabulary = sorted({word for sentence in sentences for word in sentence})
    truth = _conditionals(sentences, vocabulary, memory=max(map(len, sentences)))
    bigram = _conditionals(sentences, vocabulary, memory=1)

    rows = []
    for t, token in enumerate(shown):
        p, q, word = truth[shown[:t]], bigram[shown[:t][-1:]], vocabulary.index(token)
        rows.append(
            TokenCost(
                token,
                truth=-math.log(p[word]) + 0.0,
                bigram=-math.log(q[word]) + 0.0,
                uniform=math.log(len(vocabulary)),
                entropy=float(entropy(p)),
                kl=float(kl_divergence(p, q)),
            )
        )
    costs = {
        "truth": sequence_cross_entropy([-row.truth for row in rows]),
        "bigram": sequence_cross_entropy([-row.bigram for row in rows]),
        "uniform": sequence_cross_entropy([-row.uniform for row in rows]),
    }
    ce = math.fsum(
        -mass * math.log(bigram[sentence[:t][-1:]][vocabulary.index(word)])
        for sentence, mass in sentences.items()
        for t, word in enumerate(sentence)
    )
    visits: dict[Sentence, float] = defaultdict(float)
    for sentence, mass in sentences.items():
        for t in range(len(sentence)):
            visits[sentence[:t]] += mass
    return Factorisation(
        vocabulary=vocabulary,
        tokens=rows,
        sentence_log_prob=math.log(sentences[shown]),
        totals={name: cost.total for name, cost in costs.items()},
        per_token={name: cost.per_token for name, cost in costs.items()},
        perplexities={name: cost.perplexity for name, cost in costs.items()},
        entropy_per_sentence=h,
        cross_entropy_per_sentence=ce,
        kl_per_sentence=ce - h,
        kl_over_prefixes=math.fsum(
            mass * kl_divergence(truth[prefix], bigram[prefix[-1:]])
            for prefix, mass in visits.items()
        ),
        tokens_per_sentence=math.fsum(len(s) * mass for s, mass in sentences.items()),
        entropy_after={" ".join(prefix): float(entropy(truth[prefix])) for prefix in visits},
    )


def _conditionals(
    sentences: Mapping[Sentence, float], vocabulary: list[str], memory: int
) -> dict[Sentence, NDArray[np.float64]]:
    """q(next word | the last ``memory`` words), shape (V,), for every context that occurs."""
    masses: dict[Sentence, NDArray[np.float64]] = defaultdict(lambda: np.zeros(len(vocabulary)))
    for sentence, mass in sentences.items():
        for t, word in enumerate(sentence):
            masses[sentence[max(0, t - memory) : t]][vocabulary.index(word)] += mass
    return {context: normalise(row) for context, row in masses.items()}
