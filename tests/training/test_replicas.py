"""Training in several processes under torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kullback.errors import InvalidValueError, RunError
from kullback.runtime.progress import Progress
from kullback.runtime.workers import ProcessGroup
from kullback.training.config import TrainingConfig
from kullback.training.gpt import GPT
from kullback.training.gpt_config import GPTConfig
from kullback.training.replicas import ALONE, Replicas, check_shares
from kullback.training.state import TrainingState
from tiny_runs import metrics_but_times, text

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
STEPS = 400
OPTIONS = (
    "--tokenizer", "characters", "--steps", str(STEPS), "--log-every", "10", "--warmup-steps", "9",
    "--width", "8", "--layers", "1", "--mlp-width", "16", "--batch", "8", "--context", "8",
    "--checkpoint-every", "50", "--evaluate-every", "50", "--dropout", "0.1",
)  # fmt: skip


def command(processes: int, *arguments: str) -> tuple[str, ...]:
    """Return the command line of a training in so many processes."""
    torchrun = TORCHRUN if processes == 2 else ()
    return (sys.executable, *torchrun, "-m", "kullback", "train", *arguments)


def run(processes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        command(processes, *arguments), capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a text."""
    folder = tmp_path_factory.mktemp("text")
    text(folder)
    return folder / "weather.txt"


