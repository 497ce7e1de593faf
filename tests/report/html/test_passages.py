"""The tokens of a page, and how many bytes they take."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from text_samples import comparison_results, text_results

from kullback.report.html.comparison import render_comparison
from kullback.report.html.evaluation import render_evaluation
from kullback.report.html.passages import beginning
from kullback.results.evaluation import Passage, TextToken

TOP = tuple((f" word{i}", 0.1) for i in range(5))


def passage(count: int, document: str = "a", kl: float | None = None) -> Passage:
    """So many tokens."""
    return Passage(
        document,
        0,
        tuple(
            TextToken(
                text=f" word{i % 7}", nll=2.5, rank=1, top=TOP, kl=kl, candidate_nll=kl,
                candidate_top=() if kl is None else TOP,
            )
            for i in range(count)
        ),
    )  # fmt: skip


@pytest.mark.parametrize(("models", "most"), [(1, 1200), (2, 1000), (4, 500), (9, 222)])
def test_fewer_tokens_are_shown_of_more_models(models, most):
    """The number of tokens times models is bounded, whatever the passages are cut into."""
    passages = [(passage(100), passage(5000, "b"))] * (models - 1 or 1)
    shown = beginning(passages, models)
    assert shown.tokens == most == sum(len(part.tokens) for part in shown.passages)
    assert all(len(tokens) == len(passages) for part in shown.passages for tokens in part.tokens)


def test_candidates_of_other_tokens_are_left_out():
    """A token is shown with those candidates alone that read the same ones."""
    shown = beginning([(passage(3),), (passage(4),), (passage(3),)], 4)
    assert [len(tokens) for part in shown.passages for tokens in part.tokens] == [2, 2, 2]
    assert beginning([], 1).tokens == 0


def test_a_page_of_three_candidates_stays_small():
    """Under 500 kB for any text; the page says how many of its tokens it shows."""
    result = comparison_results()
    first = replace(
        result.candidates[0],
        passages=(passage(1200, kl=0.02),),
        kl_histogram=None,
        kl_by_position=None,
        kl_by_confidence=None,
    )
    candidates = tuple(
        replace(first, operand=replace(first.operand, name=f"runs/model@{name}")) for name in "abc"
    )
    page = render_comparison(
        replace(result, candidates=candidates, ranked=(), scored_tokens=9000, sensitivity=())
    )
    assert len(page.encode()) < 350_000
    assert "The first 500 of 9,000 scored tokens" in page.replace("\u00a0", " ")


def test_a_page_of_one_model_stays_small():
    """Under 400 kB for any text."""
    result = replace(text_results(), passages=(passage(5000),))
    assert len(render_evaluation(result).encode()) < 400_000
