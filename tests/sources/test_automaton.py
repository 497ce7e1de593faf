"""Beliefs and determinisation against a list of every derivation."""

from __future__ import annotations

import numpy as np
import pytest
from brute_force import SYNCRETISM, BruteForce, Machine, acyclic_machines
from hypothesis import given, settings

from kullback.errors import GrammarError, ImpossiblePrefixError, InvalidValueError
from kullback.sources.automaton import Arc, Automaton
from kullback.text.special_tokens import BOS, EOS


def check_every_prefix(oracle: BruteForce, machine) -> None:
    """The next-token distribution of an `Automaton` or `Language` is the oracle's, everywhere."""
    vocabulary = machine.vocabulary
    for prefix in oracle.prefixes:
        expected = np.zeros(len(vocabulary))
        for word, p in oracle.next_words(prefix).items():
            expected[vocabulary.index(word)] = p
        ids = [vocabulary.index(word) for word in prefix]
        np.testing.assert_allclose(machine.next_token_distribution(ids), expected, atol=1e-13)


def test_beliefs_of_a_syncretic_language():
    """The forward algorithm gives the oracle's conditional after every prefix."""
    automaton = Automaton.from_arcs("syncretism", "start", SYNCRETISM)
    check_every_prefix(BruteForce("start", SYNCRETISM), automaton)


def test_determinised_syncretic_language():
    """The deterministic form gives the oracle's conditional after every prefix."""
    language = Automaton.from_arcs("syncretism", "start", SYNCRETISM).determinise()
    check_every_prefix(BruteForce("start", SYNCRETISM), language)


@given(acyclic_machines())
@settings(max_examples=150, deadline=None)
def test_random_ambiguous_machines(arcs: Machine):
    """On random machines beliefs, the deterministic form and the list of derivations agree."""
    oracle = BruteForce(0, arcs)
    automaton = Automaton.from_arcs("random", 0, arcs)
    check_every_prefix(oracle, automaton)
    check_every_prefix(oracle, automaton.determinise())


def test_belief_is_bayes_rule():
    """After "we cut", the belief is 2/3 for present and 1/3 for past."""
    automaton = Automaton.from_arcs("syncretism", "start", SYNCRETISM)
    prefix = [automaton.token_id("we"), automaton.token_id("cut")]
    belief = sorted(automaton.belief(prefix).values())
    np.testing.assert_allclose(belief, [1 / 3, 2 / 3], rtol=1e-15)


@given(acyclic_machines())
@settings(max_examples=50, deadline=None)
def test_deterministic_form_has_one_arc_for_each_word(arcs: Machine):
    """No state of the deterministic form has two arcs with the same word, and each sums to one."""
    language = Automaton.from_arcs("random", 0, arcs).determinise()
    for start, stop in zip(language.offsets[:-1], language.offsets[1:], strict=True):
        assert len(set(language.arc_tokens[start:stop])) == stop - start
        assert language.probabilities[start:stop].sum() == pytest.approx(1.0, abs=1e-12)


def test_certain_words_have_probability_one_exactly():
    """A word without alternatives has probability exactly 1 although the weights round."""
    thirds = {
        "s": [Arc("a", "x", w, f"s{i}") for i, w in enumerate((0.1, 0.2, 0.3, 0.4))],
        **{f"s{i}": [Arc("b", "x", 1.0, f"e{i}")] for i in range(4)},
        **{f"e{i}": [Arc(EOS, "end", 1.0, None)] for i in range(4)},
    }
    language = Automaton.from_arcs("thirds", "s", thirds).determinise()
    assert language.probabilities.tolist() == [1.0, 1.0, 1.0]
    assert language.entropy_per_sentence == 0.0


def test_merged_slots_are_joined():
    """Where derivations disagree about a word's slot, the merged slot has both names."""
    arcs = {
        0: [Arc("cut", "verb", 0.5, 1), Arc("cut", "noun", 0.5, 2)],
        1: [Arc(EOS, "end", 1.0, None)],
        2: [Arc(EOS, "end", 1.0, None)],
    }
    language = Automaton.from_arcs("cut", 0, arcs).determinise()
    assert set(language.entropy_by_slot()) == {"noun|verb", "end"}


def test_vocabulary():
    """The vocabulary is `BOS`, `EOS`, then all other words sorted, extra ones included."""
    arcs = {0: [Arc("b", "x", 1.0, 1)], 1: [Arc(EOS, "end", 1.0, None)]}
    automaton = Automaton.from_arcs("b", 0, arcs, extra_words=["a", "c", "b"])
    assert automaton.vocabulary == (BOS, EOS, "a", "b", "c")
    assert automaton.determinise().vocabulary == automaton.vocabulary


def test_start_need_not_be_the_first_state():
    """The start state is the one that is named, at any place in the table."""
    arcs = {"end": [Arc(EOS, "end", 1.0, None)], "go": [Arc("hi", "x", 1.0, "end")]}
    assert list(Automaton.from_arcs("hi", "go", arcs).determinise().enumerate()[0].texts()) == [
        "hi"
    ]


@pytest.mark.parametrize("determinised", [False, True])
def test_impossible_prefix_names_the_first_impossible_word(determinised: bool):
    """Beliefs and the deterministic form name the same first impossible word and its place."""
    machine = Automaton.from_arcs("syncretism", "start", SYNCRETISM)
    ids = [machine.token_id(word) for word in ("we", "went", "cut", "we")]
    asked = machine.determinise() if determinised else machine
    with pytest.raises(ImpossiblePrefixError, match=r"syncretism .*'cut' .*token 2 .*'we went'"):
        asked.next_token_distribution(ids)


