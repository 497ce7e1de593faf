"""The training loop: it learns, it estimates the KL without bias, and resumes bit for bit."""

from __future__ import annotations

import errno
import math
import multiprocessing
import os
import random
import shutil
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from interrupted_runs import BATCHES, CONFIG, assert_same_run, start, start_or_resume
from kullback.errors import InvalidValueError, RunError
from kullback.results.training import StepMetrics
from kullback.runtime import files
from kullback.runtime.progress import Progress
from kullback.training import loop
from kullback.training.config import TrainingConfig
from kullback.training.gpt import GPT
from kullback.training.interruption import Interrupted
from kullback.training.loop import resume, train
from kullback.training.loss import gradients
from kullback.training.metrics import Sums
from kullback.training.run_folder import load_model
from kullback.training.state import TrainingState
from tiny_runs import contents, exact_kl, fingerprint, metrics_but_times, sizes, trained, weather


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("stops", [[1], [4], [7, 11, 12, 25]], ids=str)
def test_a_stopped_run_resumes_bit_for_bit(
    kind: str, stops: list[int], uninterrupted: dict[str, Path], tmp_path: Path
):
    """A run stopped anywhere and resumed ends with the bytes of an uninterrupted one."""
    run = tmp_path / "run"
    for stop in stops:
        with pytest.raises(Interrupted, match=f"step {stop}; .*--resume"):
            start_or_resume(run, kind, stop_at=stop)
        assert not (run / "model.safetensors").exists()
    resume(run)
    assert_same_run(run, uninterrupted[kind])


def children() -> multiprocessing.context.ForkServerContext:
    """Return where to start processes that have imported everything, so that they begin at once."""
    context = multiprocessing.get_context("forkserver")
    # AdamW imports the second one when first made.
    context.set_forkserver_preload([__name__, "torch._dynamo"])
    return context


def work(run: Path, kind: str, steps: object) -> None:
    """Start or resume, and send the step of each line of metrics to the parent process."""
    torch.set_num_threads(1)
    start_or_resume(run, kind, on_metrics=lambda metrics: steps.send(metrics.step))  # type: ignore


@pytest.mark.parametrize("kind", ["source", pytest.param("text", marks=pytest.mark.slow)])
def test_a_killed_run_resumes_bit_for_bit(
    kind: str, uninterrupted: dict[str, Path], tmp_path: Path
):
    """Killed by SIGKILL at random moments until it ends, a run equals an uninterrupted one."""
    dice, kills, run = random.Random(1), 0, tmp_path / "run"
    while True:
        ended = run_and_kill(run, kind, dice)
        kills += not ended
        if ended:
            break
    assert kills >= 3
    assert_same_run(run, uninterrupted[kind])


def run_and_kill(run: Path, kind: str, dice: random.Random) -> bool:
    """Kill a process soon after some line of its metrics; True where it ended before that."""
    context = children()
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(run, kind, theirs))
    process.start()
    theirs.close()
    lines = dice.randrange(4)
    try:
        for _ in range(lines):
            ours.recv()
        # A line of metrics comes every three steps, a checkpoint every four.
        time.sleep(dice.random() * 0.04 if lines else dice.random() * 0.2)
    except EOFError:
        pass
    process.kill()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode == 0


def die_while_writing(run: Path, kind: str, number: int) -> None:
    """Start or resume, and die by SIGKILL with half of the file `number` written."""
    torch.set_num_threads(1)
    counted = 0

    def fsync(descriptor: int) -> None:
        nonlocal counted
        counted += 1
        if counted == number:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    files.os.fsync = fsync  # type: ignore[attr-defined]
    start_or_resume(run, kind)


