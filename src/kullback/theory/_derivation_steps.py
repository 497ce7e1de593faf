"""The steps of the derivation, each computed by methods that share as little as possible.

Nats; K outcomes, N samples.  Each function takes p and q of shape (K,), already validated.
"""

from __future__ import annotations

import math

import numpy as np

from kullback.theory import autograd, losses
from kullback.theory._derivation_types import (
    ConditionalStep,
    ExcessRow,
    FitRow,
    GibbsRow,
    GradientStep,
    LikelihoodStep,
    Terms,
)
from kullback.theory._types import FloatArray
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
    "DATA_SETS", "asymptotics_step", "conditional_step", "definition_terms", "gibbs_step",
    "gradient_step", "likelihood_step",
]  # fmt: skip

_SAMPLES = 1000  # enough for p̂ close to p, few enough to see the difference
_TRIES = 1000
_DISTANCES = (1.0, 0.1, 0.01, 0.001)
_SAMPLE_SIZES = (10, 30, 100, 300, 1000, 3000, 10_000, 30_000)
DATA_SETS = 2000


def definition_terms(p: FloatArray, q: FloatArray) -> Terms:
    """Surprisals, entropies and divergences of p and q, in both directions."""
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


def gibbs_step(p: FloatArray, rng: np.random.Generator) -> list[GibbsRow]:
    """The smallest and the median KL(p‖q) of random models, at four distances from p."""
    rows = []
    for distance in _DISTANCES:
        others = rng.dirichlet(np.ones(p.size), _TRIES)
        models = (1 - distance) * p + distance * others
        kl = kl_divergence(p, models)
        smallest = float(cross_entropy(p, models).min())
        rows.append(GibbsRow(distance, _TRIES, float(kl.min()), float(np.median(kl)), smallest))
    return rows


def likelihood_step(p: FloatArray, q: FloatArray, rng: np.random.Generator) -> LikelihoodStep:
    """The likelihood of q on samples of p, and the maximum-likelihood q by three methods."""
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


def _mean_surprisal(probabilities: FloatArray) -> float:
    """The mean of -log q(yₙ), sample by sample, without an empirical distribution."""
    with np.errstate(divide="ignore"):
        return -math.fsum(np.log(probabilities)) / probabilities.size


def conditional_step(p: FloatArray, q: FloatArray, rng: np.random.Generator) -> ConditionalStep:
    """The likelihood of pairs (x, y), where x is a fair coin."""
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


def gradient_step(p: FloatArray, q: FloatArray) -> GradientStep:
    """The gradient of the loss at q for the most probable outcome of p, by five methods."""
    outcomes = np.flatnonzero(q)  # a logit of -inf has no derivative
    z, truth = np.log(q[outcomes]), p[outcomes]
    label = int(truth.argmax())
    formula = q[outcomes] - (np.arange(outcomes.size) == label)
    loss, by_numpy = losses.cross_entropy_and_gradient(z, label)
    backward, central, complex_step = (
        np.array(gradient)
        for gradient in autograd.grad_check(lambda v: autograd.cross_entropy(v, label), z.tolist())
    )
    averaged: list[float] = []
    if not p[q == 0].any():
        averaged = losses.cross_entropy_and_gradient(z, truth)[1].tolist()
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


def asymptotics_step(support: FloatArray, rng: np.random.Generator) -> list[ExcessRow]:
    """A row per sample size; none for a point mass, whose fit has no error."""
    if support.size < 2:
        return []
    support = support / support.sum()
    rows = []
    for samples in _SAMPLE_SIZES:
        run = simulate_excess(support, samples, DATA_SETS, rng)
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
