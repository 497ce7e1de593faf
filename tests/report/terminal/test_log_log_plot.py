"""The plot in characters against the positions of its numbers."""

from __future__ import annotations

import pytest

from kullback.report.terminal.log_log_plot import log_log_plot


def test_the_plot_puts_points_where_the_numbers_are() -> None:
    """On log axes N⁻¹ is a straight diagonal; a point 10 times above it is higher."""
    x, line = [10, 100, 1000], [0.1, 0.01, 0.001]
    rows = log_log_plot(x, line, line).plain.splitlines()
    at = [(row, text.index("●")) for row, text in enumerate(rows) if "●" in text]
    assert [row for row, _ in at] == [0, 6, 12]
    assert at[1][1] - at[0][1] == pytest.approx(at[2][1] - at[1][1], abs=1)
    assert rows[0].split()[0] == "0.1"
    assert rows[12].split()[0] == "0.001"
    raised = log_log_plot(x, line, [0.1, 0.1, 0.001]).plain.splitlines()
    assert raised[0].count("●") == 2
