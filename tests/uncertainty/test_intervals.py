"""Intervals: how often they cover, and what they are made of."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from arch.bootstrap import optimal_block_length as arch_block_length
from scipy import stats
from scipy.signal import lfilter

from bootstrap import bootstrap_over_blocks, bootstrap_over_documents
from kullback.errors import InvalidValueError
from kullback.results.measurement import Measurement
from kullback.sources.automaton import Arc, Automaton
from kullback.sources.language import Language
from kullback.text.special_tokens import EOS
from kullback.uncertainty.clusters import cluster_spread
from kullback.uncertainty.intervals import (
    mean_with_interval,
    perplexity,
    ratio_of_sums,
    simultaneous_means,
)
from kullback.uncertainty.long_run_variance import cosine_coefficients, memory, optimal_block_length

SEEDS = 1000
Text = tuple[np.ndarray, np.ndarray | None, np.ndarray | None]


@pytest.fixture(scope="module")
def moods() -> Language:
    """Paragraphs of about 40 words in one of two moods: two words to choose from, or sixteen."""
    stop = 1 / 40
    arcs: dict[str, list[Arc]] = {"start": []}
    for mood, words in (("calm", 2), ("wild", 16)):
        names = [f"{mood}{i}" * (1 + i % 3) for i in range(words)]
        arcs["start"] += [Arc(name, mood, 0.5 / words, mood) for name in names]
        arcs[mood] = [Arc(name, mood, (1 - stop) / words, mood) for name in names]
        arcs[mood].append(Arc(EOS, "end", stop, None))
    return Automaton.from_arcs("moods", "start", arcs).determinise()


def coverage(texts: Iterator[Text], truth: float) -> tuple[float, float]:
    """How often the interval covers, and how often that of independent tokens does."""
    ours = tokens = count = 0
    for values, documents, denominator in texts:
        measured = mean_with_interval(values, documents, "", denominator)
        ours += measured.interval[0] <= truth <= measured.interval[1]
        low, high = measured.independent_interval
        tokens += low <= truth <= high
        count += 1
    return ours / count, tokens / count


def autoregressive(rho: float, size: int, documents: int) -> Iterator[Text]:
    """Gaussian AR(1) series of mean 0."""
    rng = np.random.default_rng(1)
    ids = np.repeat(np.arange(documents), size)
    for _ in range(SEEDS):
        noise = rng.standard_normal((documents, size + 500))
        yield lfilter([1], [1, -rho], noise, axis=-1)[:, 500:].reshape(-1), ids, None


def regimes() -> Iterator[Text]:
    """Surprisals of mean 1 whose level changes every 30 tokens or so."""
    rng = np.random.default_rng(2)
    for _ in range(SEEDS):
        sign = 2 * ((np.cumsum(rng.random(5000) < 1 / 30) + rng.integers(2)) % 2) - 1
        yield (1 + 0.6 * sign) * rng.standard_exponential(5000), None, None


def sampled(
    language: Language, value: np.ndarray, each: np.ndarray, paragraphs: bool
) -> Iterator[Text]:
    """Texts of 100 paragraphs, and what each of their words is worth."""
    sample = language.sample(SEEDS * 100, np.random.default_rng(3))
    mask = sample.mask
    for seed in range(SEEDS):
        rows = slice(100 * seed, 100 * (seed + 1))
        arcs = sample.arcs[rows][mask[rows]]
        ids = np.repeat(np.arange(100), sample.lengths[rows]) if paragraphs else None
        yield value[arcs], ids, each[arcs]


@pytest.mark.parametrize(
    ("rho", "size", "documents"), [(0.5, 2000, 1), (0.9, 4000, 1), (0.8, 1500, 3)]
)
def test_interval_of_autoregressive_texts_covers(rho: float, size: int, documents: int) -> None:
    """On AR(1) series, one or three, the 95 % interval covers in 93-97 % of 1,000 seeds."""
    ours, tokens = coverage(autoregressive(rho, size, documents), 0.0)
    assert 0.93 <= ours <= 0.97
    assert tokens < 0.8


def test_interval_of_regimes_covers() -> None:
    """Where surprisal switches between two levels, the interval covers and the tokens' does not."""
    ours, tokens = coverage(regimes(), 1.0)
    assert 0.93 <= ours <= 0.97
    assert tokens < 0.6


