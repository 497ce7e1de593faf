"""The sums of an exact language against a list of every sentence, closed forms and samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from brute_force import SYNCRETISM, BruteForce, Machine, acyclic_machines
from hypothesis import given, settings
from scipy import stats

from kullback.errors import GrammarError, InvalidValueError
from kullback.sources.automaton import Arc, Automaton
from kullback.sources.language import Language
from kullback.text.special_tokens import EOS


def language_of(arcs: Machine, start=0) -> Language:
    """Compile a machine."""
    return Automaton.from_arcs("example", start, arcs).determinise()


@pytest.fixture(scope="module")
def syncretism() -> Language:
    """Return a language of 9 derivations and 8 sentences."""
    return language_of(SYNCRETISM, "start")


def binary_entropy(p: float) -> float:
    """H(p, 1 - p) in nats."""
    return -p * math.log(p) - (1 - p) * math.log1p(-p)


# --- against brute force ---------------------------------------------------------------------


def check_all_sums(oracle: BruteForce, language: Language) -> None:
    """Every number of the language is the oracle's."""
    assert language.is_finite
    assert language.entropy_per_sentence == pytest.approx(oracle.entropy_per_sentence, abs=1e-12)
    assert language.tokens_per_sentence == pytest.approx(oracle.tokens_per_sentence, abs=1e-12)
    assert language.entropy_per_token == pytest.approx(
        oracle.entropy_per_sentence / oracle.tokens_per_sentence, abs=1e-12
    )
    np.testing.assert_allclose(
        language.entropy_by_position(), oracle.entropy_by_position, atol=1e-12
    )
    assert language.number_of_sentences == len(oracle.sentences)
    assert language.number_of_prefixes == len(oracle.prefixes)
    slots = language.entropy_by_slot()
    assert set(slots) == set(oracle.nats_by_slot)
    for name, (tokens, nats) in oracle.nats_by_slot.items():
        assert slots[name].tokens_per_sentence == pytest.approx(tokens, abs=1e-12)
        assert slots[name].entropy == pytest.approx(nats / tokens, abs=1e-12)


def check_enumeration(oracle: BruteForce, language: Language) -> None:
    """`enumerate` lists every sentence and gives every prefix its probability once."""
    sentences, weights = language.enumerate()
    listed = [
        tuple(language.vocabulary[word] for word in row[:length])
        for row, length in zip(sentences.tokens, sentences.lengths, strict=True)
    ]
    assert len(set(listed)) == len(listed)
    assert set(listed) == set(oracle.sentences)
    np.testing.assert_allclose(
        np.exp(-sentences.surprisals.sum(axis=1)), [oracle.sentences[s] for s in listed], rtol=1e-12
    )
    assert not weights[~sentences.mask].any()
    weighed = [(listed[n][:t], weights[n, t]) for n, t in np.argwhere(weights > 0)]
    assert len(weighed) == len(oracle.prefixes)
    assert {prefix for prefix, _ in weighed} == set(oracle.prefixes)
    for prefix, weight in weighed:
        assert weight == pytest.approx(oracle.prefixes[prefix], abs=1e-13)
    assert weights.sum() == pytest.approx(language.tokens_per_sentence, abs=1e-12)
    entropies = language.state_entropies[sentences.states]
    assert (weights * entropies).sum() == pytest.approx(language.entropy_per_sentence, abs=1e-12)


def test_sums_of_a_syncretic_language(syncretism: Language):
    """Entropies, lengths and counts are those of the strings listed one by one."""
    check_all_sums(BruteForce("start", SYNCRETISM), syncretism)


def test_enumeration_of_a_syncretic_language(syncretism: Language):
    """Every sentence is listed once and every prefix counted once."""
    check_enumeration(BruteForce("start", SYNCRETISM), syncretism)


@given(acyclic_machines())
@settings(max_examples=150, deadline=None)
def test_random_ambiguous_machines(arcs: Machine):
    """On random machines every sum and the enumeration equal the list of strings."""
    oracle, language = BruteForce(0, arcs), language_of(arcs)
    check_all_sums(oracle, language)
    for string, p in oracle.sentences.items():
        ids = [language.token_ids[word] for word in string]
        assert language.sentence_log_prob(ids) == pytest.approx(math.log(p), abs=1e-12)
    check_enumeration(oracle, language)


def test_entropy_is_of_strings_not_of_derivations(syncretism: Language):
    """Where derivations share a string, their entropy is larger by H(derivation | string)."""
    oracle = BruteForce("start", SYNCRETISM)
    of_derivations = -sum(p * math.log(p) for _, p in oracle.derivations)
    # "we cut today" is present with 0.6 × 0.5 × 0.8 = 0.24, past with 0.3 × 0.5 × 0.25 = 0.0375.
    hidden = 0.2775 * binary_entropy(0.0375 / 0.2775)
    assert of_derivations - syncretism.entropy_per_sentence == pytest.approx(hidden, rel=1e-12)


