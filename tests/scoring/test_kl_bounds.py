"""Bounds of KL from truncated distributions, against KL itself and against a search."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.special import rel_entr
from torch import Tensor

from kullback.errors import InvalidValueError
from kullback.predictions.base import DensePredictions, FactoredPredictions, Head, Predictions
from kullback.predictions.recording import Recording
from kullback.predictions.recording_writer import RecordingWriter
from kullback.predictions.truncated import TruncatedPredictions
from kullback.scoring.kl_bounds import KLBounds, kl_bounds

# Rounding of float64, on KLs of up to some ten nats.
ROUNDING = 1e-11


def logits(rows: int, V: int, seed: int, scale: float = 2.0) -> Tensor:
    """Random logits, the same every time."""
    return torch.randn(rows, V, generator=torch.Generator().manual_seed(seed)) * scale


def softmax(x: Tensor) -> np.ndarray:
    """Probabilities in float64."""
    return torch.softmax(x.double(), dim=1).numpy()


def exact_kl(p: Tensor, q: Tensor) -> np.ndarray:
    """KL of each row by scipy."""
    return rel_entr(softmax(p), softmax(q)).sum(axis=1)


def forms(x: Tensor, targets: Tensor, k: int) -> tuple[Predictions, Predictions]:
    """The whole predictions, and their top k."""
    whole = DensePredictions(x)
    return whole, TruncatedPredictions.of(whole, targets, k)


@settings(max_examples=150, deadline=None)
@given(
    V=st.integers(2, 30),
    ks=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    seed=st.integers(0, 2**16),
    scale=st.sampled_from([1e-3, 0.1, 1.0, 5.0, 20.0]),
    excluded=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_kl_lies_between_its_bounds(
    V: int,
    ks: tuple[int, int],
    seed: int,
    scale: float,
    excluded: bool,
    dtype: torch.dtype,
) -> None:
    """Whatever is truncated, near or far, lower <= KL <= upper in every row."""
    p = logits(20, V, seed)
    q = p.to(dtype) + logits(20, V, seed + 1, scale)
    if excluded and V > 2:
        q[:, 1] = -torch.inf
        p[::2, 1] = -torch.inf
        q[:, 2] = p[:, 2] = -torch.inf if V > 3 else 0.0
    targets = torch.randint(V, (20,), generator=torch.Generator().manual_seed(seed))
    expected = exact_kl(p, q)
    pairs = itertools.product(forms(p, targets, min(ks[0], V)), forms(q, targets, min(ks[1], V)))
    for first, second in pairs:
        bounds = kl_bounds(first, second)
        slack = ROUNDING * (1 + np.where(np.isfinite(expected), expected, 0.0))
        assert (bounds.lower_M <= expected + slack).all()
        assert (bounds.upper_M >= expected - slack).all()
        assert (bounds.lower_M >= 0).all()
        assert (bounds.lower_M <= bounds.upper_M).all()


@pytest.mark.parametrize("k", [7, 40])
def test_with_all_tokens_the_bounds_are_the_kl(k: int) -> None:
    """k = V on both sides, or whole predictions, leave nothing open."""
    p, q = logits(50, k, 1), logits(50, k, 2)
    targets = torch.zeros(50, dtype=torch.int64)
    for first, second in itertools.product(forms(p, targets, k), forms(q, targets, k)):
        bounds = kl_bounds(first, second)
        np.testing.assert_allclose(bounds.lower_M, exact_kl(p, q), rtol=1e-10)
        assert bounds.exact
        assert bounds.note == ""


def coarsened(p: np.ndarray, q: np.ndarray, own: set[int]) -> float:
    """KL when all tokens but `own` are grouped into one."""
    tokens = sorted(own)
    cells = [np.append(x[tokens], max(0.0, 1 - x[tokens].sum())) for x in (p, q)]
    return float(rel_entr(*cells).sum())


def test_the_lower_bound_is_the_kl_of_the_tokens_known_in_both() -> None:
    """Each row's cells are the tokens named in both, one by one, and all others together."""
    rows, V, k = 40, 12, 4
    p, q = logits(rows, V, 1), logits(rows, V, 2, 1.0)
    targets = torch.arange(rows) % V
    bounds = kl_bounds(forms(p, targets, k)[1], forms(q, targets, k)[1])
    half = kl_bounds(forms(p, targets, k)[0], forms(q, targets, k)[1])
    for row in range(rows):
        known = [set(x[row].topk(k).indices.tolist()) | {int(targets[row])} for x in (p, q)]
        pair = softmax(p)[row], softmax(q)[row]
        assert bounds.lower_M[row] == pytest.approx(
            coarsened(*pair, known[0] & known[1]), abs=1e-12
        )
        assert half.lower_M[row] == pytest.approx(coarsened(*pair, known[1]), abs=1e-12)
    assert np.isinf(bounds.upper_M).all()
    assert np.isinf(half.upper_M).all()
    assert "no upper bound" in bounds.note


