"""Training from files or a source to a result."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest

from kullback.errors import InvalidValueError, RunError
from kullback.evaluation.evaluate_source import evaluate_source
from kullback.models import train, training_plan
from kullback.models.train import resume_training, train_model
from kullback.results.training import StepMetrics, TrainingRun
from kullback.runtime.workers import ProcessGroup
from kullback.sources.catalogue import open_source, source_from_spec
from kullback.text.documents import Document
from kullback.training.description import read_description
from kullback.training.interruption import Interrupted
from kullback.training.metrics import read_metrics
from kullback.training.progress import TrainingProgress
from kullback.training.run_folder import load_model
from kullback.training.sizes import NAMED_SIZES, Recipe
from tiny_runs import contents, sequences, text, weather

SIZES = {"width": 8, "layers": 1, "heads": 2, "mlp_width": 16, "threads": 1}
TEXT = {"vocabulary_size": 270, "context": 8, "batch": 12, "steps": 30, **SIZES}


@pytest.fixture(scope="module")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    """A short run on a text, whose file is in the parent folder of the run."""
    folder = tmp_path_factory.mktemp("text")
    text(folder)
    return train_model(folder / "run", text=folder / "weather.txt", **TEXT)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def source_run(tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    """A short run on a source."""
    folder = tmp_path_factory.mktemp("source")
    weather(folder)
    source = str(folder / "weather.toml")
    return train_model(folder / "run", source=source, steps=40, batch=32, **SIZES)  # type: ignore[arg-type]


def test_the_validation_is_that_of_the_last_line_of_metrics(
    text_run: TrainingRun, source_run: TrainingRun
) -> None:
    """Token by token the validation sums to what the loop measured at its last step."""
    for result in (text_run, source_run):
        *_, before, last = read_metrics(Path(result.folder) / "metrics.jsonl")
        assert result.cross_entropy.value == pytest.approx(
            last["validation_cross_entropy"], abs=1e-6
        )
        assert result.training_cross_entropy == last["cross_entropy"]
        assert result.training_steps == (before["step"] + 1, result.steps)
        assert result.tokens == last["tokens"]


def test_bits_per_byte_are_the_nll_over_the_bytes_of_the_validation_text(
    text_run: TrainingRun,
) -> None:
    """The nats of all validation targets, in bits, over the UTF-8 bytes that they spell."""
    batches = text(Path(text_run.folder).parent)
    targets = [t for _, targets in sequences(batches.validation()) for t in targets]
    spelled = batches.tokenizer.decode(targets).encode()
    for measured in (text_run, text_run.best_baseline):
        assert measured.bits_per_byte is not None
        bits = measured.cross_entropy.value * len(targets) / math.log(2)
        assert measured.bits_per_byte.value == pytest.approx(bits / len(spelled), rel=1e-9)
    assert text_run.cross_entropy.n == len(targets)


def test_a_source_that_cannot_be_made_again_is_refused(tmp_path: Path) -> None:
    """One that was made by hand could not be resumed: training it is refused before it begins."""
    made = replace(weather(tmp_path).source, spec={})
    with pytest.raises(InvalidValueError, match="source is weather, made by hand"):
        train_model(tmp_path / "run", source=made, steps=3, **SIZES)
    with pytest.raises(InvalidValueError, match="the source was made by hand"):
        source_from_spec({})


def test_a_run_is_evaluated_on_the_source_that_it_was_trained_on(tmp_path: Path) -> None:
    """A grammar that has changed since is not taken for it."""
    weather(tmp_path)
    path = tmp_path / "weather.toml"
    train_model(tmp_path / "run", source=str(path), steps=2, batch=8, **SIZES)
    (part,) = evaluate_source(str(tmp_path / "run")).parts
    assert part.floor == pytest.approx(weather(tmp_path).floor)
    changed = path.read_text("utf-8").replace("p = 0.6", "p = 0.5").replace("p = 0.4", "p = 0.5")
    path.write_text(changed, encoding="utf-8")
    with pytest.raises(RunError, match=r"weather, which .*run was trained on, has changed since"):
        evaluate_source(str(tmp_path / "run"))
    (part,) = evaluate_source(str(tmp_path / "run"), str(path)).parts
    assert part.floor == open_source(str(path)).training.entropy_per_token
    description = json.loads((tmp_path / "run" / "training.json").read_text("utf-8"))
    description["data"]["source"] = {"name": "conjugation"}
    (tmp_path / "run" / "training.json").write_text(json.dumps(description), encoding="utf-8")
    with pytest.raises(RunError, match=r"training\.json does not describe the source.*'holdout'"):
        evaluate_source(str(tmp_path / "run"))


def test_a_source_has_its_floor_and_the_kl_above_it(source_run: TrainingRun) -> None:
    """The KL is that of the loop, and no bits per byte are given where there is no text."""
    last = read_metrics(Path(source_run.folder) / "metrics.jsonl")[-1]
    assert source_run.kl is not None
    assert source_run.kl.value == pytest.approx(last["validation_kl"], abs=1e-6)
    assert source_run.floor == weather(Path(source_run.folder).parent).floor
    assert source_run.bits_per_byte is None
    assert all(baseline.bits_per_byte is None for baseline in source_run.baselines)


def test_a_text_has_simple_baselines(text_run: TrainingRun, source_run: TrainingRun) -> None:
    """Uniform is log V, unigrams are between it and the best n-gram; a source has neither."""
    assert text_run.uniform is not None
    assert text_run.unigram is not None
    assert text_run.uniform.cross_entropy.value == pytest.approx(math.log(270), rel=1e-12)
    best = text_run.best_baseline.cross_entropy.value
    assert best < text_run.unigram.cross_entropy.value < text_run.uniform.cross_entropy.value
    assert (source_run.uniform, source_run.unigram) == (None, None)


def test_metrics_of_a_text_have_bits_per_byte_and_the_baselines(text_run: TrainingRun) -> None:
    """The last line has the value, its interval and the baselines of the result."""
    last = read_metrics(Path(text_run.folder) / "metrics.jsonl")[-1]
    assert text_run.bits_per_byte is not None
    summary = last["summary"]
    assert summary["bits_per_byte"] == text_run.bits_per_byte.value
    assert last["validation_bits_per_byte"] == pytest.approx(summary["bits_per_byte"], rel=1e-6)
    assert summary["bits_per_byte_interval"] == list(text_run.bits_per_byte.interval)
    best = text_run.best_baseline
    assert text_run.running_text is not None
    assert set(summary["baselines"]) == {
        "uniform",
        "unigram",
        f"kneser_ney_{best.order}",
        f"kneser_ney_{text_run.running_text.order}_running_text",
    }
    of_best = summary["baselines"][f"kneser_ney_{best.order}"]
    assert of_best["cross_entropy"] == best.cross_entropy.value


def test_a_text_has_no_floor(text_run: TrainingRun) -> None:
    """The entropy of a text is unknown."""
    assert (text_run.floor, text_run.kl) == (None, None)


def test_the_difference_to_the_best_baseline_is_paired(
    text_run: TrainingRun, source_run: TrainingRun
) -> None:
    """The mean difference is that of the means, with an interval of its own."""
    for result in (text_run, source_run):
        best = min(baseline.cross_entropy.value for baseline in result.baselines)
        assert result.best_baseline.cross_entropy.value == best
        assert result.difference.value == pytest.approx(result.cross_entropy.value - best)
        low, high = result.difference.interval
        assert low < result.difference.value < high
        orders = [3, 5, 7] if result is source_run else [2, 3, 4, 5, 6, 7]
        assert [b.order for b in result.baselines] == orders
        assert result.difference.n == result.cross_entropy.n


def test_a_result_comes_back_from_json(text_run: TrainingRun, source_run: TrainingRun) -> None:
    """Written as JSON and read back, a result is the same."""
    for result in (text_run, source_run):
        assert TrainingRun.from_json(result.to_json()).to_json() == result.to_json()
        assert result.to_dict()["schema"] == "kullback.training/1"


class Stop(TrainingProgress):
    """Interrupts training at a step, and keeps what it was told."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.told: list[object] = []

    def begin(self, steps: int, floor: float | None) -> None:
        """Keep both."""
        self.told.append((steps, floor))

    def step(self, metrics: StepMetrics) -> None:
        """Interrupt as Ctrl-C does."""
        import os
        import signal

        if metrics.step == self.at:
            os.kill(os.getpid(), signal.SIGINT)

    def stage(self, what: str) -> None:
        """Ignore it."""

    def note(self, text: str) -> None:
        """Keep it."""
        self.told.append(text)