@pytest.mark.parametrize("paragraphs", [False, True])
@pytest.mark.parametrize("quantity", ["entropy", "kl", "nats a byte"])
def test_interval_on_a_source_covers(moods: Language, quantity: str, paragraphs: bool) -> None:
    """On a source whose entropy, KL and nats a byte are known, the interval covers the truth."""
    q = np.random.default_rng(5).dirichlet(np.full(len(moods.vocabulary), 2.0))
    each = np.ones(len(moods.arc_tokens))
    value = -moods.log_probs
    if quantity == "kl":  # the paired difference of the two models' nll
        value = moods.log_probs - np.log(q)[moods.arc_tokens]
    if quantity == "nats a byte":
        each = np.array([len(word.encode()) for word in moods.vocabulary], float)[moods.arc_tokens]
    frequency = moods.expected_visits[moods.arc_states] * moods.probabilities
    truth = float(frequency @ value) / float(frequency @ each)
    if quantity == "entropy":
        assert truth == pytest.approx(moods.entropy_per_token, rel=1e-12)
    ours, tokens = coverage(sampled(moods, value, each, paragraphs), truth)
    assert 0.93 <= ours <= 0.97
    assert tokens < 0.7


def test_interval_of_unequal_documents_covers() -> None:
    """The interval covers for forty documents of unequal sizes, each with a mean of its own."""

    def texts() -> Iterator[Text]:
        rng = np.random.default_rng(4)
        for _ in range(SEEDS):
            size = np.ceil(rng.lognormal(4.0, 0.8, 40)).astype(int)
            ids = np.repeat(np.arange(40), size)
            offset = 0.3 * rng.standard_normal(40)
            yield offset[ids] + rng.standard_exponential(len(ids)) - 1, ids, None

    ours, tokens = coverage(texts(), 0.0)
    assert 0.93 <= ours <= 0.97
    assert tokens < 0.6


def test_family_of_intervals_covers_all_at_once() -> None:
    """Simultaneous intervals of eight correlated means hold together in 93-97 % of 400 seeds."""
    rng = np.random.default_rng(6)
    together = alone = 0
    for _ in range(400):
        values = rng.standard_normal((8, 400)) + 0.5 * rng.standard_normal(400)
        ids = np.arange(400) // 20
        found = simultaneous_means(values, ids, "")
        together += all(low <= 0 <= high for low, high in (m.interval for m in found))
        critical = stats.t.ppf(0.975, 19)
        alone += all(abs(m.value) <= critical * m.standard_error for m in found)
        if together == 1:  # between a single interval's and Bonferroni's
            assert critical < found[0].critical_value < stats.t.ppf(1 - 0.025 / 8, 19)
    assert 0.93 <= together / 400 <= 0.97
    assert alone / 400 < 0.85


def test_copies_of_a_candidate_cost_nothing() -> None:
    """A family of identical candidates has the interval of one."""
    values = np.random.default_rng(7).standard_normal(1000)
    ids = np.arange(1000) // 20
    family = simultaneous_means(np.stack([values] * 5), ids, "")
    one = mean_with_interval(values, ids, "")
    width = one.interval[1] - one.interval[0]
    assert family[0].interval == pytest.approx(one.interval, abs=0.01 * width)