@pytest.fixture(scope="module")
def alone(data: Path) -> Path:
    """Train in one process, with a part for each of two others."""
    folder = data.parent / "alone"
    threads = ("--threads", "1", "--accumulate", "4")
    done = run(1, "--text", str(data), *OPTIONS, *threads, "-o", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def begun(data: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Begin a training in two processes, and wait for its first checkpoint."""
    folder = tmp_path / "run"
    parts = ("--threads", "1", "--accumulate", "2")
    process = subprocess.Popen(
        command(2, "--text", str(data), *OPTIONS, *parts, "-o", str(folder)),
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 200
    while not (folder / "checkpoint.safetensors").exists():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield process, folder
    process.kill()
    process.wait()


def same(run: Path, other: Path) -> bool:
    """Whether two runs have the same curve and the same weights, to the last bit."""

    def curve(folder: Path) -> list[dict[str, object]]:
        return [line | {"summary": None} for line in metrics_but_times(folder)]

    weights = [(folder / "model.safetensors").read_bytes() for folder in (run, other)]
    return curve(run) == curve(other) and weights[0] == weights[1]


@pytest.mark.slow
@pytest.mark.parametrize("resumed_with", [1, 2])
def test_two_processes_stop_together_and_resume(
    resumed_with: int,
    begun: tuple[subprocess.Popen[bytes], Path],
    alone: Path,
):
    """SIGTERM at one stops both with a checkpoint; resumed, they have the bits of one process."""
    process, folder = begun
    os.kill(int((folder / ".lock.pid").read_text()), signal.SIGTERM)
    _, said = process.communicate(timeout=100)
    assert said.decode().count("kullback: stopped at step") == 1
    assert not (folder / "model.safetensors").exists()
    done = run(resumed_with, "--resume", str(folder))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("written") == 1
    assert same(folder, alone)


@pytest.mark.slow
def test_a_killed_process_loses_nothing(
    begun: tuple[subprocess.Popen[bytes], Path], alone: Path
) -> None:
    """After SIGKILL of rank 0 the other ends, and the resumed run has the bits of another."""
    process, folder = begun
    os.kill(int((folder / ".lock.pid").read_text()), signal.SIGKILL)
    process.communicate(timeout=100)
    assert process.returncode != 0
    done = run(2, "--resume", str(folder))
    assert done.returncode == 0, done.stderr
    assert same(folder, alone)


@pytest.mark.slow
def test_processes_that_do_not_divide_the_batch(data: Path, tmp_path: Path):
    """One sentence names the batch that works, and no run has begun."""
    done = run(2, "--text", str(data), "--batch", "9", "-o", str(tmp_path / "run"))
    assert done.returncode != 0
    assert "kullback: a batch of 9 " in done.stderr
    assert "--batch 8" in done.stderr
    assert "exitcode  : 2" in done.stderr
    assert not (tmp_path / "run").exists()


def test_shares_of_a_batch():
    """The shares of the ranks are contiguous, equal and all."""
    ranks = [Replicas(ProcessGroup(rank, 4, 4)) for rank in range(4)]
    assert [list(range(8))[rank.own(8)] for rank in ranks] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert [i for rank in ranks for i in range(10)[rank.share(10)]] == list(range(10))


class Notes(Progress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Keep a note."""
        self.notes.append(text)


def test_other_numbers_of_processes():
    """A number that divides the pieces resumes, with a note where bits change; others do not."""
    notes = Notes()
    exact, other = (TrainingConfig(shards=1, processes=count) for count in (4, 6))
    check_shares(exact, 24, ProcessGroup(0, 2, 2), notes)
    check_shares(other, 24, ProcessGroup(0, 6, 6), notes)
    assert notes.notes == []
    check_shares(other, 24, ProcessGroup(0, 3, 3), notes)
    assert "6 processes" in notes.notes[0]
    assert "last bits" in notes.notes[0]
    with pytest.raises(InvalidValueError, match=r"6 pieces.*4 processes.*1, 2, 3 or 6"):
        check_shares(other, 24, ProcessGroup(0, 4, 4), notes)


def test_replicas_that_differ_are_named(monkeypatch: pytest.MonkeyPatch):
    """Weights that are not those of rank 0 are an error with the rank and the step."""
    state = TrainingState(GPT(GPTConfig(10, 8, 8, 1, 1, 8)), TrainingConfig(), step=7)
    Replicas(ALONE).check_equal(state)
    monkeypatch.setattr(Replicas, "gathered", lambda self, own: [*own, 1])
    with pytest.raises(RunError, match=r"process 1 .*step 7.*no checkpoint"):
        Replicas(ProcessGroup(0, 2, 2)).check_equal(state)


def test_gradients_are_added_over_processes(monkeypatch: pytest.MonkeyPatch):
    """Buckets of tensors of several shapes come back as their sums, whatever the padding."""
    own = [torch.arange(5.0), torch.ones(2, 3), torch.ones(())]
    monkeypatch.setattr("kullback.training.replicas.BUCKET_BYTES", 40)

    def to_all(received: torch.Tensor, sent: torch.Tensor) -> None:
        # The other process has ten times the gradient; this one is rank 0.
        received.copy_(torch.cat([sent.view(2, -1)[0], 10 * sent.view(2, -1)[0]]))
        halves.append(11 * sent.view(2, -1)[1])

    def to_each(parts: list[torch.Tensor], part: torch.Tensor) -> None:
        parts[0].copy_(part)
        parts[1].copy_(halves.pop())

    halves: list[torch.Tensor] = []
    monkeypatch.setattr("kullback.training.replicas.dist.all_to_all_single", to_all)
    monkeypatch.setattr("kullback.training.replicas.dist.all_gather", to_each)
    total = Replicas(ProcessGroup(0, 2, 2)).summed(own)
    for tensor, summed in zip(own, total, strict=True):
        assert torch.equal(summed, 11 * tensor)
        assert summed.shape == tensor.shape


@pytest.mark.slow
def test_processes_on_accelerators_have_the_bits_of_one(data: Path, tmp_path: Path) -> None:
    """Steps that are checked a step later stay together, with a replica each and with shards."""
    script = str(Path(__file__).with_name("accelerated_on_cpu.py"))
    of_run = ("train", "--text", str(data), *OPTIONS, "--steps", "30", "--threads", "1")
    kinds = {
        "one": (("--accumulate", "2"), ()),
        "two": ((), TORCHRUN),
        "sharded": (("--fsdp", "always"), TORCHRUN),
    }
    for name, (options, torchrun) in kinds.items():
        line = [sys.executable, *torchrun, script, *of_run, *options, "-o", str(tmp_path / name)]
        done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
    one, two, sharded = (metrics_but_times(tmp_path / name) for name in kinds)
    assert one == two
    for a, b in zip(one, sharded, strict=True):
        assert a["cross_entropy"] == pytest.approx(b["cross_entropy"], rel=1e-5)