@pytest.mark.parametrize("determinised", [False, True])
@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ((99,), "id 99 .*token 0 .*the beginning"),
        ((0,), "'<s>' .*token 0"),
    ],
)
def test_impossible_first_word(determinised: bool, prefix: tuple[int, ...], message: str):
    """An id outside the vocabulary and `BOS` are impossible prefixes, too."""
    machine = Automaton.from_arcs("syncretism", "start", SYNCRETISM)
    asked = machine.determinise() if determinised else machine
    with pytest.raises(ImpossiblePrefixError, match=message):
        asked.next_token_distribution(prefix)


@pytest.mark.parametrize("determinised", [False, True])
def test_nothing_follows_the_end(determinised: bool):
    """A prefix that contains the end-of-sentence token is impossible."""
    machine = Automaton.from_arcs("syncretism", "start", SYNCRETISM)
    ids = [machine.token_id(word) for word in ("we", "go", EOS)]
    asked = machine.determinise() if determinised else machine
    with pytest.raises(ImpossiblePrefixError, match=r"'</s>' .*token 2"):
        asked.next_token_distribution(ids)


def test_unknown_word():
    """Asking for the id of an unknown word raises an error that names the word."""
    machine = Automaton.from_arcs("syncretism", "start", SYNCRETISM)
    with pytest.raises(InvalidValueError, match=r"'goed' .*syncretism"):
        machine.token_id("goed")


def test_cycle_without_twins_has_no_finite_deterministic_form():
    """A loop in which two ambiguous states weigh words unequally exceeds any number of beliefs."""
    arcs = {
        0: [Arc("a", "x", 0.5, 1), Arc("a", "x", 0.5, 2)],
        1: [Arc("a", "x", 0.9, 1), Arc(EOS, "end", 0.1, None)],
        2: [Arc("a", "x", 0.8, 2), Arc(EOS, "end", 0.2, None)],
    }
    automaton = Automaton.from_arcs("race", 0, arcs)
    # By beliefs, P(end after a^n) is the mixture of the two, weighted by their survival.
    n = 5
    slow, fast = 0.9 ** (n - 1), 0.8 ** (n - 1)
    p_end = automaton.next_token_distribution([automaton.token_id("a")] * n)[1]
    assert p_end == pytest.approx((0.1 * slow + 0.2 * fast) / (slow + fast), rel=1e-13)
    with pytest.raises(GrammarError, match=r"race: .*max_states = 50"):
        automaton.determinise(max_states=50)


def test_ambiguous_cycle_with_twins_is_finite():
    """The even process, started anywhere, has five beliefs: the start, A, B, two mixtures."""
    stop = 0.1
    go = 1.0 - stop
    arcs = {
        "mix": [
            Arc("0", "x", go / 3, "A"),
            Arc("1", "x", go / 3, "B"),
            Arc("1", "x", go / 3, "A"),
            Arc(EOS, "end", stop, None),
        ],
        "A": [Arc("0", "x", go / 2, "A"), Arc("1", "x", go / 2, "B"), Arc(EOS, "end", stop, None)],
        "B": [Arc("1", "x", go, "A"), Arc(EOS, "end", stop, None)],
    }
    language = Automaton.from_arcs("even", "mix", arcs).determinise()
    assert len(language.offsets) - 1 == 5


def bad(**changes) -> dict:
    """Return a good machine with these states changed."""
    arcs = {"s": [Arc("a", "x", 1.0, "t")], "t": [Arc(EOS, "end", 1.0, None)]}
    return arcs | changes


@pytest.mark.parametrize(
    ("start", "arcs", "message"),
    [
        ("u", bad(), "start state 'u'"),
        (
            "s",
            bad(s=[Arc("a", "x", 0.9, "t")]),
            r"'s' sum to 0\.9",
        ),
        (
            "s",
            bad(s=[Arc("a", "x", 1.5, "t"), Arc("b", "x", -0.5, "t")]),
            r"'s', 'a' .*1\.5.*\(0, 1\]",
        ),
        (
            "s",
            bad(s=[Arc("a", "x", float("nan"), "t")]),
            r"'s', 'a' .*nan.*\(0, 1\]",
        ),
        (
            "s",
            bad(s=[Arc("a", "x", 1.0, "t"), Arc("b", "x", 0.0, "t")]),
            r"'s', 'b' .*0\.0.*\(0, 1\]",
        ),
        ("s", bad(s=[Arc("a", "x", 1.0, "v")]), "'s' leads to 'v'"),
        (
            "s",
            bad(s=[Arc("a", "x", 1.0, None)]),
            "'s', 'a' .*</s>",
        ),
        (
            "s",
            bad(s=[Arc(EOS, "x", 1.0, "t")]),
            "'s', '</s>' .*'t'",
        ),
        (
            "s",
            bad(s=[Arc(BOS, "x", 1.0, "t")]),
            "'s', .*<s>",
        ),
        (
            "s",
            bad(u=[Arc("again", "x", 1.0, "u")]),
            "state 'u' .*end",
        ),
    ],
)
def test_malformed_machines(start: str, arcs: dict, message: str):
    """Every malformed state raises a `GrammarError` that names the state and the value."""
    with pytest.raises(GrammarError, match=message):
        Automaton.from_arcs("bad", start, arcs)
