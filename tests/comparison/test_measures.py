"""Two models on the same tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kullback.comparison.measures import compare_tokens, kl_quantiles, worst_tokens
from kullback.evaluation.measures import Places, weighted_mean
from kullback.predictions.base import DensePredictions
from kullback.results.measurement import student_critical_value
from kullback.scoring.divergence import (
    DivergenceStatistics,
    concatenate_divergences,
    divergence_statistics,
)

M, V = 600, 50


def places(documents: int = 20) -> Places:
    """M tokens of equal documents, three bytes each."""
    return Places(
        np.arange(M) // (M // documents),
        np.arange(M),
        np.full(M, 3),
        np.full(M, 0.5),
        np.ones(M),
    )


def compared(noise: float) -> tuple[DivergenceStatistics, np.ndarray, np.ndarray, np.ndarray]:
    """Two random models, the second being the first and some noise."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(M, V))
    y = x + noise * rng.normal(size=(M, V))
    target = rng.integers(0, V, M)
    predictions = (DensePredictions(torch.from_numpy(z)) for z in (x, y))
    found = divergence_statistics(*predictions, torch.from_numpy(target))
    log_p, log_q = (z - np.log(np.exp(z).sum(1, keepdims=True)) for z in (x, y))
    return found, log_p, log_q, target


def test_measures_are_the_means_of_their_definitions():
    """Each measure equals the textbook formula over whole softmaxes in float64 to a millionth."""
    found, log_p, log_q, target = compared(0.3)
    p, q, rows = np.exp(log_p), np.exp(log_q), np.arange(M)
    change = q[rows, target] - p[rows, target]
    top5 = [np.argsort(-z, axis=1)[:, :5] for z in (log_p, log_q)]
    overlap = [len(set(a) & set(b)) / 5 for a, b in zip(*top5, strict=True)]
    expected = {
        "kl": (p * (log_p - log_q)).sum(1).mean(),
        "reverse_kl": (q * (log_q - log_p)).sum(1).mean(),
        "total_variation": np.abs(p - q).sum(1).mean() / 2,
        "delta_cross_entropy": (log_p - log_q)[rows, target].mean(),
        "reference_cross_entropy": -log_p[rows, target].mean(),
        "candidate_cross_entropy": -log_q[rows, target].mean(),
        "top1_agreement": (log_p.argmax(1) == log_q.argmax(1)).mean(),
        "top5_overlap": np.mean(overlap),
        "delta_p_mean": change.mean(),
        "delta_p_rms": math.sqrt((change**2).mean()),
    }
    measured = compare_tokens(found, places())
    assert {name: measured[name].value for name in expected} == pytest.approx(expected, rel=1e-6)
    low, high = measured["kl"].interval
    assert low < measured["kl"].value < high


def test_the_error_of_the_root_is_that_of_the_root():
    """By the delta method: half of the interval is about two errors; the design effect stays."""
    found, log_p, log_q, target = compared(0.3)
    rows = np.arange(M)
    square = (np.exp(log_q) - np.exp(log_p))[rows, target] ** 2
    measured = compare_tokens(found, places())["delta_p_rms"]
    mean = weighted_mean(square, places(), "")
    assert measured.standard_error == pytest.approx(mean.standard_error / (2 * measured.value))
    assert measured.design_effect == pytest.approx(mean.design_effect)
    low, high = measured.interval
    half = student_critical_value(measured.degrees_of_freedom, measured.level)
    assert (high - low) / 2 == pytest.approx(half * measured.standard_error, rel=0.05)


def test_a_model_against_itself_is_exactly_zero():
    """Equal logits give exactly 0 in every distance, and exactly 1 in every agreement."""
    found, *_ = compared(0.0)
    measured = compare_tokens(found, places())
    zero = (
        "kl", "reverse_kl", "jensen_shannon", "total_variation", "delta_cross_entropy",
        "delta_p_mean",
    )  # fmt: skip
    assert [measured[name].value for name in zero] == [0.0] * len(zero)
    assert measured["delta_p_rms"].value == 0.0
    assert measured["delta_p_rms"].standard_error == 0.0
    assert measured["top1_agreement"].value == measured["top5_overlap"].value == 1.0


def test_parts_put_together_are_the_whole():
    """Statistics of parts, concatenated, are those of all rows."""
    rng = np.random.default_rng(1)
    x, y = (torch.from_numpy(rng.normal(size=(10, V))) for _ in range(2))
    target = torch.from_numpy(rng.integers(0, V, 10))

    def part(rows: slice) -> DivergenceStatistics:
        predictions = (DensePredictions(z[rows]) for z in (x, y))
        return divergence_statistics(*predictions, target[rows])

    whole = part(slice(0, 10))
    joined = concatenate_divergences([part(slice(0, 4)), part(slice(4, 10))])
    np.testing.assert_allclose(joined.kl, whole.kl, rtol=1e-12)
    np.testing.assert_array_equal(joined.candidate.rank, whole.candidate.rank)
    assert len(joined) == 10


def test_both_excluding_the_target_is_no_difference():
    """A target that both models exclude has infinite nll in both, and adds nothing to ΔCE."""
    logits = torch.tensor([[0.0, -math.inf], [0.0, 1.0]], dtype=torch.float64)
    found = divergence_statistics(
        DensePredictions(logits), DensePredictions(logits), torch.tensor([1, 1])
    )
    two = Places(np.arange(2), np.arange(2), np.ones(2, int), np.ones(2), np.ones(2))
    measured = compare_tokens(found, two)
    assert measured["delta_cross_entropy"].value == 0.0
    assert measured["reference_cross_entropy"].value == math.inf


def test_quantiles_and_worst_tokens():
    """Quantiles are NumPy's, the maximum is the first of the worst tokens."""
    kl = np.random.default_rng(2).exponential(size=1001)
    found = kl_quantiles(kl)
    assert found["99.9 %"] == np.quantile(kl, 0.999)
    assert kl[worst_tokens(kl, 3)[0]] == found["maximum"]
    assert list(found) == ["median", "90 %", "95 %", "99 %", "99.9 %", "maximum"]