def test_equal_clusters_are_the_textbook() -> None:
    """For equal clusters the interval is Student's, of G means, with G − 1 degrees of freedom."""
    values = np.random.default_rng(8).standard_normal((12, 30))
    measured = mean_with_interval(values.reshape(-1), np.arange(360) // 30, "nats/token")
    means = values.mean(axis=1)
    expected = stats.t.interval(0.95, 11, means.mean(), stats.sem(means))
    assert measured.interval == pytest.approx(expected, rel=1e-9)
    sums = ratio_of_sums(values.sum(axis=1), np.full(12, 30.0), "nats/token", 360)
    assert sums.interval == pytest.approx(expected, rel=1e-9)


def test_cluster_degrees_are_those_of_the_matrix_formula() -> None:
    """Contributions and Satterthwaite's degrees of freedom equal the G × G matrix computation."""
    rng = np.random.default_rng(9)
    x = rng.uniform(1, 20, 15)
    residual = rng.standard_normal(15) * x
    residual -= residual.sum() * x / x.sum()
    contribution, degrees = cluster_spread(residual, x)
    w = x / x.sum()
    z, design = residual**2 / w, np.stack([np.ones(15), w], axis=1)
    alpha, beta = np.linalg.lstsq(design, z, rcond=None)[0]
    if alpha < 0:
        alpha, beta = 0.0, 1.0
    if beta < 0:
        alpha, beta = 1.0, 0.0
    d = alpha * w + beta * w**2
    projection = np.eye(15) - np.outer(w, np.ones(15))
    covariance = projection @ np.diag(d) @ projection.T
    a = np.diag(d / np.diag(covariance))
    product = a @ covariance
    assert contribution @ contribution == pytest.approx(residual @ a @ residual, rel=1e-9)
    assert degrees == pytest.approx(np.trace(product) ** 2 / np.trace(product @ product), rel=1e-9)


def test_design_effect_and_effective_size() -> None:
    """Tokens repeated k times have a design effect of k and are worth n / k."""
    values = np.repeat(np.random.default_rng(10).standard_normal(2000), 5)
    measured = mean_with_interval(values, np.arange(10_000) // 5, "")
    assert measured.design_effect == pytest.approx(5, rel=0.01)
    assert measured.effective_n == pytest.approx(2000, rel=0.01)
    assert measured.n == 10_000


def test_documents_are_found_however_they_are_laid_out() -> None:
    """Interleaved documents give what the same documents give one after the other."""
    values = np.random.default_rng(11).standard_normal((20, 50))
    ids = np.arange(1000).reshape(20, 50) // 50
    after = mean_with_interval(values.reshape(-1), ids.reshape(-1), "")
    between = mean_with_interval(values.T.reshape(-1), ids.T.reshape(-1), "")
    assert between.interval == pytest.approx(after.interval, rel=1e-12)


@pytest.mark.parametrize("tokens", [1, 2, 60])
def test_too_little_text_has_no_interval(tokens: int) -> None:
    """A text too short to show its memory has a mean and a sentence instead of an interval."""
    measured = mean_with_interval(np.arange(tokens) % 3, None, "nats/token")
    assert measured.standard_error == math.inf
    assert measured.interval == (-math.inf, math.inf)
    assert "too few independent pieces" in str(measured)
    assert math.isnan(measured.effective_n)


def test_four_short_documents_have_no_interval() -> None:
    """Fewer than five short documents are too few for an interval, and the message says so."""
    values = np.random.default_rng(12).standard_normal(200)
    measured = mean_with_interval(values, np.arange(200) // 50, "nats/token")
    assert measured.standard_error == math.inf
    assert "4 documents of 200 tokens" in measured.note


def test_two_long_documents_that_differ_say_so() -> None:
    """Two long documents with different means get an interval for themselves only, and a note."""
    values = np.random.default_rng(13).standard_normal(8000) + np.arange(8000) // 4000
    measured = mean_with_interval(values, np.arange(8000) // 4000, "")
    assert math.isfinite(measured.standard_error)
    assert "differ from one another by more than chance" in measured.note


def test_equal_values_and_equal_models_have_no_error() -> None:
    """A constant has error 0, as has the difference of a model from itself."""
    measured = mean_with_interval(np.zeros(1000), np.arange(1000) // 10, "nats/token")
    assert measured.interval == (0.0, 0.0)
    assert measured.design_effect == 1.0
    assert str(measured) == "0.000000 nats/token"


def test_perplexity_keeps_the_interval() -> None:
    """Perplexity is the exponential of the mean, and its bounds those of the mean's bounds."""
    measured = mean_with_interval(np.random.default_rng(14).random(5000), None, "nats/token")
    found = perplexity(measured)
    assert found.value == math.exp(measured.value)
    assert found.interval == tuple(map(math.exp, measured.interval))
    assert found.design_effect == pytest.approx(measured.design_effect)
    assert perplexity(Measurement(1e4, "nats/token", 0.0, 1, 0, "exact")).value == math.inf


def test_infinite_surprisal_is_an_answer() -> None:
    """One token of probability 0 makes the mean infinite, without an interval."""
    measured = mean_with_interval(np.array([1.0, math.inf]), None, "nats/token")
    assert measured.value == math.inf
    assert "infinite" in measured.note


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], None, ""), "at least one token"),
        (([1.0, math.nan], None, ""), r"values\[0, 1\] is NaN"),
        (([1.0, 2.0], np.zeros(3, int), ""), "document has shape"),
        (([1.0, 2.0], None, "", np.array([1.0, -1.0])), r"denominator\[1\] is -1.0"),
        (([1.0, 2.0], None, "", np.zeros(2)), "denominator is 0 everywhere"),
        (([1.0, 2.0], None, "", None, 95.0), "level is 95.0"),
    ],
)
def test_bad_input_is_named(arguments: tuple, message: str) -> None:
    """Each wrong argument is refused by name, with its value."""
    with pytest.raises(InvalidValueError, match=message):
        mean_with_interval(np.array(arguments[0]), *arguments[1:])