@pytest.mark.slow
def test_a_run_killed_while_writing_any_file_resumes(
    uninterrupted: dict[str, Path], tmp_path: Path
):
    """Killed while each of its files in turn is half written, a run equals an uninterrupted one."""
    context = children()
    run, deaths = tmp_path / "run", 0
    # The first process dies in its first file, the next one in its second, and so on.
    for number in [1, 2, 3, 4, 1, 2, 3, 2, 4, 6, 8, 9, 2, 1, 3, 4, 99]:
        process = context.Process(target=die_while_writing, args=(run, "source", number))
        process.start()
        process.join(60)
        deaths += process.exitcode == -signal.SIGKILL
        if process.exitcode == 0:
            break
        assert any(run.glob(".*.part"))
    assert deaths >= 10
    assert not any(run.glob(".*.part"))  # what the killed ones left behind
    assert_same_run(run, uninterrupted["source"])


def test_a_finished_run_is_returned_unchanged(uninterrupted: dict[str, Path]):
    """Resuming a finished run changes no byte of it."""
    before = contents(uninterrupted["source"])
    again = resume(uninterrupted["source"])
    assert contents(uninterrupted["source"]) == before
    assert fingerprint(again) == fingerprint(load_model(uninterrupted["source"]))


@pytest.mark.parametrize("kept", ["none", "before"])
def test_a_finished_run_without_its_checkpoints_is_not_trained(
    kept: str, uninterrupted: dict[str, Path], tmp_path: Path
):
    """Where checkpoints were deleted or damaged, the model of a finished run stays as it is."""
    run = Path(shutil.copytree(uninterrupted["source"], tmp_path / "run"))
    if kept == "none":
        (run / "checkpoint.before.safetensors").unlink()
        (run / "checkpoint.safetensors").unlink()
    else:
        (run / "checkpoint.safetensors").write_bytes(b"damaged")
    before = contents(run)
    again = resume(run)
    assert contents(run) == before
    assert fingerprint(again) == fingerprint(load_model(run))


def test_lost_checkpoints_are_noted(tmp_path: Path, uninterrupted: dict[str, Path]):
    """An unfinished run whose checkpoints are gone is trained again, with a note."""
    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        start(run, "source", stop_at=9)
    for path in run.glob("checkpoint*"):
        path.unlink()
    notes: list[str] = []
    progress = Progress()
    progress.note = notes.append  # type: ignore[method-assign]
    resume(run, progress=progress)
    (note,) = notes
    assert "no checkpoint" in note
    assert "9 steps" in note
    assert_same_run(run, uninterrupted["source"])


def test_a_signal_in_the_last_step_ends_the_run_after_its_model(
    uninterrupted: dict[str, Path], tmp_path: Path
):
    """Ctrl-C in the last step writes the model, then says that the run is trained."""
    run = tmp_path / "run"

    def interrupt(metrics: StepMetrics) -> None:
        if metrics.step == CONFIG.steps:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match=r"is trained, .*train --resume") as stop:
        start(run, "source", on_metrics=interrupt)
    assert stop.value.step == CONFIG.steps
    assert_same_run(run, uninterrupted["source"])


def test_runs_are_the_same_every_time(uninterrupted: dict[str, Path], tmp_path: Path):
    """Two runs with the same seeds are equal to the last bit, with another seed they are not."""
    start(tmp_path / "again", "source")
    assert_same_run(tmp_path / "again", uninterrupted["source"])
    batches = weather(tmp_path, seed=1)
    other = train(tmp_path / "other", batches, sizes(batches), CONFIG)
    assert fingerprint(other) != fingerprint(load_model(uninterrupted["source"]))


def test_an_untrained_model_is_within_a_tenth_of_log_v(uninterrupted: dict[str, Path]):
    """The first step's cross-entropy is log V within 0.1, on a source and on a text."""
    for run in uninterrupted.values():
        first = metrics_but_times(run)[0]
        assert first["step"] == 1
        vocabulary = load_model(run).config.vocabulary_size
        assert first["cross_entropy"] == pytest.approx(math.log(vocabulary), abs=0.1)


