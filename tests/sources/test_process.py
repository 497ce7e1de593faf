"""Stationary processes against brute force, published values and identities."""

from __future__ import annotations

import itertools
import math
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kullback.errors import GrammarError, InvalidValueError
from kullback.sources.known_processes import KNOWN, known_process
from kullback.sources.process import Process, Step

BIT = math.log(2)


def word_probability(process: Process, word: tuple[int, ...]) -> float:
    """P(word) as a product of matrices."""
    row = process.stationary
    for symbol in word:
        row = row @ process.transitions[symbol]
    return float(row.sum())


def brute_block_entropy(process: Process, length: int) -> float:
    """H(length) from the probabilities of all words."""
    words = itertools.product(range(len(process.symbols)), repeat=length)
    return -sum(p * math.log(p) for word in words if (p := word_probability(process, word)) > 0)


@st.composite
def processes(draw: st.DrawFn) -> Process:
    """Processes of 1 to 3 states and 2 or 3 symbols, with some impossible steps."""
    states, symbols = draw(st.integers(1, 3)), draw(st.integers(2, 3))
    weights = draw(
        st.lists(
            st.sampled_from([0.0, 0.0, 0.1, 0.5, 1.0, 3.0]),
            min_size=states * states * symbols,
            max_size=states * states * symbols,
        )
    )
    table = np.array(weights).reshape(symbols, states, states)
    # Every state can reach the next one, so all reach each other.
    for state in range(states):
        table[state % symbols, state, (state + 1) % states] += 0.5
    table /= table.sum(axis=(0, 2), keepdims=True)
    names = [str(i) for i in range(states)]
    return Process.from_arrays("random", [f"s{i}" for i in range(symbols)], names, table)


# Fewer beliefs than usual: the bounds are wider, and it takes a tenth of the time.
@patch("kullback.sources.mixed_states.MOST_BELIEFS", 3000)
@settings(max_examples=25, deadline=None)
@given(processes())
def test_window_entropies_are_those_of_all_words(process: Process):
    """H(1..5) are the entropies of all words; h does not increase and stays above the rate."""
    blocks = process.block_entropies(5)
    for length, block in enumerate(blocks, start=1):
        assert block.value == pytest.approx(brute_block_entropy(process, length), abs=1e-10)
        assert block.error == 0
    entropies = process.conditional_entropies(30)
    for earlier, later in itertools.pairwise(entropies):
        assert later.upper <= earlier.upper + 1e-11
        assert later.lower >= process.entropy_rate.lower - 1e-11
    assert entropies[-1].upper >= process.entropy_rate.lower - 1e-11


@patch("kullback.sources.mixed_states.MOST_TABLE", 100)
@settings(max_examples=15, deadline=None)
@given(processes())
def test_the_predictor_gives_the_probabilities_of_words(process: Process):
    """The product of its probabilities along a window is P(window), whose first symbol is given."""
    windows = process.sample(20, 6, np.random.default_rng(0))
    surprisals = process.predictor.surprisals(windows)
    for window, nats in zip(windows.tolist(), surprisals.sum(axis=1), strict=True):
        ratio = word_probability(process, tuple(window)) / word_probability(
            process, tuple(window[:1])
        )
        assert nats == pytest.approx(-math.log(ratio), abs=1e-9)


@pytest.mark.parametrize("name", ["golden-mean", "even", "rrxor"])
def test_three_processes_have_a_rate_of_two_thirds_of_a_bit(name: str):
    """Golden mean, even and RRXOR: 2/3 bit (Crutchfield & Feldman 2003), exactly."""
    rate = known_process(name).entropy_rate
    assert rate.value == pytest.approx(2 / 3 * BIT, abs=1e-14)
    assert rate.error == 0
    assert known_process(name).conditional_entropies(300)[-1].value == pytest.approx(
        rate.value, abs=1e-6
    )


def test_golden_mean_knows_its_state_after_a_symbol():
    """h(0) is the entropy of (1/3, 2/3), and h(n) the rate from n = 1 on."""
    first, *others = known_process("golden-mean").conditional_entropies(8)
    assert first.value == pytest.approx(math.log(3) - 2 / 3 * BIT, abs=1e-14)
    assert [h.value for h in others] == pytest.approx([2 / 3 * BIT] * 7, abs=1e-14)


def test_rrxor_has_36_beliefs_and_fair_first_bits():
    """RRXOR has 36 mixed states (Shai et al. 2024); its pairs are uniform, triples are not."""
    process = known_process("rrxor")
    assert process.predictor.beliefs == 36
    bits = [block.value / BIT for block in process.block_entropies(3)]
    assert bits[:2] == pytest.approx([1, 2], abs=1e-14)
    # One of three phases makes the third bit certain: 000, 011, 101, 110 have 1/6, others 1/12.
    assert bits[2] == pytest.approx(4 / 6 * math.log2(6) + 4 / 12 * math.log2(12), abs=1e-13)