def test_block_length_is_that_of_arch() -> None:
    """The automatic block length equals that of the `arch` package on 97 of 100 series."""
    rng = np.random.default_rng(15)
    equal = 0
    for _ in range(100):
        noise = rng.standard_normal(int(rng.integers(50, 3000)))
        series = lfilter([1], [1, -rng.uniform(-0.5, 0.97)], noise)
        theirs = arch_block_length(series).iloc[0]
        ours = optimal_block_length(series)
        # Near a threshold theirs differs: its autocorrelations are divided by another variance.
        equal += np.allclose(ours, [theirs.stationary, theirs.circular], rtol=1e-9)
    assert equal >= 97


def test_memory_sees_a_weak_long_regime() -> None:
    """A regime too weak for any single autocorrelation shows in sums over neighbours."""
    rng = np.random.default_rng(16)
    sign = 2 * (np.cumsum(rng.random(30_000) < 1 / 300) % 2) - 1
    series = 0.15 * sign + rng.standard_normal(30_000)
    assert optimal_block_length(series).circular < 150
    assert memory(series) > 300


def test_cosines_estimate_the_long_run_variance() -> None:
    """The mean square of the lowest cosine coefficients of AR(1) noise is 1 / (1 − ρ)²."""
    noise = np.random.default_rng(17).standard_normal((400, 5000))
    series = lfilter([1], [1, -0.7], noise, axis=1)
    squares = [np.mean(cosine_coefficients(row, 20) ** 2) for row in series]
    assert np.mean(squares) == pytest.approx(1 / 0.3**2, rel=0.04)


def test_document_bootstrap_agrees_where_documents_are_many() -> None:
    """With 6,000 documents the percentile-t bootstrap gives the interval of the formula."""
    rng = np.random.default_rng(18)
    size = rng.integers(5, 50, 6000).astype(float)
    sums = size * rng.standard_normal(6000)
    resampled = bootstrap_over_documents(sums, size, "", int(size.sum()))
    formula = ratio_of_sums(sums, size, "", int(size.sum()))
    width = formula.interval[1] - formula.interval[0]
    assert resampled.interval == pytest.approx(formula.interval, abs=0.05 * width)


def test_block_bootstrap_is_scipys_for_blocks_of_one() -> None:
    """With blocks of one token the interval is that of an ordinary bootstrap."""
    values = np.random.default_rng(19).standard_exponential(500)
    blocks = bootstrap_over_blocks(values, "", block_length=1, resamples=5000)
    plain = stats.bootstrap(
        (values,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    width = plain.high - plain.low
    assert blocks.interval == pytest.approx((plain.low, plain.high), abs=0.05 * width)


def test_a_text_without_memory_is_resampled_token_by_token() -> None:
    """Where the automatic block length falls below one token, a block is one token."""
    lengths = {
        bootstrap_over_blocks(np.random.default_rng(seed).standard_normal(400), "").method
        for seed in range(20)
    }
    shortest = min(
        optimal_block_length(np.random.default_rng(seed).standard_normal(400)).circular
        for seed in range(20)
    )
    assert shortest < 1
    assert any("blocks of 1 tokens" in method for method in lengths)


def test_bootstraps_refuse_what_they_cannot_resample() -> None:
    """One document, no token and a block below one token are refused."""
    with pytest.raises(InvalidValueError, match="at least two"):
        bootstrap_over_documents(np.ones(1), np.ones(1), "", 1)
    with pytest.raises(InvalidValueError, match="empty"):
        bootstrap_over_blocks(np.ones(0), "")
    with pytest.raises(InvalidValueError, match="block_length is 0"):
        bootstrap_over_blocks(np.ones(5), "", block_length=0)


def test_a_document_without_any_denominator_is_no_error() -> None:
    """A short document that has nothing in the denominator takes no part, and crashes nothing."""
    document = np.repeat([0, 1], [4000, 50])
    denominator = (document == 0).astype(float)
    values = np.random.default_rng(0).random(4050) * denominator
    found = mean_with_interval(values, document, "", denominator)
    assert found.value == pytest.approx(values[:4000].mean())
    assert math.isfinite(found.interval[0])
