"""``metrics.jsonl``."""

from __future__ import annotations

from pathlib import Path

import pytest

from interrupted_runs import complaint
from kullback.training.loop import resume
from kullback.training.metrics import read_metrics

DEEP = '{"step": ' + "[" * 100_000


@pytest.mark.parametrize(
    "line",
    [
        '{"step": ', "[]", '{"steps": 3}', '{"step": "3"}', '{"step": 3}', DEEP,
        '{"step": 3, "tokens": 1, "cross_entropy": NaN}',
        '{"step": -3, "tokens": 1, "cross_entropy": 1.0}',
    ],
)  # fmt: skip
def test_damaged_metrics(line: str, half: Path):
    """A line of metrics that is none is named with its number."""
    path = half / "metrics.jsonl"
    path.write_text(path.read_text() + line + "\n")
    number = len(path.read_text().splitlines())
    for action in (resume, lambda run: read_metrics(run / "metrics.jsonl")):
        assert complaint(action, half).startswith(f"{path} is damaged at line {number} (")
    assert read_metrics(half / "no such file") == []
