"""Kneser-Ney models against a literal implementation, and on a source of known entropy."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kullback.errors import InvalidValueError
from kullback.models.kneser_ney import NgramModel


class LiteralKneserNey:
    """The oracle: dictionaries of tuples and a recursion, straight from the formulas."""

    def __init__(self, sentences: list[list[int]], order: int, size: int, bos: int | None) -> None:
        self.order, self.size = order, size
        start = [] if bos is None else [bos]
        occurrences: Counter[tuple[int, ...]] = Counter()
        at_the_edge: Counter[tuple[int, ...]] = Counter()
        left_neighbours: defaultdict[tuple[int, ...], set[int]] = defaultdict(set)
        for sentence in sentences:
            row = start + sentence
            for end in range(len(start), len(row)):
                for first in range(max(0, end - order + 1), end + 1):
                    gram = tuple(row[first : end + 1])
                    occurrences[gram] += 1
                    if first == 0:
                        at_the_edge[gram] += 1
                    else:
                        left_neighbours[gram].add(row[first - 1])
        self.count = {
            gram: c if len(gram) == order else len(left_neighbours[gram]) + at_the_edge[gram]
            for gram, c in occurrences.items()
        }
        self.discounts = [self._discounts(n) for n in range(1, order + 1)]
        self.followers: defaultdict[tuple[int, ...], dict[int, int]] = defaultdict(dict)
        for gram, a in self.count.items():
            self.followers[gram[:-1]][gram[-1]] = a

    def _discounts(self, n: int) -> list[float]:
        of_count = Counter(a for gram, a in self.count.items() if len(gram) == n)
        n1, n2, n3, n4 = (of_count[k] for k in (1, 2, 3, 4))
        if n1 * n2 * n3 * n4 == 0:
            return [0.5, 1.0, 1.5]
        y = n1 / (n1 + 2 * n2)
        discounts = [1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
        valid = all(0 < d <= k for k, d in enumerate(discounts, start=1))
        return discounts if valid else [0.5, 1.0, 1.5]

    def probability(self, token: int, context: tuple[int, ...]) -> float:
        """Return p(token | context), by the recursion over shorter contexts."""
        context = context[max(0, len(context) - self.order + 1) :]
        shorter = self.probability(token, context[1:]) if context else 1 / self.size
        followers = self.followers.get(context, {})
        total = sum(followers.values())
        if total == 0:
            return shorter
        discounts = self.discounts[len(context)]
        freed = sum(discounts[min(a, 3) - 1] for a in followers.values())
        a = followers.get(token, 0)
        kept = a - discounts[min(a, 3) - 1] if a else 0.0
        return kept / total + freed / total * shorter


def zipf_sentences(n: int, size: int, rng: np.random.Generator) -> list[list[int]]:
    """Return sentences over ids 2 … size − 1 (0 is bos), each ending in 1, with rich counts."""
    weights = 1 / np.arange(1, size - 1)
    sentences = []
    for length in rng.integers(0, 9, n):
        words = 2 + rng.choice(size - 2, length, p=weights / weights.sum())
        sentences.append([*words.tolist(), 1])
    return sentences


def all_contexts(length: int, size: int) -> np.ndarray:
    """Return every context of `length` tokens."""
    return np.array(np.meshgrid(*[range(size)] * length)).reshape(length, -1).T


def padded(sentences: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return a padded array and the lengths."""
    lengths = np.array([len(s) for s in sentences])
    tokens = np.full((len(sentences), lengths.max()), -1)
    for row, sentence in zip(tokens, sentences, strict=True):
        row[: len(sentence)] = sentence
    return tokens, lengths


