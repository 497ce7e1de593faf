"""What a notebook shows of a result."""

from __future__ import annotations

from html_page import Page
from text_samples import comparison_results, several_candidates, stored_results, text_results


def test_an_evaluation_has_its_headline_and_measures():
    """Title, headline, and rows with units."""
    shown = Page(text_results()._repr_html_()).words
    assert "model on book.txt" in shown
    assert "perplexity 12.30 [11.90, 13.10]" in shown
    assert "Cross-entropy 2.512 ± 0.034 nats/token" in shown


def test_a_comparison_has_its_verdict_and_a_row_for_each_candidate():
    """The conclusion is above the table; the reference is its first row."""
    shown = Page(several_candidates()._repr_html_()).words
    places = [shown.index(part) for part in ("int8: 2.00 MB", "Smallest", "(reference)", "nf4 (")]
    assert places == sorted(places)
    assert "2.00 MB 50 % 0.00100 ± 0.00020" in shown


def test_files_have_their_measures():
    """Without a ranking the measures are the table."""
    shown = Page(stored_results()._repr_html_()).words
    assert "KL, lower bound 0.01234 ± 0.00056 nats/token" in shown


def test_what_a_text_says_is_shown_and_not_obeyed():
    """Markup arrives as text."""
    for result in (text_results(hostile=True), comparison_results(hostile=True)):
        fragment = result._repr_html_()
        assert "<script" not in fragment
        Page(fragment)
        fragment.encode()


def test_a_kl_that_is_not_above_the_noise_is_marked():
    """As in the terminal and in the report, with what the mark means."""
    shown = Page(several_candidates()._repr_html_()).words
    assert "0 ± 0 ≈" in shown
    assert shown.count("not above the noise floor: rounding") == 1
    assert "≈" not in Page(comparison_results()._repr_html_()).words
