"""Reliability diagrams."""

from __future__ import annotations

from lab_samples import lab_results

from kullback.report.figures.reliability import plot_reliability, prepare_reliability


def test_reliability_has_a_panel_for_each_model_and_part():
    """Rows are parts of the language, columns models; empty bins are left out."""
    rows = prepare_reliability(lab_results())
    assert [[panel.title for panel in row] for row in rows] == [
        ["mini-GPT, training", "3-gram, training"],
        ["mini-GPT, held out"],
    ]
    assert [panel.is_baseline for panel in rows[0]] == [False, True]
    assert rows[0][0].confidence.tolist() == [0.3, 0.9]
    shown = [axes for axes in plot_reliability(rows).axes if axes.get_visible()]
    assert len(shown) == 3
