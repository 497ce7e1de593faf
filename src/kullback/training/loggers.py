"""Loggers of a run beside ``metrics.jsonl``: TensorBoard, Weights & Biases, MLflow.

Each is an optional extra of its name behind the interface `MetricsLogger`.  Values are those of
`StepMetrics`, named ``training/cross_entropy``, ``validation/kl``, ``speed/tokens_per_second``.
Resuming a run resumes that of Weights & Biases or MLflow, whose id is in ``loggers.json``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeAlias

from kullback.errors import InvalidValueError, MissingExtraError, RunError
from kullback.runtime.decoding import decode_json, read_bounded
from kullback.runtime.files import write_atomically
from kullback.runtime.ranks import is_rank_zero
from kullback.runtime.wording import suggestion
from kullback.training.interruption import Interrupted
from kullback.training.progress import ForwardedProgress, TrainingProgress

if TYPE_CHECKING:
    from kullback.results.training import StepMetrics

__all__ = ["LOGGERS", "LoggedProgress", "MetricsLogger", "check_loggers", "logged_values"]

#: The names of loggers; each is the name of its package and of its extra.
LOGGERS = ("tensorboard", "wandb", "mlflow")
PROJECT = "kullback"
IDS = "loggers.json"
# 255 is what Weights & Biases itself gives a process that Ctrl-C ended.
EXIT_CODES = {"finished": 0, "interrupted": 255, "failed": 1}
MLFLOW_STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}

#: How a training ended: at its last step, by Ctrl-C or SIGTERM, or by an error.
Ended: TypeAlias = Literal["finished", "interrupted", "failed"]


class MetricsLogger(Protocol):
    """Where the metrics of a run are sent."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """The values by name after a step."""

    def close(self, ended: Ended) -> None:
        """Nothing more will be logged, since the training has ended so."""


def check_loggers(names: Sequence[str]) -> None:
    """Raise `InvalidValueError` for an unknown name, `MissingExtraError` for a missing package."""
    for name in names:
        if name not in LOGGERS:
            meant = suggestion(str(name), LOGGERS) or f": choose from {', '.join(LOGGERS)}"
            raise InvalidValueError(f"log is {name!r}, which is no name of a logger{meant}")
        spec = find_spec(name)
        if spec is None or spec.origin is None:  # a folder of that name is no package
            raise MissingExtraError(
                f"log is {name}, which needs the package {name}: pip install 'kullback[{name}]', "
                "or leave it out (metrics.jsonl is always written)"
            )


def logged_values(metrics: StepMetrics) -> dict[str, float]:
    """The numbers of a line of metrics by name, without those that are None."""
    values: dict[str, float] = {}
    for field, value in asdict(metrics).items():
        if value is None or field == "step":
            continue
        if field.startswith("validation_"):
            name = f"validation/{field.removeprefix('validation_')}"
        elif field in ("tokens_per_second", "seconds_left"):
            name = f"speed/{field}"
        else:
            name = f"training/{field}"
        values[name] = float(value)
    return values


class LoggedProgress(ForwardedProgress):
    """Sends every line of metrics to loggers, too.  A context manager, which closes them.

    `settings` are shown beside the run, as they are when training begins.  Loggers open then; where
    one cannot, that is a `RunError`.  One that fails later is dropped with a note, and training
    continues.
    """

    def __init__(
        self,
        receiver: TrainingProgress,
        names: Sequence[str],
        run: Path,
        settings: Callable[[], Mapping[str, object]],
        resumed: bool = False,
    ) -> None:
        super().__init__(receiver)
        # Of the processes of torchrun the first one logs.
        self._names = tuple(dict.fromkeys(names)) if is_rank_zero() else ()
        self._run, self._resumed, self._settings = run, resumed, settings
        self._open: dict[str, MetricsLogger] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close(_ended(error))

    def _close(self, ended: Ended) -> None:
        """Close all loggers, also where Ctrl-C comes while one of them is closed."""
        with ExitStack() as closing:
            for name, logger in self._open.items():
                closing.callback(self._guarded, name, partial(logger.close, ended))
            self._open = {}

    def begin(self, steps: int, floor: float | None) -> None:
        """Open the loggers; `RunError` where one cannot be opened."""
        given = {name: value for name, value in self._settings().items() if value is not None}
        settings = {**given, "steps": steps}
        if floor is not None:
            settings["floor"] = floor
        ids = _read_ids(self._run) if self._resumed else {}
        with _nothing_left(self._run):
            # What only writes files is last: nothing of it begins where another logger cannot.
            for name in sorted(self._names, key=LOGGERS.index, reverse=True):
                self._begin(name, settings, ids)
        if ids:
            write_atomically(self._run / IDS, json.dumps(ids).encode())
        super().begin(steps, floor)

    def _begin(self, name: str, settings: Mapping[str, object], ids: dict[str, str]) -> None:
        """Open a logger; where that fails or is interrupted, those that are open are closed."""
        try:
            self._open[name] = _OPENERS[name](self._run, settings, ids)
        except KeyboardInterrupt:
            self._close("interrupted")
            raise
        except Exception as error:  # each library has its own
            self._close("failed")
            raise RunError(
                f"log is {name}, which cannot begin ({_sentence(error)}); see how it is set up "
                "here, or leave it out"
            ) from error

    def step(self, metrics: StepMetrics) -> None:
        """Log a line of metrics."""
        super().step(metrics)
        values = logged_values(metrics)
        for name, logger in list(self._open.items()):
            if not self._guarded(name, lambda log=logger.log: log(metrics.step, values)):  # type: ignore[misc]
                del self._open[name]
                with suppress(Exception):  # the note has said that it failed
                    logger.close("failed")

    def _guarded(self, name: str, act: Callable[[], None]) -> bool:
        """Whether it worked; where it did not, a note says so."""
        try:
            act()
        except Exception as error:  # whatever it is, the run matters more
            self.note(
                f"{name} failed and gets no more of this run ({_sentence(error)}); metrics.jsonl "
                "has every line"
            )
            return False
        return True


def _ended(error: BaseException | None) -> Ended:
    """How a training ended that raised `error`, or none."""
    if error is None or (isinstance(error, Interrupted) and error.trained):
        return "finished"
    return "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"


# --- the loggers -------------------------------------------------------------------------------


class _TensorBoard:
    """Event files in ``RUN/tensorboard``."""

    def __init__(self, run: Path, settings: Mapping[str, object], ids: dict[str, str]) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer: Any = SummaryWriter(str(run / "tensorboard"))
        rows = "".join(f"    {name}: {value}\n" for name, value in settings.items())
        self._writer.add_text("settings", rows)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self, ended: Ended) -> None:
        self._writer.close()  # its files have no status


class _WeightsAndBiases:
    """A run of the project kullback; offline files are in ``RUN/wandb``."""

    def __init__(self, run: Path, settings: Mapping[str, object], ids: dict[str, str]) -> None:
        import wandb

        run.mkdir(parents=True, exist_ok=True)
        self._run: Any = wandb.init(
            project=PROJECT,
            name=run.name,
            dir=str(run),
            config=dict(settings),
            id=ids.get("wandb"),
            resume="allow" if "wandb" in ids else None,
        )
        ids["wandb"] = self._run.id

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self, ended: Ended) -> None:
        self._run.finish(exit_code=EXIT_CODES[ended])


class _MLflow:
    """A run of the experiment kullback, where mlflow is set up to keep it."""

    def __init__(self, run: Path, settings: Mapping[str, object], ids: dict[str, str]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._client: Any = MlflowClient()
        self._metric: Callable[..., Any] = Metric
        if "mlflow" in ids:
            self._id = ids["mlflow"]
            self._client.update_run(self._id, status="RUNNING")
            return
        experiment = self._client.get_experiment_by_name(PROJECT)
        experiment_id = (
            self._client.create_experiment(PROJECT)
            if experiment is None
            else experiment.experiment_id
        )
        self._id = ids["mlflow"] = self._client.create_run(
            experiment_id, run_name=run.name
        ).info.run_id
        params = [Param(name, str(value)) for name, value in settings.items()]
        self._client.log_batch(self._id, params=params)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        metrics = [self._metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self, ended: Ended) -> None:
        self._client.set_terminated(self._id, status=MLFLOW_STATUS[ended])


@contextmanager
def _nothing_left(run: Path) -> Iterator[None]:
    """Remove what loggers wrote into a run where an error is raised inside."""
    before, had_run = _written(run), run.exists()
    try:
        yield
    except (RunError, KeyboardInterrupt):
        for path in sorted(_written(run) - before, reverse=True):  # what is in a folder first
            with suppress(OSError):
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        if not had_run:
            with suppress(OSError):
                run.rmdir()
        raise


def _written(run: Path) -> set[Path]:
    """All files and folders of loggers in a run."""
    folders = [run / name for name in LOGGERS]
    return {path for folder in folders if folder.exists() for path in [folder, *folder.rglob("*")]}


_Opener = Callable[[Path, Mapping[str, object], dict[str, str]], MetricsLogger]
_OPENERS: dict[str, _Opener] = {
    "tensorboard": _TensorBoard,
    "wandb": _WeightsAndBiases,
    "mlflow": _MLflow,
}


def _read_ids(run: Path) -> dict[str, str]:
    """The ids in ``loggers.json``; none where it is missing or damaged: a new one is then begun."""
    try:
        return decode_json(read_bounded(run / IDS), dict[str, str])
    except (OSError, ValueError):
        return {}


def _sentence(error: Exception) -> str:
    """The first line of an error, or its name where it says nothing."""
    return (str(error).strip().partition("\n")[0].rstrip(". ") or type(error).__name__)[:300]