@pytest.mark.parametrize("bos", [0, None])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_equals_the_published_formulas_written_out(order: int, bos: int | None) -> None:
    """Every conditional probability of every context equals the literal recursion's."""
    size = 7
    sentences = zipf_sentences(300, size, np.random.default_rng(order))
    model = NgramModel.fit(sentences, order=order, vocabulary_size=size, bos=bos)
    oracle = LiteralKneserNey(sentences, order, size, bos)
    np.testing.assert_allclose(model.discounts, oracle.discounts, rtol=0, atol=1e-14)
    for length in range(order):
        contexts = all_contexts(length, size) if length else np.empty((1, 0), dtype=int)
        expected = [
            [oracle.probability(token, tuple(map(int, context))) for token in range(size)]
            for context in contexts
        ]
        left = np.full((len(contexts), order - 1 - length), -1)
        measured = np.exp(model.log_probs(np.hstack([left, contexts])))
        np.testing.assert_allclose(measured, expected, rtol=0, atol=1e-12)


def test_the_oracle_comparison_exercises_estimated_discounts() -> None:
    """On the oracle's corpus the orders above 1 estimate their discounts, not the fallback."""
    sentences = zipf_sentences(300, 7, np.random.default_rng(3))
    model = NgramModel.fit(sentences, order=3, vocabulary_size=7, bos=0)
    assert (model.discounts[2] != [0.5, 1.0, 1.5]).all()


@settings(max_examples=60, deadline=None)
@given(
    sentences=st.lists(st.lists(st.integers(0, 3), max_size=7), min_size=1, max_size=8).filter(any),
    order=st.integers(1, 6),
    bos=st.sampled_from([None, 0]),
)
def test_any_corpus_gives_the_formulas_normalised_and_positive(
    sentences: list[list[int]], order: int, bos: int | None
) -> None:
    """Empty rows, rows shorter than the order and bos inside a row still follow the formulas."""
    model = NgramModel.fit(sentences, order=order, vocabulary_size=4, bos=bos)
    oracle = LiteralKneserNey(sentences, order, 4, bos)
    start = [] if bos is None else [bos]
    for sentence in sentences:
        for end in range(len(sentence) + 1):
            p = model.next_token_distribution(sentence[:end])
            context = tuple(start + sentence[:end])
            expected = [oracle.probability(token, context) for token in range(4)]
            np.testing.assert_allclose(p, expected, rtol=0, atol=1e-12)
            assert abs(p.sum() - 1) < 1e-12
            assert (p > 0).all()


def test_rows_sum_to_one_at_a_real_vocabulary() -> None:
    """With 600 words and order 5 every row, seen or not, sums to 1 within 1e-12."""
    rng = np.random.default_rng(5)
    tokens = np.minimum(rng.geometric(0.02, (4000, 10)), 599)
    model = NgramModel.fit(tokens, order=5, vocabulary_size=600, bos=0)
    contexts = np.vstack([tokens[:200, 3:7], rng.integers(0, 600, (200, 4))])
    log_probs = model.log_probs(contexts)
    assert np.isfinite(log_probs).all()
    assert np.abs(np.exp(log_probs).sum(axis=1) - 1).max() < 1e-12


@pytest.mark.parametrize("bos", [0, None])
@pytest.mark.parametrize("order", [1, 2, 5])
def test_token_log_probs_are_gathered_from_log_probs(order: int, bos: int | None) -> None:
    """The path that never builds V columns gives the same numbers on text it has not seen."""
    rng = np.random.default_rng(8)
    model = NgramModel.fit(zipf_sentences(400, 9, rng), order=order, vocabulary_size=12, bos=bos)
    sentences = [[4, 2], [2, 3], *zipf_sentences(50, 12, rng), [], [11, 11, 0, 3]]
    tokens, lengths = padded(sentences)
    fast = model.token_log_probs(tokens, lengths)
    assert fast.shape == tokens.shape
    start = [] if bos is None else [bos]
    for row, sentence in enumerate(sentences):
        for end, token in enumerate(sentence):
            seen = (start + sentence[:end])[max(0, len(start) + end - order + 1) :]
            context = np.array([[-1] * (order - 1 - len(seen)) + seen], dtype=int)
            assert abs(fast[row, end] - model.log_probs(context)[0, token]) < 1e-12
        assert (fast[row, len(sentence) :] == 0).all()


