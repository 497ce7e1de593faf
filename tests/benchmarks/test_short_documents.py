"""The benchmark of short documents in its small form: its jobs and what it prints."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import short_documents
from job_process import measured


class InThisProcess:
    """Stands for a `JobProcess`."""

    def __init__(self, prepare, *arguments) -> None:
        self.jobs = prepare(*arguments)
        self.names = list(self.jobs)

    def measured(self, name: str) -> tuple[float, float]:
        """Wall and CPU seconds of that job."""
        return measured(self.jobs[name])

    def close(self) -> None:
        """Forget the jobs."""
        self.jobs.clear()


@pytest.mark.slow
def test_the_small_form_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Padded, packed and our own batches read the same tokens, and every job has a rate."""
    documents = short_documents.texts(50, 10, 40)
    assert all(10 <= len(text.split()) <= 40 for text in documents)
    model = short_documents.tiny_model(tmp_path / "tiny", documents)
    options = ["--model", str(model), "--documents", "40", "--many", "60", "--rounds", "1"]
    monkeypatch.setattr(short_documents, "JobProcess", InThisProcess)
    monkeypatch.setattr(sys, "argv", ["short_documents.py", *options])
    short_documents.main()
    lines = capsys.readouterr().out.splitlines()
    rates = {line.split()[0] for line in lines if line.endswith("tokens/s")}
    assert rates == {"sorted", "packed", "ours", "long"}
    assert any("ms of CPU time a document" in line for line in lines)
