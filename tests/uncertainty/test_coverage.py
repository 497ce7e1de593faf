"""Coverage: how often 95 % intervals contain the truth, beside those of independent tokens."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from scipy import stats
from scipy.signal import lfilter

from kullback.sources.automaton import Arc, Automaton
from kullback.sources.language import Language
from kullback.text.special_tokens import EOS
from kullback.uncertainty.intervals import mean_with_interval, simultaneous_means

Text = tuple[np.ndarray, np.ndarray | None, np.ndarray | None]
# Seeds, and the tolerance of a coverage: with few seeds three of its standard deviations.
FEW, MANY = (100, 0.065), (1000, 0.02)
SEEDS = pytest.mark.parametrize(
    ("seeds", "tolerance"), [FEW, pytest.param(*MANY, marks=pytest.mark.slow)]
)


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
    """How often the interval contains the truth, and how often that of independent tokens does."""
    inside = independent = count = 0
    for values, documents, denominator in texts:
        mean = mean_with_interval(values, documents, "", denominator)
        inside += mean.interval[0] <= truth <= mean.interval[1]
        low, high = mean.independent_interval
        independent += low <= truth <= high
        count += 1
    return inside / count, independent / count


def autoregressive(rho: float, size: int, documents: int, seeds: int) -> Iterator[Text]:
    """Gaussian AR(1) series of mean 0."""
    rng = np.random.default_rng(1)
    ids = np.repeat(np.arange(documents), size)
    for _ in range(seeds):
        noise = rng.standard_normal((documents, size + 500))
        yield lfilter([1], [1, -rho], noise, axis=-1)[:, 500:].reshape(-1), ids, None


def regimes(seeds: int) -> Iterator[Text]:
    """Surprisals of mean 1 whose level changes every 30 tokens or so."""
    rng = np.random.default_rng(2)
    for _ in range(seeds):
        sign = 2 * ((np.cumsum(rng.random(5000) < 1 / 30) + rng.integers(2)) % 2) - 1
        yield (1 + 0.6 * sign) * rng.standard_exponential(5000), None, None


def sampled(
    language: Language, value: np.ndarray, weight: np.ndarray, paragraphs: bool, seeds: int
) -> Iterator[Text]:
    """Texts of 100 paragraphs, with value and weight of each of their tokens, given by arc."""
    sample = language.sample(seeds * 100, np.random.default_rng(3))
    mask = sample.mask
    for seed in range(seeds):
        rows = slice(100 * seed, 100 * (seed + 1))
        arcs = sample.arcs[rows][mask[rows]]
        ids = np.repeat(np.arange(100), sample.lengths[rows]) if paragraphs else None
        yield value[arcs], ids, weight[arcs]


@SEEDS
@pytest.mark.parametrize(
    ("rho", "size", "documents"), [(0.5, 2000, 1), (0.9, 4000, 1), (0.8, 1500, 3)]
)
def test_interval_of_autoregressive_texts_covers(
    rho: float, size: int, documents: int, seeds: int, tolerance: float
) -> None:
    """On AR(1) series, one or three, the 95 % interval covers in 93-97 % of 1,000 seeds."""
    inside, independent = coverage(autoregressive(rho, size, documents, seeds), 0.0)
    assert inside == pytest.approx(0.95, abs=tolerance)
    assert independent < 0.8


@SEEDS
def test_interval_of_regimes_covers(seeds: int, tolerance: float) -> None:
    """Where surprisal switches between two levels, the interval covers and the tokens' does not."""
    inside, independent = coverage(regimes(seeds), 1.0)
    assert inside == pytest.approx(0.95, abs=tolerance)
    assert independent < 0.6


@SEEDS
@pytest.mark.parametrize("paragraphs", [False, True])
@pytest.mark.parametrize("quantity", ["entropy", "kl", "nats a byte"])
def test_interval_on_a_source_covers(
    moods: Language, quantity: str, paragraphs: bool, seeds: int, tolerance: float
) -> None:
    """On a source whose entropy, KL and nats a byte are known, the interval covers the truth."""
    q = np.random.default_rng(5).dirichlet(np.full(len(moods.vocabulary), 2.0))
    weight = np.ones(len(moods.arc_tokens))
    value = -moods.log_probs
    if quantity == "kl":  # the paired difference of the two models' nll
        value = moods.log_probs - np.log(q)[moods.arc_tokens]
    if quantity == "nats a byte":
        token_bytes = np.array([len(token.encode()) for token in moods.vocabulary], float)
        weight = token_bytes[moods.arc_tokens]
    frequency = moods.expected_visits[moods.arc_states] * moods.probabilities
    truth = float(frequency @ value) / float(frequency @ weight)
    if quantity == "entropy":
        assert truth == pytest.approx(moods.entropy_per_token, rel=1e-12)
    inside, independent = coverage(sampled(moods, value, weight, paragraphs, seeds), truth)
    assert inside == pytest.approx(0.95, abs=tolerance)
    assert independent < 0.7


@SEEDS
def test_interval_of_unequal_documents_covers(seeds: int, tolerance: float) -> None:
    """The interval covers for forty documents of unequal sizes, each with a mean of its own."""

    def texts() -> Iterator[Text]:
        rng = np.random.default_rng(4)
        for _ in range(seeds):
            size = np.ceil(rng.lognormal(4.0, 0.8, 40)).astype(int)
            ids = np.repeat(np.arange(40), size)
            offset = 0.3 * rng.standard_normal(40)
            yield offset[ids] + rng.standard_exponential(len(ids)) - 1, ids, None

    inside, independent = coverage(texts(), 0.0)
    assert inside == pytest.approx(0.95, abs=tolerance)
    assert independent < 0.6


@pytest.mark.parametrize(
    ("seeds", "tolerance"), [FEW, pytest.param(400, 0.02, marks=pytest.mark.slow)]
)
def test_family_of_intervals_covers_all_at_once(seeds: int, tolerance: float) -> None:
    """Simultaneous intervals of eight correlated means contain all means in 95 % of seeds."""
    rng = np.random.default_rng(6)
    together = alone = 0
    for _ in range(seeds):
        values = rng.standard_normal((8, 400)) + 0.5 * rng.standard_normal(400)
        ids = np.arange(400) // 20
        means = simultaneous_means(values, ids, "")
        together += all(low <= 0 <= high for low, high in (m.interval for m in means))
        critical = stats.t.ppf(0.975, 19)
        alone += all(abs(m.value) <= critical * m.standard_error for m in means)
        if together == 1:  # between a single interval's and Bonferroni's
            assert critical < means[0].critical_value < stats.t.ppf(1 - 0.025 / 8, 19)
    assert together / seeds == pytest.approx(0.95, abs=tolerance)
    assert alone / seeds < 0.85