def test_impossible_sentences_have_log_prob_minus_infinity(syncretism: Language):
    """A sentence cut off, too long, with unknown ids or empty has probability zero."""
    good = [*syncretism.encode("we go today"), 1]
    assert syncretism.sentence_log_prob(good) == pytest.approx(math.log(0.6 * 0.5 * 0.8), abs=1e-15)
    for bad in (good[:-1], [*good, 1], [*good[:2], 99, 1], [], [1]):
        assert syncretism.sentence_log_prob(bad) == -math.inf


def test_counts_are_exact_beyond_float64():
    """The number of sentences is an exact integer where float64 could not count: 10 to the 60."""
    digits = [str(d) for d in range(10)]
    arcs = {i: [Arc(d, "digit", 0.1, i + 1) for d in digits] for i in range(60)}
    language = language_of({**arcs, 60: [Arc(EOS, "end", 1.0, None)]})
    assert language.number_of_sentences == 10**60
    assert language.number_of_prefixes == sum(10**t for t in range(61))
    assert language.entropy_per_sentence == pytest.approx(60 * math.log(10), rel=1e-13)


# --- infinite languages ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def geometric() -> Language:
    """Return the language of "very very ... good", continued with probability 0.75."""
    return language_of(
        {
            0: [Arc("very", "adverb", 0.75, 0), Arc("good", "adjective", 0.25, 1)],
            1: [Arc(EOS, "end", 1.0, None)],
        }
    )


def test_geometric_language_in_closed_form(geometric: Language):
    """A loop left with probability q has entropy H(q) / q and 1 + 1/q tokens."""
    assert not geometric.is_finite
    assert geometric.entropy_per_sentence == pytest.approx(binary_entropy(0.25) / 0.25, rel=1e-14)
    assert geometric.tokens_per_sentence == pytest.approx(5.0, rel=1e-14)
    assert geometric.number_of_sentences == math.inf
    assert geometric.number_of_prefixes == math.inf
    adverb = geometric.entropy_by_slot()["adverb"]
    assert adverb.tokens_per_sentence == pytest.approx(3.0, rel=1e-14)
    assert adverb.entropy == pytest.approx(-math.log(0.75), rel=1e-14)


def test_entropy_by_position_of_an_infinite_language(geometric: Language):
    """At position t the sentence is still open with 0.75^t, and has a token with 0.75^(t-1)."""
    entropies = geometric.entropy_by_position(positions=4)
    assert entropies[0] == pytest.approx(binary_entropy(0.25), rel=1e-14)
    np.testing.assert_allclose(entropies[1:], 0.75 * binary_entropy(0.25), rtol=1e-14)
    with pytest.raises(InvalidValueError, match="positions"):
        geometric.entropy_by_position()


def test_infinite_languages_cannot_be_enumerated(geometric: Language):
    """Listing an infinite language raises an error that suggests a sample."""
    with pytest.raises(InvalidValueError, match=r"inf prefixes.*sample"):
        geometric.enumerate()


def test_enumeration_is_bounded(syncretism: Language):
    """Listing more prefixes than allowed is an error with both numbers."""
    prefixes = syncretism.number_of_prefixes
    with pytest.raises(InvalidValueError, match=f"{prefixes} prefixes.*max_prefixes = 3"):
        syncretism.enumerate(max_prefixes=3)


def test_sampling_guard(geometric: Language):
    """A sentence longer than `max_tokens` raises an error that names the argument."""
    with pytest.raises(GrammarError, match=r"6 tokens.*max_tokens"):
        geometric.sample(200, np.random.default_rng(0), max_tokens=6)


def test_golden_mean_process():
    """A golden-mean machine that stops with s has the entropy of its two linear equations."""
    stop, p = 0.05, 0.5
    go = 1.0 - stop
    language = language_of(
        {
            "A": [Arc("1", "x", go * p, "A"), Arc("0", "x", go * (1 - p), "B"), end(stop)],
            "B": [Arc("1", "x", go, "A"), end(stop)],
        },
        "A",
    )
    # v_A = 1 + go (p v_A + v_B) and v_B = go (1 - p) v_A.
    visits_a = 1.0 / (1.0 - go * p - go * go * (1 - p))
    visits_b = go * (1 - p) * visits_a
    h_a = binary_entropy(stop) + go * binary_entropy(p)
    expected = visits_a * h_a + visits_b * binary_entropy(stop)
    assert language.entropy_per_sentence == pytest.approx(expected, rel=1e-13)
    assert language.tokens_per_sentence == pytest.approx(visits_a + visits_b, rel=1e-13)


