"""The main job, small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kullback.errors import InvalidValueError, RunError
from kullback.evaluation.on_source import Corpus
from kullback.lab import STAGES, LabConfig, run_lab
from kullback.results.lab import LabResults
from kullback.runtime.progress import Progress

CONFIG = LabConfig(steps=4, sentences=32, width=32, layers=1, heads=1, mlp_width=32, ngram_order=3)


class Stages(Progress):
    """Collects the names of stages."""

    def __init__(self) -> None:
        self.planned = 0
        self.names: list[str] = []

    def plan(self, stages: int) -> None:
        """How many there will be."""
        self.planned = stages

    def stage(self, what: str) -> None:
        """One begins."""
        self.names.append(what)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LabResults]:
    """A lab of four steps, measured on samples instead of all prefixes."""
    folder = tmp_path_factory.mktemp("lab") / "lab"
    stages = Stages()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Corpus, "everything", classmethod(lambda cls, language: cls.sample(language, 200, 0))
        )
        results = run_lab(folder, CONFIG, stages, "kullback lab")
    assert len(stages.names) == stages.planned == STAGES
    return folder, results


def finite(document: object) -> bool:
    """Whether all numbers of a document are, but for what an exact measurement does not have."""
    if isinstance(document, dict):
        unknown = {"degrees_of_freedom", "independent_error"}
        return all(finite(value) for name, value in document.items() if name not in unknown)
    if isinstance(document, list):
        return all(finite(value) for value in document)
    return document not in ("Infinity", "-Infinity", "NaN")


def test_results_are_complete_and_on_disk(lab):
    """``results.json`` holds what was returned: every part of the job, all numbers finite."""
    folder, results = lab
    document = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert document == results.to_dict()
    assert document["schema"] == "kullback.lab/1"
    assert LabResults.from_json(folder / "results.json").to_dict() == document
    assert finite(document)
    parts = [(part.name, part.language) for part in results.evaluations]
    assert parts == [
        ("mini-GPT", "training"),
        ("mini-GPT", "held out"),
        ("3-gram Kneser-Ney", "training"),
        ("3-gram Kneser-Ney", "held out"),
    ]
    schemes = [result.scheme for result in results.quantisations]
    assert schemes == ["float32", "int8", "int4-g32", "int2-g32"]
    sizes = [result.bytes for result in results.quantisations]
    assert sizes == sorted(sizes, reverse=True)


def test_the_untrained_model_starts_at_log_v(lab):
    """The cross-entropy of the first step lies within 0.1 of log V."""
    _, results = lab
    start = results.training.untrained_cross_entropy
    assert abs(start - results.source.log_vocabulary_size) < 0.1


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
        again = run_lab(folder, CONFIG, Progress(), "kullback lab", steps.append)
    assert steps == []
    assert again.evaluations == results.evaluations


def test_another_configuration_is_refused_by_name(lab):
    """A folder with a lab of other sizes is an error that says so, and nothing is changed."""
    folder, _ = lab
    before = (folder / "results.json").read_bytes()
    other = LabConfig(steps=5, sentences=32, width=32, layers=1, heads=1, mlp_width=32)
    with pytest.raises(RunError, match="config"):
        run_lab(folder, other, Progress(), "kullback lab")
    assert (folder / "results.json").read_bytes() == before


def test_impossible_configurations_are_refused_before_anything_begins(tmp_path):
    """No steps, or a seed below zero, is named before the first stage and the first folder."""
    stages = Stages()
    for wrong, words in (
        ({"steps": 0}, "steps is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"steps": 10**9}, "1,000,000,000 × 256 sentences would take"),
        ({"width": 10**6}, "width is 1000000"),
        ({"holdout": -1}, "holdout is -1"),
        ({"ngram_order": 0}, "ngram_order is 0"),
        ({"sentences": 0}, "sentences is 0"),
    ):
        with pytest.raises(InvalidValueError, match=words):
            run_lab(tmp_path / "lab", LabConfig(**wrong), stages, "kullback lab")
    assert stages.names == []
    assert list(tmp_path.iterdir()) == []