def test_a_list_of_rows_and_a_padded_array_are_one_corpus() -> None:
    """fit gives the same model from lists, from arrays, and from a padded uint16 array."""
    sentences = zipf_sentences(200, 8, np.random.default_rng(2))
    tokens, lengths = padded(sentences)
    tokens[tokens < 0] = 65_535
    options: dict[str, Any] = {"order": 3, "vocabulary_size": 8, "bos": 0}
    from_lists = NgramModel.fit(sentences, **options)
    from_arrays = NgramModel.fit([np.array(s, dtype=np.uint8) for s in sentences], **options)
    from_padded = NgramModel.fit(tokens.astype(np.uint16), lengths=lengths, **options)
    contexts = all_contexts(2, 8)
    expected = from_lists.log_probs(contexts)
    np.testing.assert_array_equal(from_arrays.log_probs(contexts), expected)
    np.testing.assert_array_equal(from_padded.log_probs(contexts), expected)


def test_an_unseen_context_backs_off_to_the_longest_seen_one() -> None:
    """A context never seen, or never followed, predicts exactly as without its first token."""
    model = NgramModel.fit([[1, 2, 3, 1, 2, 4]], order=3, vocabulary_size=6, bos=None)
    contexts = np.array([[5, 2], [-1, 2], [3, 5], [-1, -1], [2, 4], [-1, 4]])
    unseen, seen, nothing, empty, text_end, end = model.log_probs(contexts)
    np.testing.assert_array_equal(unseen, seen)
    np.testing.assert_array_equal(nothing, empty)
    np.testing.assert_array_equal(text_end, empty)
    np.testing.assert_array_equal(end, empty)
    assert not np.allclose(seen, empty)


def test_order_one_is_discounted_counts_over_the_uniform() -> None:
    """A unigram model is (c − D) / N plus the freed mass spread evenly over V."""
    model = NgramModel.fit([[0, 0, 0, 0, 1, 1, 2]], order=1, vocabulary_size=4, bos=None)
    freed = (1.5 + 1.0 + 0.5) / 7 / 4
    expected = [2.5 / 7 + freed, 1 / 7 + freed, 0.5 / 7 + freed, freed]
    np.testing.assert_allclose(model.next_token_distribution([3, 3]), expected, rtol=1e-15)
    empty_context = np.empty((2, 0), dtype=int)
    np.testing.assert_allclose(np.exp(model.log_probs(empty_context)), [expected] * 2, rtol=1e-14)


@pytest.mark.parametrize("bos", [0, None])
def test_orders_fitted_together_are_those_fitted_alone(bos: int | None) -> None:
    """Models of several orders that share their counts equal, bit for bit, models fitted alone."""
    size = 7
    sentences = zipf_sentences(200, size, np.random.default_rng(5))
    options: dict[str, Any] = {"vocabulary_size": size, "bos": bos}
    models = NgramModel.fit_orders(sentences, orders=[4, 1, 2], **options)
    assert [model.order for model in models] == [4, 1, 2]
    for model in models:
        alone = NgramModel.fit(sentences, order=model.order, **options)
        contexts = all_contexts(model.order - 1, size) if model.order > 1 else np.empty((1, 0), int)
        np.testing.assert_array_equal(model.discounts, alone.discounts)
        np.testing.assert_array_equal(model.log_probs(contexts), alone.log_probs(contexts))
    with pytest.raises(InvalidValueError, match="orders"):
        NgramModel.fit_orders(sentences, orders=[], **options)


def test_discounts_follow_the_counts_of_counts() -> None:
    """Unigrams with t = (4, 3, 2, 1) get Y = 4/10 and D = (0.4, 1.2, 2.2)."""
    text = [0, 1, 2, 3, *[4, 5, 6] * 2, *[7, 8] * 3, *[9] * 4]
    model = NgramModel.fit([text], order=1, vocabulary_size=10, bos=None)
    np.testing.assert_allclose(model.discounts, [[0.4, 1.2, 2.2]], rtol=1e-14)