def worst_rest(rest: float, most: float, q: np.ndarray) -> float:
    """The largest Σ p log(p/q) over 0 <= p <= most with Σ p = rest, by trying all corners."""
    largest = -np.inf
    n = int(np.floor(rest / most * (1 + 1e-12)))
    for full in itertools.combinations(range(len(q)), n):
        others = [i for i in range(len(q)) if i not in full]
        for partial in others or [None]:
            p = np.zeros(len(q))
            p[list(full)] = most
            if partial is not None:
                p[partial] = max(0.0, rest - n * most)
            largest = max(
                largest, float(np.where(p > 0, p * np.log(np.where(p > 0, p, 1) / q), 0).sum())
            )
    return largest


def test_the_upper_bound_is_the_worst_case() -> None:
    """No distribution with the known top exceeds it, and one of the corners attains it."""
    rows, V, k = 30, 9, 3
    p, q = logits(rows, V, 3, 0.7), logits(rows, V, 4)
    targets = torch.arange(rows) % V
    top = forms(p, targets, k)[1]
    assert isinstance(top, TruncatedPredictions)
    bounds = kl_bounds(top, DensePredictions(q))
    ps, qs = softmax(p), softmax(q)
    for row in range(rows):
        best = p[row].topk(k).indices.tolist()
        known = sorted({*best, int(targets[row])})
        unknown = [i for i in range(V) if i not in known]
        rest, most = float(ps[row, unknown].sum()), float(ps[row, best].min())
        named = float((ps[row, known] * np.log(ps[row, known] / qs[row, known])).sum())
        expected = named + worst_rest(rest, most, qs[row, unknown])
        assert bounds.upper_M[row] == pytest.approx(expected, abs=1e-12)
        # The linear part, by linear programming: no corner was missed.
        answer = linprog(
            np.log(qs[row, unknown]), A_eq=np.ones((1, len(unknown))), b_eq=[rest],
            bounds=[(0, most)] * len(unknown),
        )  # fmt: skip
        corner = np.sort(answer.x)[::-1]
        entropy = float(
            np.where(corner > 1e-12, corner * np.log(np.maximum(corner, 1e-300)), 0).sum()
        )
        assert named + entropy - answer.fun == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probabilities_too_small_for_a_float_are_not_zero(dtype: torch.dtype) -> None:
    """Tokens of probability e^-1000 are possible: where a model has them, no KL is infinite."""
    p = torch.tensor([[0.0, -1.0, -1000.0, -1001.0, -1002.0]], dtype=dtype)
    q = p.flip(1)
    targets = torch.zeros(1, dtype=torch.int64)
    log_p, log_q = (torch.log_softmax(x.double(), 1) for x in (p, q))
    expected = float((log_p.exp() * (log_p - log_q)).sum())
    for first, second in itertools.product(forms(p, targets, 2), forms(q, targets, 2)):
        bounds = kl_bounds(first, second)
        assert 0 < bounds.lower_M[0] <= expected * (1 + ROUNDING)
        assert np.isfinite(bounds.lower_M[0])
        assert bounds.upper_M[0] >= expected * (1 - ROUNDING)
    excluding = torch.where(q == -1000.0, -torch.inf, q)
    bounds = kl_bounds(DensePredictions(p), DensePredictions(excluding))
    assert np.isfinite(bounds.lower_M[0]) == (float(excluding[0, 2]) > -torch.inf)


def test_bounds_close_in_as_k_grows() -> None:
    """More tokens known never widen the bounds."""
    p, q = logits(60, 64, 5), logits(60, 64, 6)
    targets = torch.zeros(60, dtype=torch.int64)
    before = KLBounds(np.zeros(60), np.full(60, np.inf))
    for k in (1, 2, 4, 8, 16, 32, 64):
        bounds = kl_bounds(forms(p, targets, k)[1], DensePredictions(q))
        assert (bounds.lower_M >= before.lower_M - ROUNDING).all()
        assert (bounds.upper_M <= before.upper_M + ROUNDING).all()
        before = bounds
    np.testing.assert_allclose(before.upper_M, before.lower_M)


