"""Which function shows which type of result."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from rich.cells import cell_len
from text_samples import several_candidates, text_results

from kullback import report
from kullback.errors import InvalidValueError
from kullback.results.recording import RecordingResult

RECORDING = RecordingResult(file="a.rec", kind="exact", tokens=3, bytes=9)


@pytest.mark.parametrize("functions", [report._HTML, report._NOTEBOOK, report._SUMMARY])
def test_every_function_exists(functions):
    """The names of modules and functions, which are looked up when needed, are right."""
    for path in functions.values():
        module, _, name = path.rpartition(".")
        assert callable(getattr(importlib.import_module(f"kullback.report.{module}"), name))


def test_readme_names_the_results_that_have_an_html_report():
    """Its sentence about `save_html` lists these types and no other."""
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    sentence = readme.partition("`save_html` writes the report of")[2].partition(";")[0]
    assert set(sentence.split("`")[1::2]) == set(report._HTML)


def test_plain_text_is_what_the_command_prints():
    """The string of a result has no colours, no trailing spaces, and at most 100 columns."""
    for result in (text_results(), several_candidates()):
        lines = str(result).splitlines()
        assert lines[0] == result.title
        assert all(line == line.rstrip() and cell_len(line) <= 100 for line in lines)
        narrow = report.plain_text(result, width=80).splitlines()
        assert max(map(cell_len, narrow)) <= 80


def test_results_without_a_report_are_named():
    """A recording has neither an HTML report nor a summary, and prints as one line."""
    with pytest.raises(InvalidValueError, match="RecordingResult"):
        report.save_html(RECORDING, Path("a.html"))
    with pytest.raises(InvalidValueError, match="RecordingResult"):
        report.summary(RECORDING)
    assert "a.rec" in str(RECORDING)
