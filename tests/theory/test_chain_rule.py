"""The loss of a sentence token by token, against sums over complete sentences."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kullback.errors import InvalidValueError
from kullback.theory.chain_rule import END, SENTENCES, factorise
from kullback.theory.information import entropy, normalise
from kullback.theory.likelihood import sequence_cross_entropy

#: Sentences of several lengths, one a prefix of another, with a token that occurs twice.
MIXED = [
    ("go", END),
    ("go", "on", END),
    ("go", "on", "and", "on", END),
    ("on", END),
    ("stop", END),
]


def test_surprisals_of_tokens_sum_to_that_of_the_sentence() -> None:
    """The surprisals of a sentence of probability 0.05 sum to -log 0.05."""
    result = factorise(SENTENCES, ("once", "she", "goes", END))
    assert result.totals["truth"] == pytest.approx(-math.log(0.05), rel=1e-15)
    assert result.sentence_log_prob == math.log(0.05)
    assert [row.truth for row in result.tokens] == pytest.approx(
        [-math.log(0.3), math.log(2), math.log(3), 0.0]
    )
    assert result.totals["uniform"] == pytest.approx(4 * math.log(9), rel=1e-15)


def test_where_the_prefix_decides_the_entropy_is_zero() -> None:
    """After "yesterday she" one form is possible, after "once she" two, as 2 to 1."""
    after = factorise(SENTENCES, ("once", "she", "goes", END)).entropy_after
    assert after["yesterday she"] == after["today I"] == after["once she went"] == 0
    assert after["once she"] == pytest.approx(float(entropy([2 / 3, 1 / 3])), rel=1e-14)
    assert len(after) == 1 + 3 + 6 + 8


@given(st.lists(st.integers(1, 50), min_size=5, max_size=5), st.sampled_from(range(5)))
def test_the_chain_rule_over_prefixes(weights: list[int], shown: int) -> None:
    """H and KL per sentence are those of each prefix, as often as it is visited, added up."""
    sentences = dict(zip(MIXED, normalise(weights).tolist(), strict=True))
    result = factorise(sentences, MIXED[shown])
    assert result.kl_over_prefixes == pytest.approx(result.kl_per_sentence, abs=1e-14)
    visits: dict[str, float] = {}
    for sentence, mass in sentences.items():
        for t in range(len(sentence)):
            prefix = " ".join(sentence[:t])
            visits[prefix] = visits.get(prefix, 0) + mass
    summed = math.fsum(mass * result.entropy_after[prefix] for prefix, mass in visits.items())
    assert summed == pytest.approx(result.entropy_per_sentence, rel=1e-13)
    assert result.entropy_per_sentence == pytest.approx(float(entropy(list(sentences.values()))))
    assert result.tokens_per_sentence == pytest.approx(math.fsum(visits.values()))
    cost = sequence_cross_entropy([-row.bigram for row in result.tokens])
    assert result.perplexities["bigram"] == cost.perplexity


def test_a_bigram_model_of_a_bigram_language_is_the_truth() -> None:
    """Where each token depends on the previous one alone, the bigram model has KL 0."""
    language = {("a", END): 0.25, ("b", END): 0.25, ("a", "c", END): 0.25, ("b", "d", END): 0.25}
    result = factorise(language, ("a", "c", END))
    assert result.kl_over_prefixes == 0
    assert result.kl_per_sentence == pytest.approx(0, abs=1e-15)
    assert result.totals["bigram"] == result.totals["truth"]


def test_a_sentence_that_is_not_in_the_language_is_refused() -> None:
    """Only sentences with a probability can be factorised, and probabilities must sum to one."""
    with pytest.raises(InvalidValueError, match="shown is 'today she went <end>'"):
        factorise(SENTENCES, ("today", "she", "went", END))
    with pytest.raises(InvalidValueError, match=r"p sums to 0\.5"):
        factorise({("go", END): 0.5}, ("go", END))