def test_a_small_kl_keeps_its_digits() -> None:
    """At KL of 1e-9 the bounds are still in order, and tight where all is known."""
    p = logits(40, 200, 7)
    q = p.double() + logits(40, 200, 8, 5e-5)
    targets = torch.zeros(40, dtype=torch.int64)
    expected = kl_bounds(DensePredictions(p), DensePredictions(q)).lower_M
    # By the textbook's sum, in extended precision.
    log_p, log_q = (
        x - np.log(np.exp(x).sum(axis=1, keepdims=True))
        for x in (logits.double().numpy().astype(np.longdouble) for logits in (p, q))
    )
    textbook = (np.exp(log_p) * (log_p - log_q)).sum(axis=1).astype(np.float64)
    np.testing.assert_allclose(expected, textbook, rtol=1e-8)
    bounds = kl_bounds(forms(p, targets, 50)[1], forms(q, targets, 50)[1])
    assert (bounds.lower_M <= expected * (1 + 1e-9)).all()
    assert bounds.lower_M.mean() > 0.3 * expected.mean()


def test_a_model_is_at_no_distance_from_itself() -> None:
    """The lower bound of a truncated model against itself is zero."""
    x, targets = logits(30, 50, 9), torch.arange(30)
    for first, second in itertools.product(forms(x, targets, 5), repeat=2):
        np.testing.assert_allclose(kl_bounds(first, second).lower_M, 0, atol=1e-15)


def test_bounds_from_recordings_hold_for_the_live_models(tmp_path: Path) -> None:
    """What is read back of a top-k recording of a factored model bounds the KL of the model."""
    V, M, D = 300, 90, 16
    n = np.arange(M)
    models, recorded = [], []
    for seed in (1, 2):
        live = FactoredPredictions(logits(M, D, 10), Head(logits(V, D, seed, 0.5)))
        models.append(live)
        with RecordingWriter(tmp_path / f"{seed}", "top-k", {}, V, k=40) as writer:
            writer.append(live, n % V, n, n)
        recorded.append(Recording.open(tmp_path / f"{seed}").predictions(slice(0, M)))
    expected = kl_bounds(*models)
    assert expected.exact
    for pair in ((recorded[0], recorded[1]), (recorded[0], models[1]), (models[0], recorded[1])):
        bounds = kl_bounds(*pair)
        assert (bounds.lower_M <= expected.lower_M + 1e-9).all()
        assert (bounds.upper_M >= expected.lower_M - 1e-9).all()
    finite = kl_bounds(recorded[0], models[1])
    assert np.isfinite(finite.upper_M).all()
    assert finite.lower_M.mean() > 0


def test_predictions_that_do_not_fit_are_refused() -> None:
    """Other rows, vocabularies, tokens and NaN are each named."""
    targets = torch.arange(20) % 10
    whole, top = forms(logits(20, 10, 1), targets, 3)
    cases: list[tuple[str, Predictions]] = [
        ("19 over 10", whole.select(torch.arange(19))),
        ("20 over 11", DensePredictions(logits(20, 11, 1))),
        (
            "row 4 is token 4 in the reference and 5 in the candidate",
            forms(logits(20, 10, 1), targets + (torch.arange(20) == 4), 3)[1],
        ),
        ("row 0 .*NaN", DensePredictions(torch.full((20, 10), torch.nan))),
    ]
    for message, candidate in cases:
        with pytest.raises(InvalidValueError, match=message):
            kl_bounds(top, candidate)


def test_many_rows_go_through_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a row's bounds are does not depend on the rows beside it."""
    targets = torch.arange(50)
    first, second = forms(logits(50, 60, 1), targets, 6), forms(logits(50, 60, 2), targets, 6)
    whole = [kl_bounds(*pair) for pair in itertools.product(first, second)]
    monkeypatch.setattr("kullback.scoring.kl_bounds.CHUNK_BYTES", 60 * 8 * 7)
    monkeypatch.setattr("kullback.scoring.kl_bounds.ROWS", 11)
    for pair, expected in zip(itertools.product(first, second), whole, strict=True):
        bounds = kl_bounds(*pair)
        np.testing.assert_array_equal(bounds.lower_M, expected.lower_M)
        np.testing.assert_allclose(bounds.upper_M, expected.upper_M, rtol=1e-14)