def test_a_resumed_run_has_the_result_of_an_uninterrupted_one(
    text_run: TrainingRun, tmp_path: Path
) -> None:
    """Interrupted and resumed, every number but the times and the folder is the same."""
    path = Path(text_run.folder).parent / "weather.txt"
    with pytest.raises(Interrupted):
        train_model(tmp_path / "run", text=[str(path)], progress=Stop(10), **TEXT)  # type: ignore[arg-type]
    progress = Stop()
    result = resume_training(tmp_path / "run", progress=progress)
    assert progress.told == [(30, None)]
    expected = text_run.to_dict() | {"folder": result.folder, "seconds": None}
    assert result.to_dict() | {"seconds": None} == expected


class Notes(TrainingProgress):
    """Keeps notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Keep it."""
        self.notes.append(text)


def test_a_note_is_told_once(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """That the text is no longer there, although the data is opened again to be measured."""
    text(tmp_path)
    train_model(tmp_path / "run", text=tmp_path / "weather.txt", **TEXT)  # type: ignore[arg-type]
    (tmp_path / "weather.txt").unlink()
    recwarn.clear()
    progress = Notes()
    resume_training(tmp_path / "run", progress=progress)
    assert len([note for note in progress.notes if "no longer there" in note]) == 1
    assert [str(warning.message) for warning in recwarn] == []


def test_only_rank_zero_tells_notes(recwarn: pytest.WarningsRecorder) -> None:
    """The other processes of torchrun would tell the same."""
    processes = ProcessGroup(rank=1, world_size=2)
    other = Notes()
    train._progress(processes, other).note("something")
    assert other.notes == []
    assert list(recwarn) == []
    kept = Notes()
    train._progress(ProcessGroup(rank=0, world_size=2), kept).note("something")
    assert kept.notes == ["something"]


def test_ctrl_c_while_a_run_is_measured(
    text_run: TrainingRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted at its baselines, a run is trained, and the sentence says what measures it."""

    def interrupted(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    path = Path(text_run.folder).parent / "weather.txt"
    with monkeypatch.context() as patch:
        patch.setattr("kullback.models._training_result.baseline_losses", interrupted)
        with pytest.raises(Interrupted, match=r"run is trained, .*train --resume"):
            train_model(tmp_path / "run", text=[str(path)], **TEXT)  # type: ignore[arg-type]
        with pytest.raises(Interrupted, match=r"run is trained"):
            resume_training(tmp_path / "run")
    result = resume_training(tmp_path / "run")
    expected = text_run.to_dict() | {"folder": result.folder, "seconds": None}
    assert result.to_dict() | {"seconds": None} == expected


def test_a_finished_run_is_measured_and_left_unchanged(text_run: TrainingRun) -> None:
    """Resuming a finished run notes that, gives its result again, and changes no file."""
    folder = Path(text_run.folder)
    before = contents(folder)
    progress = Stop()
    result = resume_training(folder, progress=progress)
    assert contents(folder) == before
    assert result.to_dict() | {"seconds": None} == text_run.to_dict() | {"seconds": None}
    (note,) = progress.told
    assert "finished" in str(note)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "text"),
        ({"text": "a.txt", "source": "conjugation"}, "source"),
        ({"text": "a.txt", "holdout": 3}, "holdout is 3"),
        ({"source": "conjugation", "context": 8}, "context is 8"),
        ({"source": "conjugation", "vocabulary_size": 300}, "vocabulary_size is 300"),
    ],
)
def test_keywords_that_do_not_apply_are_refused(
    options: dict[str, object], name: str, tmp_path: Path
) -> None:
    """Neither or both kinds of data, and options of the other kind, are refused by name."""
    with pytest.raises(InvalidValueError, match=name):
        train_model(tmp_path / "run", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["batch", "context", "vocabulary_size"])
def test_zero_is_not_the_default(option: str, tmp_path: Path) -> None:
    """An option given as 0 is refused, not replaced by its default."""
    text(tmp_path)
    with pytest.raises(InvalidValueError):
        train_model(tmp_path / "run", text=tmp_path / "weather.txt", **{**TEXT, option: 0})  # type: ignore[arg-type]


def test_a_folder_of_texts_is_trained_on(tmp_path: Path) -> None:
    """Its .txt files are read in the order of their paths, and a resumed run knows each of them."""
    texts = tmp_path / "texts"
    (texts / "inner").mkdir(parents=True)
    for name in ("b.txt", "inner/a.txt"):
        (texts / name).write_text("the night is long. " * 40, encoding="utf-8")
    (texts / "notes.md").write_text("not read", encoding="utf-8")
    result = train_model(tmp_path / "run", text=texts, **TEXT)  # type: ignore[arg-type]
    again = resume_training(result.folder)
    assert again.cross_entropy == result.cross_entropy
    description = (tmp_path / "run" / "training.json").read_text(encoding="utf-8")
    assert "b.txt" in description
    assert "a.txt" in description
    assert "notes.md" not in description


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (Document("mine", "the night"), "document 'mine'.*write"),
        ([Document("mine", "the night")], "document 'mine'.*write"),
        (3, "text is an int"),
        ("empty", r"folder .*empty has no \.txt"),
    ],
)
def test_what_cannot_be_read_again_is_no_text(data: object, words: str, tmp_path: Path) -> None:
    """A document in memory, which no resumed run could read, is refused by name."""
    if data == "empty":
        data = tmp_path / "empty"
        data.mkdir()
    with pytest.raises(InvalidValueError, match=words):
        train_model(tmp_path / "run", text=data)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"vocabulary_size": 10**11}, "vocabulary_size is 100000000000"),
        ({"batch": "12"}, "batch is '12'"),
        ({"batch": 10**14}, "batch is 100000000000000"),
        ({"context": 0}, "context is 0"),
        ({"batch": 10**7, "context": 10**6}, "batches of 10,000,000,000,000 tokens would take"),
        ({"width": 65_536, "layers": 10_000}, "parameters would take"),
        ({"mlp_width": 2.5}, "mlp_width is 2.5"),
        ({"threads": 10**11}, "threads is 100000000000"),
        ({"muon_lr": math.nan}, "muon_lr is nan"),
        ({"seed": 10**30}, "seed is 1000000000"),
    ],
)
def test_numbers_out_of_range_are_refused_first(
    options: dict[str, object], words: str, tmp_path: Path
) -> None:
    """What cannot be, or is larger than the memory, is named before the text is looked for."""
    with pytest.raises(InvalidValueError, match=words):
        train_model(tmp_path / "run", text=tmp_path / "none.txt", **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


class Facts(Stop):
    """Keeps the facts that are told before the first step."""

    def tell(self, text: str) -> None:
        """Keep it."""
        self.told.append(text)


def test_a_named_size_trains_twenty_tokens_a_parameter(tmp_path: Path) -> None:
    """The steps follow from the parameters; what is given replaces the fields of the name."""
    text(tmp_path)
    sizes = {**SIZES, "vocabulary_size": 270, "context": 8, "batch": 300}
    progress = Facts()
    result = train_model(
        tmp_path / "run", text=tmp_path / "weather.txt", size="micro", progress=progress, **sizes
    )  # type: ignore[call-overload]
    parameters = 270 * 8 + 4 * 8**2 + 3 * 8 * 16 + 3 * 8
    assert result.steps == -(-20 * parameters // 2400)
    said = " ".join(str(told) for told in progress.told)
    assert f"{parameters:,} parameters" in said
    assert f"{result.steps * 2400:,} tokens" in said
    assert "MB of memory" in said


def test_minutes_decide_the_steps_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe gives the steps, which the description keeps, so that a resumed run ends there."""
    text(tmp_path)
    sizes = {**TEXT, "steps": None}
    monkeypatch.setattr(training_plan, "seconds_per_step", lambda *_: 0.01)
    with pytest.raises(Interrupted):
        train_model(
            tmp_path / "run",
            text=tmp_path / "weather.txt",
            minutes=0.002,
            progress=Stop(1),
            **sizes,
        )  # type: ignore[arg-type]
    config = read_description(tmp_path / "run").config
    assert config.steps == 12
    assert resume_training(tmp_path / "run").steps == config.steps


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"minutes": 1.0, "steps": 5}, "steps is 5 and minutes is 1.0"),
        ({"minutes": 0}, "minutes is 0"),
        ({"size": "mega"}, "size is 'mega'"),
        ({"tokenizer": "none"}, "tokenizer none is not there"),
        ({"tokenizer": "characters", "vocabulary_size": 300}, "vocabulary_size is 300"),
        ({"validation": "none.txt"}, "none.txt"),
    ],
)
def test_settings_that_cannot_be(options: dict[str, object], words: str, tmp_path: Path) -> None:
    """Settings that exclude each other or do not exist are refused before a folder is made."""
    text(tmp_path)
    with pytest.raises(InvalidValueError, match=words):
        train_model(tmp_path / "run", text=tmp_path / "weather.txt", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_a_size_has_a_recipe_for_texts_and_what_is_given_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan and training.json have the recipe of the size, and every value that is given."""
    text(tmp_path)
    weather(tmp_path)
    recipe = Recipe(
        0.011, 0.0044, muon_rows=4, warmup_steps=3, decay_fraction=0.55, weight_decay=0.1
    )
    monkeypatch.setitem(NAMED_SIZES, "micro", replace(NAMED_SIZES["micro"], recipe=recipe))

    def begun(name: str, **options: object) -> tuple[Recipe, str]:
        progress = Facts(1)
        with pytest.raises(Interrupted):
            train_model(tmp_path / name, size="micro", progress=progress, **options)  # type: ignore[arg-type]
        config = read_description(tmp_path / name).config
        kept = Recipe(**{field.name: getattr(config, field.name) for field in fields(Recipe)})
        return kept, " ".join(str(told) for told in progress.told)

    of_text = {**TEXT, "text": tmp_path / "weather.txt"}
    kept, plan = begun("default", **of_text)
    assert kept == recipe
    for part in ("0.011 (Muon", "4 rows", "0.0044 (AdamW", "3 steps of warm-up", "55 %"):
        assert part in plan
    given = Recipe()  # also where a value is 0, or that of no size
    kept, plan = begun("given", **of_text, **asdict(given))
    assert kept == given
    assert "whole matrices" in plan
    kept, _ = begun("source", source=str(tmp_path / "weather.toml"), steps=30, batch=32, **SIZES)
    assert kept == Recipe()


def test_a_model_of_characters_has_a_head_of_its_own(tmp_path: Path) -> None:
    """Unless it is asked to be tied; a model of a BPE is tied, unless it is asked not to be."""
    text(tmp_path)
    of_text = {**TEXT, "text": tmp_path / "weather.txt", "steps": 2}
    of_characters = {**of_text, "tokenizer": "characters", "vocabulary_size": None}
    for name, options, tied in (
        ("characters", of_characters, False),
        ("tied", {**of_characters, "tied": True}, True),
        ("bpe", of_text, True),
        ("untied", {**of_text, "tied": False}, False),
    ):
        train_model(tmp_path / name, **options)  # type: ignore[arg-type]
        assert read_description(tmp_path / name).model.tied is tied
        assert load_model(tmp_path / name).config.tied is tied


@pytest.mark.parametrize(("steps", "noted"), [(2, False), (400, True)])
def test_a_text_that_is_read_often_is_noted(steps: int, noted: bool, tmp_path: Path) -> None:
    """Beyond some passes more steps may make the validation worse."""
    text(tmp_path)
    progress = Stop(1)
    with pytest.raises(Interrupted):
        train_model(  # type: ignore[arg-type]
            tmp_path / "run", text=tmp_path / "weather.txt", progress=progress,
            **(TEXT | {"steps": steps, "batch": 48, "context": 32}),
        )  # fmt: skip
    assert any("is read" in told and "times" in told for told in progress.told) == noted