def test_without_singletons_the_fallback_still_smooths() -> None:
    """A corpus where every count is large takes ½, 1, 3/2 and leaves no token at zero."""
    model = NgramModel.fit([[1, 2]] * 50, order=2, vocabulary_size=4, bos=0)
    assert model.discounts.tolist() == [[0.5, 1.0, 1.5]] * 2
    p = model.next_token_distribution([1])
    assert abs(p.sum() - 1) < 1e-12
    assert 0 < p[3] < 0.01
    # Below order 2, tokens 1 and 2 have one left neighbour each: bos and 1.
    unigram = (1 - 0.5) / 2 + (0.5 + 0.5) / 2 / 4
    assert p[2] == pytest.approx(48.5 / 50 + 1.5 / 50 * unigram, rel=1e-14)


def test_discounts_outside_their_range_fall_back() -> None:
    """A D₂ that the formula would make negative is not used."""
    text = [0, 1, 2, 3, 4, 4, *[5, 6, 7, 8, 9] * 3, *[10] * 4]  # t = (4, 1, 5, 1): D₂ < 0
    model = NgramModel.fit([text], order=1, vocabulary_size=11, bos=None)
    assert model.discounts.tolist() == [[0.5, 1.0, 1.5]]


def test_continuation_counts_rate_francisco_low() -> None:
    """20 occurrences after one token weigh less, out of context, than 3 after three tokens."""
    san, francisco, glasses, a, b, c = range(6)
    text = [san, francisco] * 20 + [a, glasses, b, glasses, c, glasses]
    model = NgramModel.fit([text], order=2, vocabulary_size=6, bos=None)
    p = np.exp(model.log_probs(np.array([[-1]])))[0]
    assert p[francisco] < p[glasses]
    assert model.next_token_distribution([san])[francisco] > 0.9