def test_training_reaches_the_floor(tmp_path: Path):
    """On the tiny language 150 steps leave less than 0.02 nats/token, and the curve shows them."""
    run = tmp_path / "run"
    kl = exact_kl(trained(run), weather(tmp_path).source.training)
    assert 0 < kl < 0.02
    last = metrics_but_times(run)[-1]
    batches = weather(tmp_path, sentences=64)
    state = TrainingState(load_model(run), CONFIG)
    sums = sum((gradients(state, shard, 1)[1]() for shard in batches.validation()), Sums())
    assert sums.kl_standard_error is not None
    assert last["validation_kl"] == pytest.approx(sums.kl, abs=1e-6)
    # Four standard errors: how far it lies depends on the rounding of the processor it trains on.
    assert abs(last["validation_kl"] - kl) < 4 * sums.kl_standard_error
    assert last["cross_entropy"] - last["entropy"] == pytest.approx(last["kl"], abs=1e-12)
    assert last["learning_rate"] < 0.06 * 0.02


def test_the_live_kl_is_unbiased(tmp_path: Path):
    """The estimate's mean over 400 batches is the exact KL, which 95 % of the intervals cover."""
    batches = weather(tmp_path, sentences=64)
    language = batches.source.training
    gpt = GPT(sizes(batches), seed=1)
    with torch.no_grad():
        gpt.head_weight.mul_(40)  # wrong with conviction, so that there is something to estimate
    state, truth = TrainingState(gpt, CONFIG), exact_kl(gpt, language)
    estimates = []
    for step in range(400):
        parts = batches.shards(step, 2)
        sums = sum((gradients(state, shard, 1)[1]() for shard in parts), Sums())
        assert sums.kl is not None
        assert sums.kl_standard_error is not None
        estimates.append((sums.kl, sums.kl_standard_error))
    kl, error = np.array(estimates).T
    assert truth > 0.05
    assert abs(kl.mean() - truth) < 3 * kl.std() / math.sqrt(len(kl))
    covered = np.mean(np.abs(kl - truth) < 1.96 * error)
    assert 0.91 < covered < 0.985
    assert error.mean() == pytest.approx(kl.std(), rel=0.15)


@pytest.mark.parametrize("factor", [3000.0, 4900.0])
def test_absurd_learning_rates_are_one_clear_error(factor: float, tmp_path: Path):
    """A diverging run stops with the loss, the step and what to change."""
    batches = weather(tmp_path)
    config = TrainingConfig(steps=200, muon_lr=0.02 * factor, adamw_lr=0.003 * factor, shards=1)
    with pytest.raises(RunError, match=r"diverged.* step \d+.*muon_lr.*adamw_lr"):
        train(tmp_path / "run", batches, sizes(batches), config)
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("change", [{"context": 4}, {"vocabulary_size": 99}])
def test_models_that_do_not_fit_the_data(change: dict[str, int], tmp_path: Path):
    """A context too short or another vocabulary is an error with the numbers of model and data."""
    batches = weather(tmp_path)
    wrong = type(sizes(batches))(**(asdict(sizes(batches)) | change))
    numbers = (
        f"vocabulary of {wrong.vocabulary_size}.*context of {wrong.context}.*"
        f"{batches.vocabulary_size}.*{batches.context}"
    )
    with pytest.raises(InvalidValueError, match=numbers):
        train(tmp_path / "run", batches, wrong, CONFIG)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["save_checkpoint", "save_model"])
def test_a_full_disk_says_how_the_run_is_resumed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by the same command, which would begin a new run; it is then as if the disk had space."""

    def full(*_: object) -> None:
        with files.explained(tmp_path / "file"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    batches = weather(tmp_path)
    run, gpt, config = tmp_path / "run", sizes(batches), replace(CONFIG, steps=4)
    with monkeypatch.context() as patch:
        patch.setattr(loop, name, full)
        with pytest.raises(RunError, match=r"No space left.*then resume the run: kullback"):
            train(run, batches, gpt, config)
    expected = train(tmp_path / "other", batches, gpt, config)
    assert fingerprint(resume(run)) == fingerprint(expected)
