r"""The chain rule of probability: the loss of a sentence, token by token, in nats.

A distribution over sentences is a product of conditional distributions, so its surprisal is a sum::

    -log q(y₁..y_T) = Σₜ -log q(y_t | y_<t)                       the loss of a language model
    H(p, q) = Σ over prefixes of  P(prefix) · H(p(·|prefix), q(·|prefix))       and so KL, and H

The loss *per token* is the first divided by T; exp of it is the perplexity.  Both sides are
computed here, over sentences and over prefixes, for three models of a language of eight sentences:
the truth itself, a bigram model that has the exact frequencies of pairs of tokens and ignores
everything before, and the uniform model, which an untrained network is close to.  Sentences end
with ``<end>``, which is a token.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from kullback.errors import InvalidValueError
from kullback.theory._types import FloatArray
from kullback.theory.information import entropy, kl_divergence, normalise
from kullback.theory.likelihood import sequence_cross_entropy

__all__ = ["END", "SENTENCES", "Factorisation", "TokenCost", "factorise"]

END = "<end>"
Sentence: TypeAlias = tuple[str, ...]
Conditionals: TypeAlias = Mapping[Sentence, FloatArray]

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
    """A token: -log q(token | prefix) of the three models, and H and KL(truth‖bigram) there."""

    token: str
    truth: float
    bigram: float
    uniform: float
    entropy: float
    kl: float


@dataclass(frozen=True)
class Factorisation:
    """A sentence, token by token, and the entropies of the language that it comes from.

    ``totals``, ``per_token`` and ``perplexities`` have the keys truth, bigram and uniform.  The KL
    from the truth to the bigram model is given twice: between the distributions over sentences, and
    summed over prefixes.  ``entropy_after`` maps each prefix to the entropy of its next token.
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

    ``sentences`` maps each sentence, a tuple of tokens with ``END`` last, to its probability.
    Raises InvalidValueError where these do not sum to 1 or ``shown`` is not among the sentences.
    Source: Cover and Thomas (2006), theorems 2.5.1 and 2.5.3.

    >>> result = factorise(SENTENCES, ("yesterday", "she", "went", END))
    >>> [round(token.bigram, 4) for token in result.tokens]
    [0.9163, 0.6931, 0.5108, 0.0]
    >>> round(result.kl_per_sentence, 6), round(result.kl_over_prefixes, 6)
    (0.482057, 0.482057)
    """
    if not sentences.get(shown):
        raise InvalidValueError(
            f"shown is {' '.join(shown)!r}: it must be one of the {len(sentences)} sentences"
        )
    h = float(entropy(np.array(list(sentences.values()))))  # raises if it is not a distribution
    vocabulary = sorted({token for sentence in sentences for token in sentence})
    truth = _conditionals(sentences, vocabulary, memory=max(map(len, sentences)))
    bigram = _conditionals(sentences, vocabulary, memory=1)
    rows = _token_costs(shown, vocabulary, truth, bigram)
    costs = {
        "truth": sequence_cross_entropy([-row.truth for row in rows]),
        "bigram": sequence_cross_entropy([-row.bigram for row in rows]),
        "uniform": sequence_cross_entropy([-row.uniform for row in rows]),
    }
    ce = math.fsum(
        -mass * math.log(bigram[sentence[:t][-1:]][vocabulary.index(token)])
        for sentence, mass in sentences.items()
        for t, token in enumerate(sentence)
    )
    visits = _prefix_masses(sentences)
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


def _token_costs(
    shown: Sentence, vocabulary: list[str], truth: Conditionals, bigram: Conditionals
) -> list[TokenCost]:
    rows = []
    for t, token in enumerate(shown):
        p, q, column = truth[shown[:t]], bigram[shown[:t][-1:]], vocabulary.index(token)
        rows.append(
            TokenCost(
                token,
                truth=-math.log(p[column]) + 0.0,
                bigram=-math.log(q[column]) + 0.0,
                uniform=math.log(len(vocabulary)),
                entropy=float(entropy(p)),
                kl=float(kl_divergence(p, q)),
            )
        )
    return rows


def _prefix_masses(sentences: Mapping[Sentence, float]) -> dict[Sentence, float]:
    """P(a sentence has this prefix and a token after it), for every prefix."""
    masses: dict[Sentence, float] = defaultdict(float)
    for sentence, mass in sentences.items():
        for t in range(len(sentence)):
            masses[sentence[:t]] += mass
    return masses


def _conditionals(
    sentences: Mapping[Sentence, float], vocabulary: list[str], memory: int
) -> Conditionals:
    """q(next token | the last ``memory`` tokens), shape (V,), for every context that occurs."""
    masses: dict[Sentence, FloatArray] = defaultdict(lambda: np.zeros(len(vocabulary)))
    for sentence, mass in sentences.items():
        for t, token in enumerate(sentence):
            masses[sentence[max(0, t - memory) : t]][vocabulary.index(token)] += mass
    return {context: normalise(row) for context, row in masses.items()}
