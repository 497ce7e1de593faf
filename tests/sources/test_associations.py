"""The source of cues and answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import entropy

from kullback.sources.associations import ANSWERS, CUES, LIKELY, PAIRS, ZIPF, associations_language
from kullback.text.special_tokens import EOS_ID


def test_the_entropy_is_that_of_its_two_distributions():
    """Eight pairs of a cue of Zipf's law and an answer, and the end, which is certain."""
    language = associations_language()
    weights = np.arange(1, CUES + 1.0) ** -ZIPF
    other = (1 - LIKELY) / (ANSWERS - 1)
    pair = entropy(weights / weights.sum()) + entropy([LIKELY] + [other] * (ANSWERS - 1))
    assert language.tokens_per_sentence == pytest.approx(2 * PAIRS + 1)
    assert language.entropy_per_token == pytest.approx(PAIRS * pair / (2 * PAIRS + 1))


def test_an_answer_depends_on_its_cue_alone():
    """Common cues have different answers, whatever comes before; the end comes after the last."""
    language = associations_language()
    ids = language.token_ids
    answers = [ids[f"answer-{i + 1}"] for i in range(ANSWERS)]
    likely = []
    for cue in range(1, 5):
        alone = language.next_token_distribution([ids[f"cue-{cue}"]])
        later = language.next_token_distribution([ids["cue-9"], answers[0], ids[f"cue-{cue}"]])
        np.testing.assert_array_equal(alone, later)
        assert sorted(alone[answers])[-1] == LIKELY
        likely.append(int(alone[answers].argmax()))
    assert sorted(likely) == list(range(ANSWERS))
    assert language.next_token_distribution([ids["cue-1"], answers[0]] * PAIRS)[EOS_ID] == 1
