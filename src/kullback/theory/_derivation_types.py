"""The results of the derivation: frozen dataclasses of floats, strings and lists.

``dataclasses.asdict`` converts them to JSON-compatible data.  Nats; K outcomes, N samples.
"""

from __future__ import annotations

from dataclasses import dataclass

from kullback.theory.chain_rule import Factorisation

__all__ = [
    "ConditionalStep",
    "Derivation",
    "ExcessRow",
    "FitRow",
    "GibbsRow",
    "GradientStep",
    "LikelihoodStep",
    "Terms",
]


@dataclass(frozen=True)
class Terms:
    """Two distributions and the quantities that the definitions assign to them, in nats.

    ``residual`` is H(p, q) - (H(p) + KL(p‖q)), each computed independently; nan where two are
    infinite.
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
    """KL(p‖q) over random q = (1 - distance) p + distance r, r uniform on the simplex; nats."""

    distance: float
    tries: int
    smallest_kl: float
    median_kl: float
    smallest_cross_entropy: float


@dataclass(frozen=True)
class FitRow:
    """A method that computes the maximum-likelihood q, and its cross-entropy H(p̂, q) in nats."""

    method: str
    probabilities: list[float]
    cross_entropy: float
    steps: int


@dataclass(frozen=True)
class LikelihoodStep:
    """N samples of p: the mean negative log-likelihood of q is H(p̂, q); its minimum is H(p̂).

    ``largest_disagreement`` is the largest difference between two fits in any probability.
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
    """The likelihood given an input x: y follows p where x = 0, and p reversed where x = 1.

    ``information`` is the empirical mutual information Ĥ(Y) - Ĥ(Y|X), in nats.
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
    """∂L/∂z of L = -log q_y at z = log q, over the outcomes possible under q, by five methods.

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
    """The excess loss of fits to N samples, over many data sets, and its prediction (K - 1)/2N.

    ``test_excess`` is KL(p‖add-½), the additional loss of the fit on new samples;
    ``training_gain`` is KL(p̂‖p), how much lower its loss is than that of p on the samples that it
    was fitted to.  Each mean has its standard error.  ``seen_fraction`` is the fraction of data
    sets that contain every outcome: in the others KL(p‖MLE) is infinite, which is why the add-½
    estimate is used.  The statistic is 2N KL(p̂‖p), which tends to χ²(K - 1), with mean K - 1 and
    variance 2 (K - 1).
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
    """Every step with its numbers: first for the worked example, then for the given p and q.

    ``asymptotics`` has a row for each sample size, over ``data_sets`` data sets each, of the
    ``degrees_of_freedom`` + 1 outcomes possible under p; none where p is a point mass.
    ``untrained_600`` is log 600, the loss of an untrained model with a vocabulary of 600 tokens.
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
