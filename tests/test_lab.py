"""The main job, small."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from kullback.errors import InvalidValueError, RunError
from kullback.evaluation.on_source import Corpus
from kullback.lab import LabConfig, Progress, run_lab
from kullback.results.lab import LabResults

CONFIG = LabConfig(steps=4, sentences=32, width=32, layers=1, heads=1, mlp_width=32, ngram_order=3)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LabResults]:
    """A lab of four steps, measured on samples instead of all prefixes."""
    folder = tmp_path_factory.mktemp("lab") / "lab"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Corpus, "everything", classmethod(lambda cls, language: cls.sample(language, 200, 0))
        )
        return folder, run_lab(folder, CONFIG, Progress(), "kullback lab")


def finite(data: object) -> bool:
    """Whether all numbers in plain data are."""
    if isinstance(data, dict):
        return all(finite(value) for value in data.values())
    if isinstance(data, list | tuple):
        return all(finite(value) for value in data)
    return not isinstance(data, float) or math.isfinite(data)


def test_results_are_whole_and_on_disk(lab):
    """``results.json`` holds what was returned: every part of the job, all numbers finite."""
    folder, results = lab
    assert json.loads((folder / "results.json").read_text()) == json.loads(json.dumps(results))
    assert set(results) == set(LabResults.__annotations__)
    assert finite(results)
    parts = [(one["name"], one["language"]) for one in results["evaluations"]]
    assert parts == [
        ("mini-GPT", "training"),
        ("mini-GPT", "held out"),
        ("3-gram Kneser-Ney", "training"),
        ("3-gram Kneser-Ney", "held out"),
    ]
    schemes = [one["scheme"] for one in results["quantisations"]]
    assert schemes == ["float32", "int8", "int4-g32", "int2-g32"]
    sizes = [one["bytes"] for one in results["quantisations"]]
    assert sizes == sorted(sizes, reverse=True)


def test_the_untrained_model_starts_at_log_v(lab):
    """The cross-entropy of the first step lies within 0.1 of log V."""
    _, results = lab
    start = results["training"]["untrained_cross_entropy"]
    assert abs(start - results["source"]["log_vocabulary_size"]) < 0.1


def test_the_report_is_one_page_without_a_network(lab):
    """The page has all figures and loads nothing."""
    folder, _ = lab
    page = (folder / "report.html").read_text(encoding="utf-8")
    for needle in ('src="http', 'href="http', "url(http", "<script", "@import"):
        assert needle not in page
    assert page.count("<svg") == 4
    names = {path.stem for path in (folder / "figures").glob("*.svg")}
    assert names == {"training", "slots", "calibration", "quantisation"}


def test_a_finished_lab_is_not_trained_again(lab):
    """The same call again reports no step, and gives the same numbers."""
    folder, results = lab
    steps: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Corpus, "everything", classmethod(lambda cls, language: cls.sample(language, 200, 0))
        )
        again = run_lab(folder, CONFIG, Progress(step=steps.append), "kullback lab")
    assert steps == []
    assert again["evaluations"] == results["evaluations"]


def test_another_configuration_is_refused_by_name(lab):
    """A folder with a lab of other sizes is an error that says so, and nothing is changed."""
    folder, _ = lab
    before = (folder / "results.json").read_bytes()
    other = LabConfig(steps=5, sentences=32, width=32, layers=1, heads=1, mlp_width=32)
    with pytest.raises(RunError, match="another config than this lab's"):
        run_lab(folder, other, Progress(), "kullback lab")
    assert (folder / "results.json").read_bytes() == before


def test_impossible_configurations_are_refused_before_anything_begins(tmp_path):
    """No steps, or a seed below zero, is named before a word is said or a folder made."""
    said: list[str] = []
    for wrong, words in ((LabConfig(steps=0), "steps is 0"), (LabConfig(seed=-1), "seed is -1")):
        with pytest.raises(InvalidValueError, match=words):
            run_lab(tmp_path / "lab", wrong, Progress(said.append), "kullback lab")
    assert said == []
    assert list(tmp_path.iterdir()) == []