def test_even_has_four_beliefs():
    """At the start, after an odd run of 1s, and the two states themselves."""
    assert known_process("even").predictor.beliefs == 4


def test_mess3_is_bounded():
    """Mess3 has the published table, infinitely many beliefs, and a rate within printed bounds."""
    process = known_process("mess3")
    assert process.transitions[0, 0] == pytest.approx([0.765, 0.00375, 0.00375], abs=1e-15)
    assert process.transitions[0, 1] == pytest.approx([0.0425, 0.0675, 0.00375], abs=1e-15)
    assert not process.is_unifilar
    assert process.predictor.beliefs is None
    rate = process.entropy_rate
    assert 0 < rate.error < 1e-7
    # A sample of the true surprisal, an estimate that knows nothing of the bounds.
    windows = process.sample(4000, 40, np.random.default_rng(1))
    nats = process.predictor.surprisals(windows)[:, 1:].mean(axis=1)
    floor = process.window_entropy(40)
    assert abs(nats.mean() - floor.value) < 5 * nats.std() / math.sqrt(len(nats))
    assert 0 < floor.error < 1e-7


@pytest.mark.parametrize("name", list(KNOWN))
def test_the_floor_of_a_window_is_a_difference_of_block_entropies(name: str):
    """(H(W) - H(1)) / (W - 1), and the sum over the symbols."""
    process = known_process(name)
    blocks, floor = process.block_entropies(9), process.window_entropy(9)
    assert floor.value == pytest.approx((blocks[8].value - blocks[0].value) / 8, abs=1e-12)
    by_symbol = process.window_entropy_by_symbol(9).values()
    assert sum(p * h.value for p, h in by_symbol) == pytest.approx(floor.value, abs=1e-12)
    assert sum(p for p, _ in by_symbol) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", list(KNOWN))
def test_a_stream_has_the_frequencies_of_the_process(name: str):
    """Words of three symbols across all joints of segments and pieces; the seed repeats it."""
    process = known_process(name)
    sampler = process.stream(np.random.default_rng(3))
    stream = np.concatenate([sampler.read(50_000), sampler.read(70_001)])
    again = process.stream(np.random.default_rng(3))
    assert np.array_equal(stream[:50_000], again.read(50_000))
    size = len(process.symbols)
    codes = stream[:-2] * size**2 + stream[1:-1] * size + stream[2:]
    for word in itertools.product(range(size), repeat=3):
        p = word_probability(process, word)
        code = word[0] * size**2 + word[1] * size + word[2]
        share = float((codes == code).mean())
        if p == 0:
            assert share == 0
        assert abs(share - p) < 6 * math.sqrt(max(p, 1e-9) / len(codes)) * 4


def test_a_stream_never_breaks_a_rule_at_a_joint():
    """Runs of 1s of the even process are even; every third bit of RRXOR is that of two others."""
    stream = known_process("even").stream(np.random.default_rng(0)).read(100_000)
    zeros = np.flatnonzero(stream == 0)
    assert not (np.diff(zeros) % 2 == 0).any()
    sampler = known_process("rrxor").stream(np.random.default_rng(0))
    bits = np.concatenate([sampler.read(n) for n in (30_001, 1, 50_000, 7)])
    is_xor = bits[2:] == (bits[:-2] ^ bits[1:-1])
    assert sum(bool(is_xor[phase::3].all()) for phase in range(3)) == 1


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ({"A": [Step("0", 0.5, "A")]}, ("sum to 0.5", "'A'")),
        ({"A": [Step("0", 1.0, "B")]}, ("'B'", "no state")),
        ({"A": [Step("0", 1.5, "A")]}, ("1.5", "(0, 1]")),
        ({"A": [Step("a b", 1.0, "A")]}, ("a b", "whitespace")),
        ({"A": [Step("<s>", 1.0, "A")]}, ("<s>",)),
        ({}, ("no state",)),
        ({"A": [Step("0", 1.0, "B")], "B": [Step("0", 1.0, "B")]}, ("'A'", "reach")),
    ],
)
def test_a_malformed_process_is_refused(steps: dict[str, list[Step]], words: tuple[str, ...]):
    """The error names the state and what is wrong."""
    with pytest.raises(GrammarError) as error:
        Process.from_steps("mine", steps)
    for word in ("mine", *words):
        assert word in str(error.value)


def test_a_window_has_a_token_to_predict():
    """A window of one symbol, which is given, is refused."""
    with pytest.raises(InvalidValueError, match="window is 1"):
        known_process("even").window_entropy(1)
