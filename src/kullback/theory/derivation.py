r"""Why is cross-entropy the loss?  The whole derivation, in numbers that anyone can check.

Every step computes both sides of what it claims, by roads that share as little as possible, and
keeps the numbers: ``docs/derivation.md`` is the same argument in words::

    definition       surprisal -log p, entropy, cross-entropy            H(p, q) ≠ H(q, p)
    decomposition    H(p, q) = H(p) + KL(p‖q)
    Gibbs            KL(p‖q) ≥ 0, with equality only at q = p: tried at random
    likelihood       argmax Π q(yₙ) = argmin H(p̂, q), three ways; and given an input
    gradient         ∂L/∂zᵢ = qᵢ - 1[i = y], five ways
    asymptotics      excess of the fit ≈ (K - 1)/2N, simulated over N
    sequence         -log q(y₁..y_T) = Σₜ -log q(y_t | y_<t), per token, and the perplexity

:func:`derive` computes it all for a truth p and a model q, and once for the document's example, a
point mass p and q = (0.6, 0.1, 0.1, 0.1, 0.1).  The result is plain data: floats, strings and lists
of them in frozen dataclasses, so that ``dataclasses.asdict`` makes JSON of it.  Nats everywhere; K
outcomes, N samples, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from kullback.errors import InvalidValueError
from kullback.theory import autograd, losses
from kullback.theory.chain_rule import END, SENTENCES, Factorisation, factorise
from kullback.theory.information import (
    cross_entropy,
    decompose,
    entropy,
    jensen_shannon,
    kl_divergence,
    perplexity,
)
from kullback.theory.likelihood import (
    count,
    empirical_distribution,
    fit_categorical,
    fit_conditional,
    simulate_excess,
)

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

Floats = NDArray[np.float64]

EXAMPLE_P = (1.0, 0.0, 0.0, 0.0, 0.0)
DEFAULT_P = (0.5, 0.2, 0.15, 0.1, 0.05)
DEFAULT_Q = (0.6, 0.1, 0.1, 0.1, 0.1)

_MOST_OUTCOMES = 64  # more would neither fit a screen nor show more
_TOLERANCE = 1e-9
_SAMPLES = 1000  # enough to see p in p̂, few enough to see the difference
_TRIES = 1000
_DISTANCES = (1.0, 0.1, 0.01, 0.001)
_SAMPLE_SIZES = (10, 30, 100, 300, 1000, 3000, 10_000, 30_000)
_DATA_SETS = 2000


@dataclass(frozen=True)
class Terms:
    """Two distributions and every number that the definitions give them; nats.

    ``residual`` is H(p, q) - (H(p) + KL(p‖q)), each computed by itself; nan where two are infinite.
    """

    p: list[float]
    q: list[float]
    surprisals_p: list[float]
    surprisals_q: list[float]
    entropy: float
    cross_entropy: float
    kl: float
    residual: float
    reverse_cross_entropy: float
    reverse_kl: float
    jensen_shannon: float
    perplexity_p: float
    perplexity_q: float


@dataclass(frozen=True)
class GibbsRow:
    """KL(p‖q) over random q = (1 - distance) p + distance r, with r uniform on the simplex."""

    distance: float
    tries: int
    smallest_kl: float
    median_kl: float
    smallest_cross_entropy: float


@dataclass(frozen=True)
class FitRow:
    """One road to the maximum-likelihood q, and the cross-entropy H(p̂, q) that it reaches."""

    method: str
    probabilities: list[float]
    cross_entropy: float
    steps: int


@dataclass(frozen=True)
class LikelihoodStep:
    """N samples of p: the mean negative log-likelihood of q *is* H(p̂, q); its minimum is H(p̂).

    ``largest_disagreement`` is the largest difference of a probability between two of the fits.
    """

    samples: int
    counts: list[int]
    empirical: list[float]
    mean_negative_log_likelihood: float
    empirical_cross_entropy: float
    empirical_entropy: float
    fits: list[FitRow]
    largest_disagreement: float


@dataclass(frozen=True)
class ConditionalStep:
    """The same given an input x: y follows p where x = 0, and p in reverse order where x = 1.

    ``information`` is what knowing x is worth to the fit: Ĥ(Y) - Ĥ(Y|X).
    """

    samples: int
    input_weights: list[float]
    input_entropies: list[float]
    mean_negative_log_likelihood: float
    averaged_cross_entropy: float
    conditional_entropy: float
    marginal_entropy: float
    information: float


@dataclass(frozen=True)
class GradientStep:
    """∂L/∂z of L = -log q_y at z = log q, for the outcomes that q allows: five ways to get it.

    ``mean_gradient`` is its mean over y from p, which is q - p; empty where KL(p‖q) is infinite.
    """

    outcomes: list[int]
    logits: list[float]
    label: int
    loss: float
    q_minus_onehot: list[float]
    numpy: list[float]
    autograd: list[float]
    central_difference: list[float]
    complex_step: list[float]
    largest_error_of_autograd: float
    largest_error_of_central_difference: float
    mean_gradient: list[float]


@dataclass(frozen=True)
class ExcessRow:
    """Over many data sets of N samples: what the fit misses, measured beside (K - 1)/2N.

    ``test_excess`` is KL(p‖add-½), by how much the fit is worse than p on new samples;
    ``training_gain`` is KL(p̂‖p), by how much it is better than p on its own.  Each mean has its
    standard error.  ``seen_fraction`` is the share of data sets that show every outcome: in the
    others KL(p‖MLE) is infinite, which is why the add-½ estimate stands for it.  The statistic is
    2N KL(p̂‖p), which tends to χ²(K - 1), of mean K - 1 and variance 2 (K - 1).
    """

    samples: int
    predicted: float
    test_excess: float
    test_excess_error: float
    training_gain: float
    training_gain_error: float
    seen_fraction: float
    statistic_mean: float
    statistic_variance: float


@dataclass(frozen=True)
class Derivation:
    """Every step with its numbers: first the document's example, then p and q of one's own.

    ``asymptotics`` has a row for each sample size, over ``data_sets`` data sets each, of the
    ``degrees_of_freedom`` + 1 outcomes that p allows; none where p is a point mass.
    ``untrained_600`` is log 600, the loss of a model of 600 words that has learned nothing.
    """

    seed: int
    example: Terms
    own: Terms
    gibbs: list[GibbsRow]
    likelihood: LikelihoodStep
    conditional: ConditionalStep
    gradient: GradientStep
    degrees_of_freedom: int
    data_sets: int
    asymptotics: list[ExcessRow]
    sequence: Factorisation
    untrained_600: float


def derive(
    p: Sequence[float] | None = None, q: Sequence[float] | None = None, seed: int = 0
) -> Derivation:
    """Run the derivation for a truth ``p`` and a model ``q``; ``seed`` fixes all that is random.

    ``p`` and ``q`` are probabilities of the same 2 to 64 outcomes, shape (K,).  Without ``q`` the
    model is uniform; with neither, they are ``DEFAULT_P`` and ``DEFAULT_Q``.  Raises
    InvalidValueError for what is no distribution, other lengths, or a negative seed.  Sources:
    Cover and Thomas (2006), theorems 2.5.1 (chain rule) and 2.6.3 (Gibbs); Wilks (1938).

    >>> derivation = derive()
    >>> round(derivation.example.kl, 6), derivation.example.entropy  # log(5/3), and a point mass
    (0.510826, 0.0)
    >>> abs(derivation.own.residual) < 1e-15
    True
    """
    truth, model = _checked(p, q)
    if seed < 0:
        raise InvalidValueError(f"seed is {seed}: it must be at least 0")
    # A generator for each step, so that no step's numbers depend on what another one draws.
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(4)]
    support = truth[truth > 0]
    return Derivation(
        seed=seed,
        example=_terms(np.array(EXAMPLE_P), np.array(DEFAULT_Q)),
        own=_terms(truth, model),
        gibbs=_gibbs(truth, streams[0]),
        likelihood=_likelihood(truth, model, streams[1]),
        conditional=_conditional(truth, model, streams[2]),
        gradient=_gradient(truth, model),
        degrees_of_freedom=support.size - 1,
        data_sets=_DATA_SETS,
        asymptotics=_asymptotics(support, streams[3]),
        sequence=factorise(SENTENCES, ("yesterday", "she", "went", END)),
        untrained_600=math.log(600),
    )


def distribution_from_text(name: str, text: str) -> list[float]:
    """Probabilities written as ``0.5,0.3,0.2`` or ``1/3,2/3``; ``name`` is how errors call them.

    Raises InvalidValueError for a part that is no number or lies outside [0, 1], with its place,
    and for a sum other than 1.

    >>> distribution_from_text("--p", "1/4, 0.75")
    [0.25, 0.75]
    """
    probabilities = []
    for place, part in enumerate(text.split(",")):
        try:
            number = Fraction(part.strip())
        except (ValueError, ZeroDivisionError):
            raise InvalidValueError(
                f"{name}[{place}] is {part.strip()!r}: write probabilities with commas between "
                "them, such as 0.5,0.3,0.2 or 1/3,2/3"
            ) from None
        if not 0 <= number <= 1:
            raise InvalidValueError(
                f"{name}[{place}] is {part.strip()}: a probability must lie in [0, 1]"
            )
        probabilities.append(float(number))
    if abs(total := math.fsum(probabilities) - 1) > _TOLERANCE:
        raise InvalidValueError(
            f"{name} sums to {total + 1:.10g}: it must be 1 within {_TOLERANCE:g}; mend a "
            "probability, or write fractions, such as 1/3,2/3"
        )
    return probabilities


def _checked(p: Sequence[float] | None, q: Sequence[float] | None) -> tuple[Floats, Floats]:
    truth = np.array(DEFAULT_P if p is None else p, dtype=np.float64)
    if q is None:
        q = DEFAULT_Q if p is None else [1 / max(1, truth.size)] * truth.size
    model = np.array(q, dtype=np.float64)
    for name, array in (("p", truth), ("q", model)):
        if array.ndim != 1 or not 2 <= array.size <= _MOST_OUTCOMES:
            raise InvalidValueError(
                f"{name} has shape {array.shape}: give the probabilities of 2 to {_MOST_OUTCOMES} "
                "outcomes in one row"
            )
    if truth.size != model.size:
        raise InvalidValueError(
            f"p has {truth.size} outcomes and q {model.size}: give both the same outcomes, with 0 "
            "for the impossible"
        )
    cross_entropy(truth, model)  # which names the first value that no distribution has
    return truth, model


# --- the steps ----------------------------------------------------------------------------------


def _terms(p: Floats, q: Floats) -> Terms:
    ce, h, kl = (float(term) for term in decompose(p, q))
    with np.errstate(divide="ignore"):
        surprisals_p, surprisals_q = -np.log(p) + 0.0, -np.log(q) + 0.0
    return Terms(
        p=p.tolist(),
        q=q.tolist(),
        surprisals_p=surprisals_p.tolist(),
        surprisals_q=surprisals_q.tolist(),
        entropy=h,
        cross_entropy=ce,
        kl=kl,
        residual=ce - (h + kl) if math.isfinite(ce) else math.nan,
        reverse_cross_entropy=float(cross_entropy(q, p)),
        reverse_kl=float(kl_divergence(q, p)),
        jensen_shannon=float(jensen_shannon(p, q)),
        perplexity_p=float(perplexity(p)),
        perplexity_q=float(perplexity(p, q)),
    )


def _gibbs(p: Floats, rng: np.random.Generator) -> list[GibbsRow]:
    rows = []
    for distance in _DISTANCES:
        others = rng.dirichlet(np.ones(p.size), _TRIES)
        models = (1 - distance) * p + distance * others
        kl = kl_divergence(p, models)
        smallest = float(cross_entropy(p, models).min())
        rows.append(GibbsRow(distance, _TRIES, float(kl.min()), float(np.median(kl)), smallest))
    return rows


def _likelihood(p: Floats, q: Floats, rng: np.random.Generator) -> LikelihoodStep:
    labels = rng.choice(p.size, _SAMPLES, p=p / p.sum())
    counts, empirical = count(labels, p.size), empirical_distribution(labels, p.size)
    fits = [
        fit_categorical(counts, "closed form"),
        fit_categorical(counts, "gradient descent"),
        fit_categorical(counts, "scipy"),
    ]
    names = ("closed form, q = p̂", "gradient descent", "Newton (SciPy)")
    table = np.array([fit.probabilities for fit in fits])
    return LikelihoodStep(
        samples=_SAMPLES,
        counts=counts.tolist(),
        empirical=empirical.tolist(),
        mean_negative_log_likelihood=_mean_surprisal(q[labels]),
        empirical_cross_entropy=float(cross_entropy(empirical, q)),
        empirical_entropy=float(entropy(empirical)),
        fits=[
            FitRow(name, fit.probabilities.tolist(), fit.cross_entropy, fit.steps)
            for name, fit in zip(names, fits, strict=True)
        ],
        largest_disagreement=float(np.ptp(table, axis=0).max()),
    )


def _mean_surprisal(probabilities: Floats) -> float:
    """The mean of -log q(yₙ), sample by sample: no distribution is formed on the way."""
    with np.errstate(divide="ignore"):
        return -math.fsum(np.log(probabilities)) / probabilities.size


def _conditional(p: Floats, q: Floats, rng: np.random.Generator) -> ConditionalStep:
    p = p / p.sum()
    inputs = rng.integers(2, size=_SAMPLES)
    labels = rng.choice(p.size, _SAMPLES, p=p)
    labels = np.where(inputs == 0, labels, p.size - 1 - labels)
    fit = fit_conditional(inputs, labels, input_values=2, outcomes=p.size)
    model = np.array([q, q[::-1]])
    marginal = float(entropy(empirical_distribution(labels, p.size)))
    return ConditionalStep(
        samples=_SAMPLES,
        input_weights=fit.input_weights.tolist(),
        input_entropies=fit.input_cross_entropies.tolist(),
        mean_negative_log_likelihood=_mean_surprisal(model[inputs, labels]),
        averaged_cross_entropy=float(fit.input_weights @ cross_entropy(fit.probabilities, model)),
        conditional_entropy=fit.cross_entropy,
        marginal_entropy=marginal,
        information=marginal - fit.cross_entropy,
    )


def _gradient(p: Floats, q: Floats) -> GradientStep:
    outcomes = np.flatnonzero(q)  # a logit of -inf has no slope
    z, here = np.log(q[outcomes]), p[outcomes]
    label = int(here.argmax())
    formula = q[outcomes] - (np.arange(outcomes.size) == label)
    loss, by_numpy = losses.cross_entropy_and_gradient(z, label)
    backward, central, complex_step = (
        np.array(found)
        for found in autograd.grad_check(lambda v: autograd.cross_entropy(v, label), z.tolist())
    )
    averaged: list[float] = []
    if not p[q == 0].any():
        averaged = losses.cross_entropy_and_gradient(z, here)[1].tolist()
    return GradientStep(
        outcomes=outcomes.tolist(),
        logits=z.tolist(),
        label=label,
        loss=loss,
        q_minus_onehot=formula.tolist(),
        numpy=by_numpy.tolist(),
        autograd=backward.tolist(),
        central_difference=central.tolist(),
        complex_step=complex_step.tolist(),
        largest_error_of_autograd=float(np.abs(backward - formula).max()),
        largest_error_of_central_difference=float(np.abs(central - formula).max()),
        mean_gradient=averaged,
    )


def _asymptotics(support: Floats, rng: np.random.Generator) -> list[ExcessRow]:
    """One row a sample size; none for a point mass, of which there is nothing to learn."""
    if support.size < 2:
        return []
    rows = []
    for samples in _SAMPLE_SIZES:
        run = simulate_excess(support, samples, _DATA_SETS, rng)
        gain = run.statistic / (2 * samples)
        rows.append(
            ExcessRow(
                samples=samples,
                predicted=run.predicted,
                test_excess=run.test_excess_add_half.value,
                test_excess_error=run.test_excess_add_half.standard_error,
                training_gain=float(gain.mean()),
                training_gain_error=float(gain.std(ddof=1) / math.sqrt(gain.size)),
                seen_fraction=run.seen_fraction,
                statistic_mean=float(run.statistic.mean()),
                statistic_variance=float(run.statistic.var(ddof=1)),
            )
        )
    return rows
