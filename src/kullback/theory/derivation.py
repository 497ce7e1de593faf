r"""The derivation of the cross-entropy loss, step by step, in numbers.

Every step computes both sides of its claim by independent methods and returns the numbers;
``docs/derivation.md`` is the same argument in words::

    definition       surprisal -log p, entropy, cross-entropy            H(p, q) ≠ H(q, p)
    decomposition    H(p, q) = H(p) + KL(p‖q)
    Gibbs            KL(p‖q) ≥ 0, with equality only at q = p: random models
    likelihood       argmax Π q(yₙ) = argmin H(p̂, q), by three methods; and given an input
    gradient         ∂L/∂zᵢ = qᵢ - 1[i = y], by five methods
    asymptotics      excess loss of the fit ≈ (K - 1)/2N, simulated over N
    sequence         -log q(y₁..y_T) = Σₜ -log q(y_t | y_<t), per token, and the perplexity

:func:`derive` computes all steps for a truth p and a model q, and the first two also for the worked
example, a point mass p and q = (0.6, 0.1, 0.1, 0.1, 0.1).  The results are plain data: floats,
strings and lists in frozen dataclasses, so that ``dataclasses.asdict`` makes JSON of them.  Nats;
K outcomes, N samples, T tokens.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from kullback.errors import InvalidValueError
from kullback.runtime.ranges import SEEDS
from kullback.theory._derivation_steps import (
    DATA_SETS,
    asymptotics_step,
    conditional_step,
    definition_terms,
    gibbs_step,
    gradient_step,
    likelihood_step,
)
from kullback.theory._derivation_types import (
    ConditionalStep,
    Derivation,
    ExcessRow,
    FitRow,
    GibbsRow,
    GradientStep,
    LikelihoodStep,
    Terms,
)
from kullback.theory._types import FloatArray
from kullback.theory.chain_rule import END, SENTENCES, factorise
from kullback.theory.information import cross_entropy

__all__ = [
    "DEFAULT_P",
    "DEFAULT_Q",
    "ConditionalStep",
    "Derivation",
    "ExcessRow",
    "FitRow",
    "GibbsRow",
    "GradientStep",
    "LikelihoodStep",
    "Terms",
    "derive",
    "distribution_from_text",
]

EXAMPLE_P = (1.0, 0.0, 0.0, 0.0, 0.0)
DEFAULT_P = (0.5, 0.2, 0.15, 0.1, 0.05)
DEFAULT_Q = (0.6, 0.1, 0.1, 0.1, 0.1)

_MOST_OUTCOMES = 64  # more would not fit on a screen
_TOLERANCE = 1e-9
# A decimal or a fraction; longer ones, and larger exponents, would take long to compute.
_NUMBER = re.compile(
    r"[+-]?(?:[0-9]{1,400}/[0-9]{1,400}|[0-9]{0,400}(?:\.[0-9]{0,400})?(?:[eE][+-]?[0-9]{1,3})?)"
)


def derive(
    p: Sequence[float] | None = None, q: Sequence[float] | None = None, seed: int = 0
) -> Derivation:
    """Compute the derivation for a truth ``p`` and a model ``q``; ``seed`` fixes the samples.

    ``p`` and ``q`` are probabilities of the same 2 to 64 outcomes, shape (K,).  Without ``q`` the
    model is uniform; without both, they are ``DEFAULT_P`` and ``DEFAULT_Q``.  Raises
    InvalidValueError for values that are not a distribution, other lengths, or a negative seed.
    The results are in nats.

    Sources: Cover and Thomas (2006), theorems 2.5.1 (chain rule) and 2.6.3 (Gibbs); Wilks (1938).

    >>> derivation = derive()
    >>> round(derivation.example.kl, 6), derivation.example.entropy  # log(5/3), and a point mass
    (0.510826, 0.0)
    >>> abs(derivation.own.residual) < 1e-15
    True
    """
    truth, model = _checked(p, q)
    SEEDS.check("seed", seed)
    # A generator for each step, so that the numbers of a step do not depend on another step.
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(4)]
    support = truth[truth > 0]
    return Derivation(
        seed=seed,
        example=definition_terms(np.array(EXAMPLE_P), np.array(DEFAULT_Q)),
        own=definition_terms(truth, model),
        gibbs=gibbs_step(truth, streams[0]),
        likelihood=likelihood_step(truth, model, streams[1]),
        conditional=conditional_step(truth, model, streams[2]),
        gradient=gradient_step(truth, model),
        degrees_of_freedom=support.size - 1,
        data_sets=DATA_SETS,
        asymptotics=asymptotics_step(support, streams[3]),
        sequence=factorise(SENTENCES, ("yesterday", "she", "went", END)),
        untrained_600=math.log(600),
    )


def distribution_from_text(name: str, text: str) -> list[float]:
    """Probabilities written as ``0.5,0.3,0.2`` or ``1/3,2/3``; ``name`` is their name in errors.

    Raises InvalidValueError for a part that is not a number in [0, 1], with its place, and for a
    sum other than 1.

    >>> distribution_from_text("--p", "1/4, 0.75")
    [0.25, 0.75]
    """
    probabilities = []
    for place, part in enumerate(text.split(",")):
        try:
            number = _probability(part.strip())
        except (ValueError, ZeroDivisionError):
            raise InvalidValueError(
                f"{name}[{place}] is {part.strip()!r}: write probabilities separated by "
                "commas, such as 0.5,0.3,0.2 or 1/3,2/3"
            ) from None
        if not 0 <= number <= 1:
            raise InvalidValueError(
                f"{name}[{place}] is {part.strip()}: a probability must be in [0, 1]"
            )
        probabilities.append(float(number))
    if abs(excess := math.fsum(probabilities) - 1) > _TOLERANCE:
        raise InvalidValueError(
            f"{name} sums to {excess + 1:.10g}: it must be 1 within {_TOLERANCE:g}; fix a "
            "probability, or write fractions, such as 1/3,2/3"
        )
    return probabilities


def _probability(text: str) -> Fraction:
    """The number that a text is; `ValueError` where it is none, or has hundreds of digits."""
    if not _NUMBER.fullmatch(text):
        raise ValueError
    return Fraction(text)


def _checked(p: Sequence[float] | None, q: Sequence[float] | None) -> tuple[FloatArray, FloatArray]:
    truth = np.array(DEFAULT_P if p is None else p, dtype=np.float64)
    if q is None:
        q = DEFAULT_Q if p is None else [1 / max(1, truth.size)] * truth.size
    model = np.array(q, dtype=np.float64)
    for name, array in (("p", truth), ("q", model)):
        if array.ndim != 1 or not 2 <= array.size <= _MOST_OUTCOMES:
            raise InvalidValueError(
                f"{name} has shape {array.shape}: it must be (K,), the probabilities of 2 to "
                f"{_MOST_OUTCOMES} outcomes"
            )
    if truth.size != model.size:
        raise InvalidValueError(
            f"p has {truth.size} outcomes and q {model.size}: both must have the same outcomes, "
            "with 0 for an impossible one"
        )
    cross_entropy(truth, model)  # raises for the first value that is not a probability
    return truth, model