def test_cross_entropy_approaches_the_entropy_rate_of_a_known_chain() -> None:
    """On a second-order Markov chain order 3 ends within 0.001 nats of the truth, order 2 far."""
    rng = np.random.default_rng(11)
    size, n = 5, 400_000
    transition = rng.dirichlet(np.full(size, 0.5), (size, size))
    cumulative = transition.cumsum(axis=2)
    tokens = np.zeros(n, dtype=int)
    for t, u in enumerate(rng.random(n - 2), start=2):
        row = cumulative[tokens[t - 2], tokens[t - 1]]
        tokens[t] = min(int(row.searchsorted(u)), size - 1)

    # The stationary distribution of the chain of pairs, and with it the entropy rate.
    pairs = np.zeros((size * size, size * size))
    for i in range(size):
        for j in range(size):
            pairs[i * size + j, j * size : (j + 1) * size] = transition[i, j]
    stationary = np.linalg.matrix_power(pairs, 4096)[0].reshape(size, size)
    entropy_rate = -float((stationary[:, :, None] * transition * np.log(transition)).sum())

    train, test = tokens[: n // 2], tokens[n // 2 :]
    true_surprisal = -np.log(transition[test[:-2], test[1:-1], test[2:]])
    standard_error = true_surprisal.std() / math.sqrt(len(true_surprisal))
    assert abs(true_surprisal.mean() - entropy_rate) < 5 * standard_error

    def divergence(order: int) -> float:
        model = NgramModel.fit([train], order=order, vocabulary_size=size, bos=None)
        surprisal = -model.token_log_probs(test[None])[0, 2:]
        return float((surprisal - true_surprisal).mean())

    # A maximum-likelihood fit would cost about 25 · 4 / (2 · 200,000) = 0.00025 nats.
    assert 0 < divergence(3) < 0.001
    assert divergence(2) > 0.05


OPTIONS: dict[str, Any] = {"order": 2, "vocabulary_size": 4, "bos": 0}


@pytest.mark.parametrize(
    ("sentences", "changed", "message"),
    [
        ([[1, 2], [3, 1, 4]], {}, r"sentences\[1\]\[2\] is 4: .* \[0, 4\)"),
        ([[1, 2], [], [3, -7]], {}, r"sentences\[2\]\[1\] is -7"),
        (np.array([[1, 2], [9, 1]]), {}, r"sentences\[1\]\[0\] is 9"),
        (np.array([[1, 9], [1, 9]]), {"lengths": [1, 2]}, r"sentences\[1\]\[1\] is 9"),
        (np.array([[1, 2], [1, 2]]), {"lengths": [1, 3]}, r"lengths\[1\] is 3: .* \[0, 2\]"),
        (np.array([[1, 2], [1, 2]]), {"lengths": [1]}, r"lengths has 1 entries: it needs 2"),
        ([[1, 2]], {"lengths": [1]}, "lengths must be None"),
        ([1, 2], {}, r"sentences\[0\] has shape \(\)"),
        (np.array([1, 2]), {}, r"sentences has shape \(2,\)"),
        ([[1, 2], [1.5]], {}, r"sentences\[1\] has dtype float64"),
        ([], {}, "sentences .* no token"),
        ([[], []], {}, "sentences .* no token"),
        (np.empty((0, 3), dtype=int), {}, "sentences .* no token"),
        ([[1, 2]], {"order": 0}, "order is 0"),
        ([[1, 2]], {"order": 2.0}, r"order is 2\.0"),
        ([[1, 2]], {"vocabulary_size": 0}, "vocabulary_size is 0"),
        ([[1, 2]], {"bos": 4}, r"bos is 4: .* \[0, 4\)"),
        ([[1, 2]], {"bos": -1}, "bos is -1"),
    ],
)
def test_fit_names_the_wrong_value_and_where_it_is(
    sentences: list[list[int]], changed: dict[str, Any], message: str
) -> None:
    """A corpus or an option that cannot be right is refused by name, value and position."""
    with pytest.raises(InvalidValueError, match=message):
        NgramModel.fit(sentences, **(OPTIONS | changed))


@pytest.mark.parametrize(
    ("contexts", "message"),
    [
        ([[1], [4]], r"contexts\[1, 0\] is 4"),
        ([[-2]], r"contexts\[0, 0\] is -2"),
        ([[1, 2]], r"contexts has shape \(1, 2\): .* order 2 takes \[rows, 1\]"),
        ([1], r"contexts has shape \(1,\)"),
    ],
)
def test_log_probs_names_the_wrong_context(contexts: list[list[int]], message: str) -> None:
    """A context with an impossible token or width is refused by position."""
    model = NgramModel.fit([[1, 2, 3]], **OPTIONS)
    with pytest.raises(InvalidValueError, match=message):
        model.log_probs(np.array(contexts))


def test_padding_belongs_on_the_left() -> None:
    """A −1 to the right of a token is refused: the context would have a hole."""
    model = NgramModel.fit([[1, 2, 3]], order=4, vocabulary_size=4, bos=0)
    with pytest.raises(InvalidValueError, match=r"contexts\[0, 1\] is -1"):
        model.log_probs(np.array([[1, -1, 2]]))


def test_scoring_names_the_wrong_token() -> None:
    """Scoring a token outside the vocabulary is refused by position."""
    model = NgramModel.fit([[1, 2, 3]], **OPTIONS)
    with pytest.raises(InvalidValueError, match=r"tokens\[1, 0\] is -1: .* lengths"):
        model.token_log_probs(np.array([[1, 2], [-1, -1]]))
    with pytest.raises(InvalidValueError, match=r"prefix\[2\] is 4"):
        model.next_token_distribution([1, 2, 4])


def test_nothing_to_score_is_nothing_scored() -> None:
    """No rows, and rows without tokens, give arrays of the same shape and no error."""
    model = NgramModel.fit([[1, 2, 3]], order=3, vocabulary_size=4, bos=None)
    assert model.token_log_probs(np.empty((0, 5), dtype=int)).shape == (0, 5)
    np.testing.assert_array_equal(model.token_log_probs(np.full((2, 3), -1), [0, 0]), 0.0)
    assert model.log_probs(np.empty((0, 2), dtype=int)).shape == (0, 4)
