"""Interruption by Ctrl-C and SIGTERM."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from interrupted_runs import assert_same_run, start
from kullback.cli import main
from kullback.cli.live_page import LivePage
from kullback.results.training import StepMetrics
from kullback.training.config import TrainingConfig
from kullback.training.interruption import Interrupted
from kullback.training.loop import resume, train
from kullback.training.run_folder import load_model
from tiny_runs import fingerprint, metrics_but_times, sizes, weather


def command(*arguments: str | Path) -> list[str]:
    """Return a command line of kullback."""
    return [sys.executable, "-m", "kullback", *map(str, arguments)]


def test_ctrl_c_says_how_to_resume(tmp_path: Path):
    """SIGINT ends `kullback train` with code 130 and the command that ends the run bit for bit."""
    batches = weather(tmp_path, sentences=4)
    run = tmp_path / "my run"  # the space must be quoted
    options = "--width 8 --heads 2 --layers 1 --mlp-width 16 --batch 4 --threads 1 --steps 60"
    source = ["--source", tmp_path / "weather.toml", *options.split()]
    process = subprocess.Popen(command("train", *source, "-o", run), stderr=subprocess.PIPE)
    while not (run / "training.json").exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    message = re.search(r"stopped at step (\d+); resume with: (kullback train .*)", said.decode())
    assert message
    assert int(message[1]) < 60
    assert main(shlex.split(message[2])[1:]) == 0
    config = TrainingConfig(steps=60, shards=1)
    alone = train(tmp_path / "alone", batches, sizes(batches), config)
    assert fingerprint(load_model(run)) == fingerprint(alone)
    assert metrics_but_times(run) == metrics_but_times(tmp_path / "alone")


def test_ctrl_c_after_the_run_was_measured_says_that_it_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While its page is written: code 130, and the command that measures it again."""

    def interrupted(page: LivePage, result: object) -> None:
        raise KeyboardInterrupt

    weather(tmp_path, sentences=4)
    monkeypatch.setattr(LivePage, "finish", interrupted)
    options = "--width 8 --heads 2 --layers 1 --mlp-width 16 --batch 4 --threads 1 --steps 4"
    run = tmp_path / "run"
    source = ["--source", str(tmp_path / "weather.toml"), *options.split()]
    assert main(["train", *source, "-o", str(run)]) in (130, 143)  # of the last signal
    said = capsys.readouterr().err
    assert f"{run} is trained, and is measured with: kullback train --resume {run}" in said
    assert "nothing of this run" not in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_and_writes_a_checkpoint(
    number: signal.Signals, uninterrupted: dict[str, Path], tmp_path: Path
):
    """After a signal the step is finished and saved, and the handlers are those of before."""
    before = signal.getsignal(number)

    def on_metrics(metrics: StepMetrics) -> None:
        if metrics.step == 6:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted) as stop:
        start(tmp_path / "run", "source", on_metrics=on_metrics)
    assert stop.value.step in (6, 7)
    assert signal.getsignal(number) == before
    resume(tmp_path / "run")
    assert_same_run(tmp_path / "run", uninterrupted["source"])
