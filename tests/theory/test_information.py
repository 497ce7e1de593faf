"""Entropy, cross-entropy, KL and Jensen-Shannon: accuracy, conventions, shapes, errors."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import scipy.special
import scipy.stats

from kullback.errors import InvalidValueError
from kullback.theory.information import (
    Given,
    cross_entropy,
    decompose,
    entropy,
    jensen_shannon,
    kl_divergence,
    log_softmax,
    normalise,
    perplexity,
    total_variation,
)

MEASURES: dict[str, Callable[..., np.ndarray]] = {
    "entropy": lambda p, _, **options: entropy(p, **options),
    "cross_entropy": cross_entropy,
    "kl_divergence": kl_divergence,
    "jensen_shannon": jensen_shannon,
    "total_variation": total_variation,
}


def exact(measure: str, log_p: list[mpmath.mpf], log_q: list[mpmath.mpf]) -> mpmath.mpf:
    """The definitions in the working precision, from logarithms; -inf is an impossible outcome."""
    total = mpmath.mpf(0)
    for a, b in zip(log_p, log_q, strict=True):
        p, q = mpmath.exp(a), mpmath.exp(b)
        if measure == "entropy":
            total -= p * a if p else 0
        elif measure == "cross_entropy":
            total -= p * b if p else 0
        elif measure == "kl_divergence":
            total += (p * (a - b) if p else 0) - p + q
        elif measure == "total_variation":
            total += abs(p - q) / 2
        else:
            m = mpmath.log((p + q) / 2) if p + q else 0
            total += ((p * (a - m) if p else 0) + (q * (b - m) if q else 0)) / 2
    return total


def logs(values: np.ndarray, given: Given) -> list[mpmath.mpf]:
    """The logarithms, without rounding, of the distribution that the stored numbers describe."""
    numbers = [mpmath.mpf(x) for x in values.tolist()]
    if given == "probs":
        return [mpmath.log(x) if x else -mpmath.inf for x in numbers]
    if given == "logits":
        normaliser = mpmath.log(mpmath.fsum(mpmath.exp(x) for x in numbers))
        return [x - normaliser for x in numbers]
    return numbers


def adversarial_pair(kind: str, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two distributions over n outcomes that are hard inputs of the given ``kind``."""
    p, q = rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(n))
    if kind == "near":
        q = normalise(p * np.exp(0.3 * rng.standard_normal(n)))
    elif kind == "nearly equal":
        q = normalise(p * (1 + 10.0 ** rng.uniform(-15, -3) * rng.standard_normal(n)))
    elif kind == "tiny":
        p, q = rng.dirichlet(np.full(n, 0.02)) + 1e-200, rng.dirichlet(np.full(n, 0.02)) + 1e-250
    elif kind == "denormal":
        p[: n // 2] *= 1e-310
        q[n // 4 : -1] *= 3e-315
        p, q = normalise(p), normalise(q)
    elif kind == "with zeros":
        p[: n // 2] = 0
        q[: n // 4] = 0
        p, q = normalise(p), normalise(q)
    elif kind == "around powers of two":
        q = normalise(p * 2.0 ** rng.integers(-3, 4, n) * (1 + 1e-15 * rng.integers(-3, 4, n)))
    return p, q


KINDS = (
    "random", "near", "nearly equal", "tiny", "denormal", "with zeros", "around powers of two",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("measure", MEASURES)
def test_probabilities_are_exact_to_the_stated_bound(measure: str, kind: str) -> None:
    """Every measure is within 4e-16 · max(1, log2 n) of the 50-digit value on hard inputs."""
    rng = np.random.default_rng([KINDS.index(kind), list(MEASURES).index(measure)])
    with mpmath.workdps(50):
        for n in (2, 3, 8, 64):
            for _ in range(12 if n == 64 else 60):
                p, q = adversarial_pair(kind, n, rng)
                truth = exact(measure, logs(p, "probs"), logs(q, "probs"))
                bound = 4e-16 * max(1, np.log2(n)) * abs(truth) + 5e-324 * n
                assert abs(MEASURES[measure](p, q) - truth) <= bound


@pytest.mark.parametrize("spread", [1e-10, 1.0])
def test_a_million_outcomes_keep_the_bound(spread: float) -> None:
    """Over 1e6 outcomes every measure stays within 4e-16 · log2 n, near p and far from it."""
    rng = np.random.default_rng(7)
    weights = np.exp2(rng.integers(0, 9, 1000)) * (1 + rng.random(1000))
    p = normalise(weights) / 1000
    q = normalise(weights * (1 + spread * rng.random(1000))) / 1000
    order = rng.permutation(1_000_000) % 1000  # each pair occurs a thousand times
    with mpmath.workdps(50):
        for measure in MEASURES:
            truth = 1000 * exact(measure, logs(p, "probs"), logs(q, "probs"))
            got = MEASURES[measure](p[order], q[order])
            assert abs(got - truth) <= 4e-16 * np.log2(1e6) * truth


@pytest.mark.parametrize("form", ["log_probs", "logits"])
@pytest.mark.parametrize("measure", MEASURES)
def test_logarithms_are_exact_to_their_own_rounding(measure: str, form: Given) -> None:
    """From logs the error is a few ulp times the size of the logs, from 1e-9 apart to e^-200."""
    rng = np.random.default_rng(3)
    with mpmath.workdps(200):
        for n in (2, 5, 40):
            for scale, gap in ((1, 1e-9), (1, 1e-3), (5, 0.5), (5, 5), (60, 60)):
                for _ in range(6):
                    a = log_softmax(scale * rng.standard_normal(n))
                    b = log_softmax(a + gap * rng.standard_normal(n))
                    if form == "logits":
                        a, b = a + 3.7, b - 11.1
                    # The total variation is that of distributions that add up to 1: the rounding
                    # of the stored logarithms is larger than that of two that are nearly equal.
                    known = "logits" if measure == "total_variation" else form
                    truth = exact(measure, logs(a, known), logs(b, known))
                    size = 1 if form == "log_probs" else max(1, *np.abs(a), *np.abs(b))
                    assert abs(MEASURES[measure](a, b, given=form) - truth) <= 2e-15 * size * truth


def test_the_naive_formula_fails_where_ours_is_exact() -> None:
    """At 1e-9 apart, Σ p log(p/q) is negative or has a relative error above 1; ours is exact."""
    rng = np.random.default_rng(0)
    naive_errors, negative = [], 0
    with mpmath.workdps(50):
        for _ in range(50):
            p = rng.dirichlet(np.ones(20))
            q = normalise(p * (1 + 1e-9 * rng.standard_normal(20)))
            truth = exact("kl_divergence", logs(p, "probs"), logs(q, "probs"))
            naive = float(np.sum(p * np.log(p / q)))
            negative += naive < 0
            naive_errors.append(abs(naive - truth) / truth)
            assert abs(kl_divergence(p, q) - truth) <= 4e-16 * np.log2(20) * truth
    assert negative > 5
    assert statistics.median(naive_errors) > 1


def test_the_convention_where_totals_are_not_one() -> None:
    """KL is Σ [p log(p/q) - p + q] of the stored numbers, so H(p,q) - H(p) - KL = Σp - Σq."""
    p, q = np.array([0.3, 0.7004]), np.array([0.2, 0.7996])
    parts = decompose(p, q, tolerance=1e-3)
    with mpmath.workdps(50):
        truth = exact("kl_divergence", logs(p, "probs"), logs(q, "probs"))
    assert parts.kl == pytest.approx(float(truth), rel=4e-16, abs=0)
    gap = float(parts.cross_entropy - parts.entropy - parts.kl)
    assert gap == pytest.approx(p.sum() - q.sum(), abs=2e-16)
    assert kl_divergence(p, p, tolerance=1e-3) == 0


def test_the_worked_examples_of_the_derivation() -> None:
    """A point mass has CE -log q of its outcome; a fair coin against 90/10 has KL 0.5108."""
    parts = decompose([1, 0, 0, 0, 0], [0.6, 0.1, 0.1, 0.1, 0.1])
    assert parts.entropy == 0
    assert parts.cross_entropy == pytest.approx(np.log(5 / 3), rel=1e-15)
    assert parts.kl == pytest.approx(np.log(5 / 3), rel=1e-15)
    parts = decompose([0.5, 0.5], [[0.9, 0.1], [0.1, 0.9]])  # the shapes broadcast
    assert parts.entropy.tolist() == [np.log(2)] * 2
    assert parts.kl == pytest.approx(np.log(5 / 3), rel=1e-15)
    assert parts.cross_entropy == pytest.approx(-0.5 * np.log(0.09), rel=1e-15)


def test_scipy_agrees() -> None:
    """On normalised inputs, H and KL are scipy.stats.entropy's, and JS is its distance squared."""
    rng = np.random.default_rng(5)
    p, q = rng.dirichlet(np.ones(9), (4, 3)), rng.dirichlet(np.ones(9), (4, 3))
    np.testing.assert_allclose(entropy(p), scipy.stats.entropy(p, axis=-1), rtol=1e-13)
    np.testing.assert_allclose(kl_divergence(p, q), scipy.stats.entropy(p, q, axis=-1), rtol=1e-12)
    m = (p + q) / 2
    js = (scipy.stats.entropy(p, m, axis=-1) + scipy.stats.entropy(q, m, axis=-1)) / 2
    np.testing.assert_allclose(jensen_shannon(p, q), js, rtol=1e-12)


def test_zero_probabilities() -> None:
    """0 log 0 is 0 (minus zero too), p > 0 where q = 0 gives inf, and JS is at most log 2."""
    assert entropy([1.0, 0.0]) == 0
    assert not np.signbit(entropy([1.0, 0.0]))
    assert cross_entropy([1.0, -0.0], [0.5, 0.5]) == np.log(2)
    assert kl_divergence([1.0, -0.0], [0.5, 0.5]) == pytest.approx(np.log(2), rel=1e-15)
    assert kl_divergence([1.0, 0.0], [1.0, -0.0]) == cross_entropy([1.0, 0.0], [1.0, 0.0]) == 0
    assert kl_divergence([0.5, 0.5], [1.0, 0.0]) == cross_entropy([0.5, 0.5], [1.0, 0.0]) == np.inf
    assert kl_divergence([1, 5e-324], [1.0, -0.0]) == np.inf
    assert jensen_shannon([0.5, 0.5, 0], [0, 0, 1]) == pytest.approx(np.log(2), rel=1e-15)
    assert total_variation([0.5, 0.5, 0], [0, 0, 1]) == 1
    assert perplexity([0.5, 0.5], [1.0, 0.0]) == np.inf


@pytest.mark.parametrize("form", ["log_probs", "logits"])
def test_impossible_outcomes_in_logarithms(form: Given) -> None:
    """-inf is an impossible outcome; an outcome that only underflows keeps its true surprisal."""
    a, b = np.array([0.0, -np.inf]), np.log([0.5, 0.5])
    assert entropy(a, given=form) == 0
    assert cross_entropy(a, b, given=form) == pytest.approx(np.log(2), rel=1e-15)
    assert kl_divergence(a, b, given=form) == pytest.approx(np.log(2), rel=1e-15)
    assert kl_divergence(b, a, given=form) == cross_entropy(b, a, given=form) == np.inf
    assert kl_divergence(a, a, given=form) == cross_entropy(a, a, given=form) == 0
    assert jensen_shannon(a, a, given=form) == total_variation(a, a, given=form) == 0
    assert total_variation(a, b, given=form) == pytest.approx(0.5, rel=1e-15)
    far = np.array([-2000.0, 0.0])
    assert cross_entropy([0.0, -np.inf], far, given=form) == 2000
    assert kl_divergence([0.0, -np.inf], far, given=form) == 2000
    assert (
        cross_entropy(far, a[::-1], given=form) == kl_divergence(far, a[::-1], given=form) == np.inf
    )


def test_log_softmax() -> None:
    """It is the logits less their logsumexp, for a masked or huge logit and on any axis."""
    rng = np.random.default_rng(2)
    z = 30 * rng.standard_normal((3, 4, 5))
    z[0, 0, 0] = -np.inf
    for axis in (0, 1, -1):
        theirs = scipy.special.log_softmax(z, axis=axis)
        np.testing.assert_allclose(log_softmax(z, axis=axis), theirs, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(log_softmax([1e308, -1e308]), [0, -np.inf])
    assert log_softmax([60.0, 0.0])[0] == pytest.approx(-np.exp(-60), rel=1e-14)


def test_logits_ignore_a_shift() -> None:
    """Adding a constant to the logits changes nothing, up to the rounding of the sum."""
    a, b = np.array([0.5, 1.5, -2.0]), np.array([0.25, 1.0, 3.0])
    expected = pytest.approx(kl_divergence(a, b, given="logits"), rel=4e-16, abs=0)
    assert kl_divergence(a + 64, b - 32, given="logits") == expected


@pytest.mark.parametrize("form", ["probs", "log_probs", "logits"])
@pytest.mark.parametrize("measure", MEASURES)
def test_axes_batches_and_broadcasting_agree_with_a_loop(measure: str, form: Given) -> None:
    """Any axis and any broadcast batch give, row by row, what a loop over the rows gives."""
    rng = np.random.default_rng(11)
    p, q = rng.dirichlet(np.ones(6), (4, 1, 3)), rng.dirichlet(np.ones(6), (5, 3))
    if form != "probs":
        p, q = np.log(p), np.log(q)
    call = MEASURES[measure]
    both = np.broadcast_arrays(p, q)
    looped = np.array(
        [
            call(a, b, given=form)
            for a, b in zip(both[0].reshape(-1, 6), both[1].reshape(-1, 6), strict=True)
        ]
    ).reshape(4, 5, 3)
    np.testing.assert_allclose(
        call(both[0], both[1], given=form, axis=3), looped, rtol=1e-14, atol=0
    )
    moved = [np.moveaxis(a, -1, 1) for a in both]
    np.testing.assert_allclose(call(*moved, given=form, axis=1), looped, rtol=1e-14, atol=0)
    if measure != "entropy":
        np.testing.assert_allclose(call(p, q, given=form), looped, rtol=1e-14, atol=0)


def test_blocks_change_no_result() -> None:
    """Rows wider than a block, and a batch that does not divide into blocks, change no result."""
    rng = np.random.default_rng(1)
    p, q = rng.dirichlet(np.ones(300), 200), rng.dirichlet(np.ones(300), 200)
    looped = [kl_divergence(a, b) for a, b in zip(p, q, strict=True)]
    np.testing.assert_array_equal(kl_divergence(p, q), looped)
    wide_p, wide_q = rng.dirichlet(np.ones(40_000), 2), rng.dirichlet(np.ones(40_000), 2)
    naive = (wide_p * np.log(wide_p / wide_q)).sum(-1)
    np.testing.assert_allclose(kl_divergence(wide_p, wide_q), naive, rtol=1e-12)
    assert entropy(np.ones((0, 3))).shape == (0,)


def test_arguments_are_left_alone() -> None:
    """No function writes into the arrays that it is given."""
    p, q = np.array([0.25, 0.75, -0.0]), np.array([0.5, 0.25, 0.25])
    kept = p.copy(), q.copy()
    decompose(p, q)
    jensen_shannon(p, q)
    log_softmax(p)
    normalise(p)
    np.testing.assert_array_equal([p, q], kept)
    assert np.signbit(p[2])


def test_perplexity_is_the_exponential() -> None:
    """exp H for a truth, exp CE for a model: k equal outcomes have perplexity k."""
    assert perplexity(np.full(8, 0.125)) == pytest.approx(8, rel=1e-15)
    assert perplexity([1.0, 0.0], [0.25, 0.75]) == pytest.approx(4, rel=1e-15)
    assert perplexity([0.0, 0.0], [0.0, np.log(3)], given="logits") == pytest.approx(4 / 3**0.5)


def test_normalise_is_the_only_renormalisation() -> None:
    """Counts pass through normalise, at any scale, and through nothing else."""
    np.testing.assert_array_equal(normalise([[1, 3], [2, 2]], axis=0), [[1 / 3, 0.6], [2 / 3, 0.4]])
    np.testing.assert_array_equal(normalise([1.5e308, 1.5e308]), [0.5, 0.5])
    np.testing.assert_array_equal(normalise([5e-324, 0]), [1, 0])
    with pytest.raises(InvalidValueError, match=r"p\[1\] is 3.0"):
        entropy([1, 3], axis=0)


def test_float32_needs_a_wider_tolerance_by_name() -> None:
    """Totals of a float32 softmax miss 1 by 1e-7: refused, unless a tolerance is passed."""
    p = np.full(3, np.float32(1) / np.float32(3)) * np.float32(1.0000002)
    with pytest.raises(InvalidValueError, match=r"p sums to .*1e-09"):
        entropy(p)
    assert entropy(p, tolerance=1e-5) == pytest.approx(np.log(3), abs=1e-6)


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: kl_divergence([0.25] * 4, [0.6, 0.5, 0.1, -0.2]), r"q\[3\] is -0.2.*\[0, 1\]"),
    (lambda: entropy([[0.5, 0.5], [0.5, np.nan]]), r"p\[1, 1\] is nan.*\[0, 1\]"),
    (lambda: entropy([0.5, np.inf]), r"p\[1\] is inf.*\[0, 1\]"),
    (lambda: entropy([1.25, -0.25]), r"p\[0\] is 1.25.*\[0, 1\]"),
    (lambda: cross_entropy([[0.5, 0.5]], [[0.5, 0.5], [0.5, 0.375]]), r"q\[1\] sums to 0.875"),
    (lambda: entropy([[0.5, 0.5], [0.5, 0.375]], axis=0), r"p\[1\] sums to 0.875.*axis -2"),
    (lambda: entropy([0.5, 0.25]), "p sums to 0.75.*axis -1.*1e-09.*normalise.*tolerance="),
    (lambda: entropy([0.5, -1.0], given="log_probs"), r"p\[0\] is 0.5"),
    (lambda: entropy([-1.0, np.nan], given="log_probs"), r"p\[1\] is nan"),
    (lambda: entropy(np.log([0.5, 0.25]), given="log_probs"), r"p .*sum to 0.75.*axis -1"),
    (lambda: kl_divergence([0.0, 0.0], [0.0, np.inf], given="logits"), r"q\[1\] is inf"),
    (lambda: log_softmax([[0.0, 0.0], [-np.inf, -np.inf]]), r"logits\[1\] .*-inf.*axis -1"),
    (lambda: normalise([1, -3]), r"weights\[1\] is -3.0"),
    (lambda: normalise([0, 0]), r"weights\[0\] .*positive"),
    (lambda: kl_divergence([0.5, 0.5], [0.25] * 4), r"p has shape \(2,\) and q has shape \(4,\)"),
    (lambda: kl_divergence([1.0], [0.5, 0.5]), r"p has shape \(1,\).*axis -1.*outcomes"),
    (lambda: entropy([]), r"p has shape \(0,\).*axis -1.*outcomes"),
    (lambda: entropy([1.0], axis=1), r"axis is 1.*p has shape \(1,\)"),
    (lambda: entropy(["a"]), "p .*real numbers"),
    (lambda: entropy([1j]), "p .*real numbers"),
    (lambda: entropy([1.0], given="bits"), "given is 'bits'.*'log_probs'"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_wrong_input_is_named_with_its_place(call: Callable[[], object], message: str) -> None:
    """A wrong argument raises InvalidValueError with its name, its place and its value."""
    with pytest.raises(InvalidValueError, match=message):
        call()


def test_the_messages_for_a_value_and_for_a_total() -> None:
    """The golden messages of this family: name, place, value, rule, remedy."""
    with pytest.raises(InvalidValueError) as value:
        kl_divergence([0.25] * 4, [0.6, 0.5, 0.1, -0.2])
    assert str(value.value) == "q[3] is -0.2: a probability must be in [0, 1]"
    with pytest.raises(InvalidValueError) as total:
        entropy([[0.5, 0.5], [0.5, 0.375]])
    assert str(total.value) == (
        "p[1] sums to 0.875: along axis -1 that must be 1 within 1e-09; normalise() it, or pass "
        "a larger tolerance="
    )
