"""Loggers of a run: TensorBoard, Weights & Biases and MLflow."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from kullback.errors import InvalidValueError, KullbackError, MissingExtraError, RunError
from kullback.models.train import resume_training, train_model
from kullback.results.training import StepMetrics, TrainingRun
from kullback.training import loggers
from kullback.training.interruption import Interrupted
from kullback.training.loggers import LoggedProgress, check_loggers, logged_values
from kullback.training.metrics import read_metrics
from kullback.training.progress import TrainingProgress
from tiny_runs import weather

SIZES: dict[str, Any] = {
    "width": 8, "layers": 1, "heads": 2, "mlp_width": 16, "threads": 1, "batch": 8, "steps": 12,
    "log_every": 4,
}  # fmt: skip


def line(step: int = 4) -> StepMetrics:
    """A line of metrics of a source."""
    return StepMetrics(step, 40, 1.5, 1.25, 0.25, 0.1, 1000.0, 2.0, 0.02, validation_kl=0.5)


class Notes(TrainingProgress):
    """Keeps notes and steps."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[int] = []

    def note(self, text: str) -> None:
        """Keep it."""
        self.notes.append(text)

    def step(self, metrics: StepMetrics) -> None:
        """Keep it."""
        self.steps.append(metrics.step)


class Kept:
    """A logger that keeps what it gets; it fails at the step `bad`."""

    def __init__(self, bad: int = -1) -> None:
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.ended: list[str] = []
        self.bad = bad

    @property
    def closed(self) -> int:
        """How often it was closed."""
        return len(self.ended)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Keep them."""
        if step == self.bad:
            raise ConnectionError("no route to host\nsecond line")
        self.lines.append((step, dict(values)))

    def close(self, ended: str) -> None:
        """Keep it."""
        self.ended.append(ended)


def opened_as(monkeypatch: pytest.MonkeyPatch, **kept: Kept) -> None:
    """Open these in place of the loggers of the names, whose packages seem to be there."""
    monkeypatch.setattr(loggers, "find_spec", lambda name: SimpleNamespace(origin=name))
    for name, logger in kept.items():
        monkeypatch.setitem(loggers._OPENERS, name, lambda *_, it=logger: it)


def test_values_are_the_numbers_of_a_line() -> None:
    """Every number of a line has a name in its group; what is None has none."""
    assert logged_values(line()) == {
        "training/tokens": 40.0,
        "training/cross_entropy": 1.5,
        "training/entropy": 1.25,
        "training/kl": 0.25,
        "training/kl_standard_error": 0.1,
        "training/learning_rate": 0.02,
        "speed/tokens_per_second": 1000.0,
        "speed/seconds_left": 2.0,
        "validation/kl": 0.5,
    }


def test_names_and_packages_are_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Before anything is made: an unknown name, and a package that is missing with its extra."""
    with pytest.raises(InvalidValueError, match=r"tensorbord.*did you mean tensorboard"):
        train_model(tmp_path / "run", source="conjugation", log=["tensorbord"])
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"kullback\[wandb\]"):
        train_model(tmp_path / "run", source="conjugation", log=["wandb"])
    with pytest.raises(KullbackError):
        check_loggers(["mlflow"])
    assert not (tmp_path / "run").exists()


