"""Means over one text, or over a few documents: intervals, and where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kullback.uncertainty.intervals import mean_with_interval


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


def test_a_document_without_any_denominator_is_no_error() -> None:
    """A short document that has nothing in the denominator takes no part, and crashes nothing."""
    document = np.repeat([0, 1], [4000, 50])
    denominator = (document == 0).astype(float)
    values = np.random.default_rng(0).random(4050) * denominator
    measured = mean_with_interval(values, document, "", denominator)
    assert measured.value == pytest.approx(values[:4000].mean())
    assert math.isfinite(measured.interval[0])