def test_even_process():
    """The even process, state unknown at first, starts at H(1/3) and tends to (2/3) ln 2."""
    stop = 0.01
    go = 1.0 - stop
    to_a, to_b, from_b = (
        Arc("0", "x", go / 2, "A"),
        Arc("1", "x", go / 2, "B"),
        Arc("1", "x", go, "A"),
    )
    stationary = [(2 / 3, to_a), (2 / 3, to_b), (1 / 3, from_b)]
    language = language_of(
        {
            "start": [
                *(arc._replace(probability=weight * arc.probability) for weight, arc in stationary),
                end(stop),
            ],
            "A": [to_a, to_b, end(stop)],
            "B": [from_b, end(stop)],
        },
        "start",
    )
    # Each token is the end with probability `stop`, or a symbol of the process.
    process = (language.entropy_by_position(60) - binary_entropy(stop)) / go
    assert process[0] == pytest.approx(binary_entropy(1 / 3), rel=1e-12)
    # After a 0 the state is A; after a 1 it is A or B with equal chances: P(1) = 3/4.
    second = math.log(2) / 3 + 2 / 3 * binary_entropy(3 / 4)
    assert process[1] == pytest.approx(second, rel=1e-12)
    assert (np.diff(process) <= 1e-12).all()
    assert process[-1] == pytest.approx(2 / 3 * math.log(2), abs=1e-6)


def end(probability: float) -> Arc:
    """Return an arc to the end of the sentence."""
    return Arc(EOS, "end", probability, None)


# --- samples ---------------------------------------------------------------------------------


def test_sample_frequencies(syncretism: Language):
    """Sampled sentences have the frequencies of their probabilities (chi-square, p > 0.001)."""
    n = 200_000
    sample = syncretism.sample(n, np.random.default_rng(1))
    texts, counts = np.unique(list(sample.texts()), return_counts=True)
    expected = [
        n * math.exp(syncretism.sentence_log_prob([*syncretism.encode(text), 1])) for text in texts
    ]
    assert len(texts) == syncretism.number_of_sentences
    assert stats.chisquare(counts, expected).pvalue > 0.001


@pytest.mark.parametrize("name", ["syncretism", "geometric"])
def test_mean_surprisal_estimates_the_entropy(name: str, request: pytest.FixtureRequest):
    """The mean surprisal of sampled sentences is H(sentence) within 4 standard errors."""
    language = request.getfixturevalue(name)
    surprisals = language.sample(50_000, np.random.default_rng(2)).surprisals.sum(axis=1)
    error = surprisals.std() / math.sqrt(len(surprisals))
    assert 0 < error < 0.02
    assert abs(surprisals.mean() - language.entropy_per_sentence) < 4 * error


def test_surprisals_states_and_slots_of_a_sample(syncretism: Language):
    """Each token's surprisal is -log of its state's probability; padding is 0, 0 and -1."""
    sample = syncretism.sample(500, np.random.default_rng(3))
    assert len(sample) == 500
    for n in range(500):
        length = sample.lengths[n]
        tokens = sample.tokens[n, :length]
        assert tokens[-1] == 1
        for t in range(length):
            p = syncretism.next_token_distribution(tokens[:t])
            assert sample.surprisals[n, t] == pytest.approx(-math.log(p[tokens[t]]), abs=1e-14)
            assert sample.states[n, t] == syncretism.state_after(tokens[:t])
        assert sample.surprisals[n].sum() == pytest.approx(
            -syncretism.sentence_log_prob(tokens), abs=1e-13
        )
        assert (sample.tokens[n, length:] == 1).all()
        assert not sample.surprisals[n, length:].any()
        assert (sample.slots[n, length:] == -1).all()
        assert syncretism.slots[sample.slots[n, 0]] in ("subject", "article")


def test_same_seed_same_sample(geometric: Language):
    """Equal generators give equal samples, and different ones different samples."""
    first, again, other = (
        geometric.sample(100, np.random.default_rng(seed)).arcs for seed in (4, 4, 5)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_sample_larger_than_a_block(syncretism: Language):
    """A sample of several blocks has n different rows, none of them empty."""
    sample = syncretism.sample(70_000, np.random.default_rng(6))
    assert len(sample) == 70_000
    assert sample.lengths.min() >= 3
    blocks = sample.arcs[:32768], sample.arcs[32768:65536]
    assert not np.array_equal(*blocks)


def test_sample_of_nothing(syncretism: Language):
    """A sample of 0 sentences has no rows; a negative number is an error."""
    sample = syncretism.sample(0, np.random.default_rng(0))
    assert len(sample) == 0
    assert sample.tokens.shape[0] == 0
    assert list(sample.texts()) == []
    with pytest.raises(InvalidValueError, match="n is -1"):
        syncretism.sample(-1, np.random.default_rng(0))


# --- tokens ----------------------------------------------------------------------------------


def test_encode(syncretism: Language):
    """Words become ids, and an unknown word is named with its place."""
    assert [syncretism.vocabulary[i] for i in syncretism.encode("we  cut")] == ["we", "cut"]
    with pytest.raises(InvalidValueError, match="word 1 is 'goed'"):
        syncretism.encode("we goed")


def test_distributions_of_states(syncretism: Language):
    """Rows of `distributions` are the states' own, in the order asked, repeats included."""
    states = np.array([2, 0, 2])
    rows = syncretism.distributions(states)
    np.testing.assert_array_equal(rows[0], rows[2])
    np.testing.assert_array_equal(rows[1], syncretism.next_token_distribution([]))
    np.testing.assert_allclose(rows.sum(axis=1), 1.0, rtol=1e-15)