def test_loggers_get_every_line_of_metrics(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The lines are those of metrics.jsonl, also where the run was resumed; loggers are closed."""
    logger = Kept()
    opened_as(monkeypatch, wandb=logger)
    weather(tmp_path)

    class Stop(TrainingProgress):
        def step(self, metrics: StepMetrics) -> None:
            if metrics.step == 4:
                raise KeyboardInterrupt

    run = tmp_path / "run"
    source = str(tmp_path / "weather.toml")
    with pytest.raises((Interrupted, KeyboardInterrupt)):
        train_model(run, source=source, log=["wandb"], progress=Stop(), **SIZES)
    assert logger.closed == 1
    logger.lines.clear()
    resume_training(run, log=["wandb"])
    assert logger.ended == ["interrupted", "finished"]
    lines = read_metrics(run / "metrics.jsonl")
    assert [step for step, _ in logger.lines] == [line["step"] for line in lines] == [1, 4, 8, 12]
    assert logger.lines[-1][1]["validation/cross_entropy"] == lines[-1]["validation_cross_entropy"]


def test_a_logger_that_fails_stops_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is noted once, closed, and the run and the other loggers go on."""
    good, bad = Kept(), Kept(bad=8)
    opened_as(monkeypatch, wandb=bad, mlflow=good)
    notes = Notes()
    with LoggedProgress(notes, ["wandb", "mlflow"], tmp_path, dict) as progress:
        progress.begin(16, None)
        for step in (4, 8, 12):
            progress.step(line(step))
    assert [step for step, _ in good.lines] == [4, 8, 12] == notes.steps
    assert [step for step, _ in bad.lines] == [4]
    (note,) = notes.notes
    assert "wandb failed" in note
    assert "no route to host" in note
    assert "second line" not in note
    assert (good.closed, bad.closed) == (1, 1)


@pytest.mark.parametrize("trained", [True, False])
def test_ctrl_c_outside_of_the_steps_says_what_is_on_disk(
    trained: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """While loggers are closed after the last step, or a second time within a step."""

    class Slow(Kept):
        def log(self, step: int, values: Mapping[str, float]) -> None:
            if step == 12 and not trained:
                raise KeyboardInterrupt

        def close(self, ended: str) -> None:
            if trained:
                raise KeyboardInterrupt

    opened_as(monkeypatch, wandb=Slow())
    weather(tmp_path)
    run = tmp_path / "run"
    with pytest.raises(Interrupted) as stop:
        train_model(
            run, source=str(tmp_path / "weather.toml"), log=["wandb"], checkpoint_every=4, **SIZES
        )
    assert ("is trained, and is measured with" in str(stop.value)) == trained
    assert ("resumed from its last checkpoint with" in str(stop.value)) != trained
    assert str(stop.value).endswith(f"kullback train --resume {run}")
    notes = Notes()
    result = resume_training(run, progress=notes)
    assert isinstance(result, TrainingRun)
    assert any("measured, not trained" in note for note in notes.notes) == trained


def test_ctrl_c_before_the_first_checkpoint_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The run is in its folder, which a new one cannot take."""

    class Stops(Kept):
        def log(self, step: int, values: Mapping[str, float]) -> None:
            raise KeyboardInterrupt

    opened_as(monkeypatch, wandb=Stops())
    weather(tmp_path)
    run = tmp_path / "run"
    with pytest.raises(Interrupted, match=r"step 0; resume with: kullback train --resume"):
        train_model(run, source=str(tmp_path / "weather.toml"), log=["wandb"], **SIZES)


@pytest.mark.parametrize("interrupted", [0, 1])
def test_ctrl_c_while_a_logger_is_closed_leaves_none_open(
    interrupted: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The others are closed before the interruption goes on."""

    class Slow(Kept):
        def close(self, ended: str) -> None:
            super().close(ended)
            raise KeyboardInterrupt

    kept = [Kept(), Kept()]
    kept[interrupted] = Slow()
    opened_as(monkeypatch, wandb=kept[0], mlflow=kept[1])
    with (
        pytest.raises(KeyboardInterrupt),
        LoggedProgress(Notes(), ["wandb", "mlflow"], tmp_path, dict) as progress,
    ):
        progress.begin(12, None)
    assert [logger.closed for logger in kept] == [1, 1]


def test_ctrl_c_while_loggers_begin_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What has begun is closed, and its files are removed."""
    opened: list[Kept] = []

    class Writes(Kept):
        def __init__(self, run: Path, *_: object) -> None:
            super().__init__()
            (run / "mlflow").mkdir(parents=True)
            opened.append(self)

    def stop(*_: object) -> Kept:
        raise KeyboardInterrupt

    opened_as(monkeypatch)
    monkeypatch.setitem(loggers._OPENERS, "wandb", Writes)
    monkeypatch.setitem(loggers._OPENERS, "mlflow", Writes)
    monkeypatch.setitem(loggers._OPENERS, "tensorboard", stop)
    run = tmp_path / "run"
    with (
        pytest.raises(KeyboardInterrupt),
        LoggedProgress(Notes(), ["tensorboard", "mlflow"], run, dict) as progress,
    ):
        progress.begin(12, None)
    assert [logger.closed for logger in opened] == [1]
    assert not run.exists()


def test_a_logger_that_cannot_begin_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No run has begun then."""

    def fail(*_: object) -> Kept:
        raise ConnectionError("no key")

    opened_as(monkeypatch)
    monkeypatch.setitem(loggers._OPENERS, "wandb", fail)
    weather(tmp_path)
    with pytest.raises(RunError, match=r"wandb.*no key"):
        train_model(tmp_path / "run", source=str(tmp_path / "weather.toml"), log=["wandb"], **SIZES)
    assert not (tmp_path / "run" / "training.json").exists()


def test_loggers_that_began_leave_nothing_where_another_cannot(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither their files nor ids; what an earlier part of a resumed run wrote stays."""
    closed: list[str] = []

    class Writes(Kept):
        def __init__(self, run: Path, settings: object, ids: dict[str, str]) -> None:
            super().__init__()
            (run / "mlflow" / "part").mkdir(parents=True, exist_ok=True)
            (run / "mlflow" / "part" / "new").touch()
            ids["mlflow"] = "x"

        def close(self, ended: str) -> None:
            closed.append("mlflow")

    def fail(*_: object) -> Kept:
        raise ConnectionError("no key")

    opened_as(monkeypatch, tensorboard=Kept())
    monkeypatch.setitem(loggers._OPENERS, "mlflow", Writes)
    monkeypatch.setitem(loggers._OPENERS, "wandb", fail)
    run = tmp_path / "run"

    def begin(resumed: bool) -> None:
        names = ["tensorboard", "mlflow", "wandb"]
        with LoggedProgress(Notes(), names, run, dict, resumed) as progress:
            progress.begin(12, None)

    with pytest.raises(RunError, match=r"wandb.*no key"):
        begin(resumed=False)
    assert closed == ["mlflow"]
    assert not run.exists()
    (run / "mlflow").mkdir(parents=True)
    (run / "mlflow" / "old").touch()
    with pytest.raises(RunError):
        begin(resumed=True)
    assert [path.relative_to(run).as_posix() for path in sorted(run.rglob("*"))] == [
        "mlflow", "mlflow/old"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (Interrupted(Path("run"), 8), "interrupted"),
        (KeyboardInterrupt(), "interrupted"),
        (RunError("the loss is NaN"), "failed"),
        (Interrupted(Path("run"), 12, trained=True), "finished"),
    ],
)
def test_loggers_are_told_how_a_training_ended(
    error: BaseException, ended: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An interrupted or failed run is not shown as finished; one that is only measured is."""
    logger = Kept()
    opened_as(monkeypatch, wandb=logger)
    with pytest.raises(type(error)):
        stopped("wandb", tmp_path, error)
    assert logger.ended == [ended]


def logged(name: str, run: Path, steps: tuple[int, ...], resumed: bool = False) -> None:
    """Send lines of these steps to a logger."""
    with LoggedProgress(
        Notes(), [name], run, lambda: {"width": 8, "size": None}, resumed
    ) as progress:
        progress.begin(12, 1.25)
        for step in steps:
            progress.step(line(step))
        assert isinstance(progress.receiver, Notes)
        assert progress.receiver.notes == []


def stopped(name: str, run: Path, error: BaseException, resumed: bool = False) -> None:
    """End a training with an error."""
    with LoggedProgress(Notes(), [name], run, dict, resumed) as progress:
        progress.begin(12, None)
        raise error


def test_tensorboard_files_have_the_values(tmp_path: Path) -> None:
    """The event files that the real package reads have each value at its step."""
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logged("tensorboard", tmp_path, (4, 8))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("training/kl")] == [(4, 0.25), (8, 0.25)]
    assert set(logged_values(line())) <= set(events.Tags()["scalars"])


def test_wandb_writes_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The real package keeps an offline run in the folder, and its id is kept."""
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logged("wandb", tmp_path, (4, 8))
    (kept,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert kept.stat().st_size > 0
    assert kept.stem.removeprefix("run-") in (tmp_path / "loggers.json").read_text()


def test_mlflow_keeps_the_values_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A resumed run goes on in the run of mlflow that it began in."""
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logged("mlflow", tmp_path, (4,))
    logged("mlflow", tmp_path, (8,), resumed=True)
    client = MlflowClient()
    (kept,) = client.search_runs([client.get_experiment_by_name("kullback").experiment_id])
    history = client.get_metric_history(kept.info.run_id, "training/kl")
    assert [(m.step, m.value) for m in history] == [(4, 0.25), (8, 0.25)]
    assert kept.data.params["width"] == "8"
    assert kept.info.status == "FINISHED"
    with pytest.raises(KeyboardInterrupt):
        stopped("mlflow", tmp_path, KeyboardInterrupt(), resumed=True)
    assert client.get_run(kept.info.run_id).info.status == "KILLED"


def test_the_calls_of_wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The run is named, has its settings, and is resumed by the id that it got."""
    calls: list[dict[str, Any]] = []
    kept: list[tuple[int, dict[str, float]]] = []
    exit_codes: list[int] = []

    def init(**keywords: Any) -> SimpleNamespace:
        calls.append(keywords)
        return SimpleNamespace(
            id="abc",
            log=lambda values, step: kept.append((step, values)),
            finish=lambda exit_code: exit_codes.append(exit_code),
        )

    module = ModuleType("wandb")
    module.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    logged("wandb", tmp_path, (4,))
    logged("wandb", tmp_path, (8,), resumed=True)
    assert [call["id"] for call in calls] == [None, "abc"]
    assert calls[0]["config"] == {"width": 8, "steps": 12, "floor": 1.25}
    assert calls[0]["name"] == tmp_path.name
    assert [step for step, _ in kept] == [4, 8]
    with pytest.raises(RunError):
        stopped("wandb", tmp_path, RunError("the loss is NaN"))
    assert exit_codes == [0, 0, 1]


def test_the_calls_of_mlflow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A run is created once, and ends with the status of its training."""
    statuses: list[str] = []

    class Client:
        def get_experiment_by_name(self, name: str) -> SimpleNamespace:
            return SimpleNamespace(experiment_id="1")

        def create_run(self, experiment_id: str, run_name: str) -> SimpleNamespace:
            return SimpleNamespace(info=SimpleNamespace(run_id="abc"))

        def log_batch(self, run_id: str, **values: Any) -> None:
            assert run_id == "abc"

        def update_run(self, run_id: str, status: str) -> None:
            statuses.append(status)

        def set_terminated(self, run_id: str, status: str) -> None:
            statuses.append(status)

    module, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    module.MlflowClient = Client  # type: ignore[attr-defined]
    entities.Metric = entities.Param = lambda *fields: fields  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    with pytest.raises(KeyboardInterrupt):
        stopped("mlflow", tmp_path, KeyboardInterrupt())
    logged("mlflow", tmp_path, (8,), resumed=True)
    assert statuses == ["KILLED", "RUNNING", "FINISHED"]
