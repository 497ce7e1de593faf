"""Training: it learns, it shows the KL without bias, and it can be stopped at any moment."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812 - the name that everyone uses

from kullback.cli import main
from kullback.errors import InvalidValueError, RunError
from kullback.runtime import files
from kullback.training.gpt import GPT
from kullback.training.loop import (
    Interrupted,
    StepMetrics,
    TrainingConfig,
    _gradients,
    _State,
    resume,
    train,
)
from kullback.training.metrics import Sums
from kullback.training.run_folder import load_model, load_tensors
from tiny_runs import (
    contents,
    exact_kl,
    fingerprint,
    metrics_but_times,
    sizes,
    text,
    trained,
    weather,
)

# No cadence divides another, so that stops fall between them.
CONFIG = TrainingConfig(
    steps=26, shards=2, log_every=3, evaluate_every=10, checkpoint_every=4, warmup_steps=5
)
BATCHES = {"source": weather, "text": text}


def start(run: Path, kind: str, **options: object) -> GPT:
    """Train anew in `run`; the data lies beside it."""
    batches = BATCHES[kind](run.parent)
    return train(run, batches, sizes(batches), CONFIG, **options)  # type: ignore[arg-type]


def begin_or_go_on(run: Path, kind: str, **options: object) -> GPT:
    """Do what a user does whose computer keeps failing."""
    if (run / "training.json").exists():
        return resume(run, **options)  # type: ignore[arg-type]
    return start(run, kind, **options)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Train one run of each kind from beginning to end."""
    runs = {kind: tmp_path_factory.mktemp(kind) / "run" for kind in BATCHES}
    for kind, run in runs.items():
        start(run, kind)
    return runs


def assert_same_run(run: Path, undisturbed: Path) -> None:
    """Everything on disk is equal to the last bit, the clock's readings aside."""
    assert fingerprint(load_model(run)) == fingerprint(load_model(undisturbed))
    assert metrics_but_times(run) == metrics_but_times(undisturbed)
    ours, theirs = contents(run), contents(undisturbed)
    assert set(ours) == set(theirs)
    assert ours["model.safetensors"] == theirs["model.safetensors"]
    assert ours["checkpoint.safetensors"] == theirs["checkpoint.safetensors"]


# --- stopping and going on -------------------------------------------------------------------


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("stops", [[1], [4], [7, 11, 12, 25]], ids=str)
def test_a_stopped_run_goes_on_bit_for_bit(
    kind: str, stops: list[int], undisturbed: dict[str, Path], tmp_path: Path
):
    """A run stopped anywhere and resumed ends with the bytes of an undisturbed one."""
    run = tmp_path / "run"
    for stop in stops:
        with pytest.raises(Interrupted, match=f"stopped at step {stop}; go on with: "):
            begin_or_go_on(run, kind, stop_at=stop)
        assert not (run / "model.safetensors").exists()
    resume(run)
    assert_same_run(run, undisturbed[kind])


def children() -> multiprocessing.context.ForkServerContext:
    """Return where to start processes that have imported everything, so that they begin at once."""
    context = multiprocessing.get_context("forkserver")
    # AdamW imports the second one when first made.
    context.set_forkserver_preload([__name__, "torch._dynamo"])
    return context


def work(run: Path, kind: str, steps: object) -> None:
    """Begin or go on, and tell each line of metrics to whoever wants to kill us."""
    torch.set_num_threads(1)
    begin_or_go_on(run, kind, report=lambda metrics: steps.send(metrics.step))  # type: ignore


@pytest.mark.parametrize("kind", BATCHES)
def test_a_killed_run_goes_on_bit_for_bit(kind: str, undisturbed: dict[str, Path], tmp_path: Path):
    """Killed by SIGKILL at random moments until it ends, a run is that which was left alone."""
    dice, kills, run = random.Random(1), 0, tmp_path / "run"
    while True:
        ended = run_and_kill(run, kind, dice)
        kills += not ended
        if ended:
            break
    assert kills >= 3
    assert_same_run(run, undisturbed[kind])


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
    """Begin or go on, and die by SIGKILL with half of the file `number` written."""
    torch.set_num_threads(1)
    counted = 0

    def fsync(descriptor: int) -> None:
        nonlocal counted
        counted += 1
        if counted == number:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    files.os.fsync = fsync  # type: ignore[attr-defined]
    begin_or_go_on(run, kind)


def test_a_run_killed_in_the_middle_of_any_file_goes_on(
    undisturbed: dict[str, Path], tmp_path: Path
):
    """Killed while each of its files in turn is half written, a run ends as if left alone."""
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
    assert_same_run(run, undisturbed["source"])


def test_a_checkpoint_is_the_whole_state(tmp_path: Path):
    """A checkpoint holds weights, momenta, both moments and counts of AdamW, step and sums."""
    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        start(run, "source", stop_at=5)
    tensors, metadata = load_tensors(run / "checkpoint.safetensors")
    names = {name for name, _ in GPT(sizes(weather(tmp_path))).named_parameters()}
    kinds: dict[str, set[str]] = {}
    for key in tensors:
        kind, name = key.split("/", 1)
        kinds.setdefault(kind, set()).add(name)
    assert kinds["weight"] == names
    assert kinds["momentum_buffer"] | kinds["exp_avg"] == names
    assert not kinds["momentum_buffer"] & kinds["exp_avg"]
    assert kinds["exp_avg"] == kinds["exp_avg_sq"] == kinds["step"]
    assert all(tensors[f"step/{name}"] == 5 for name in kinds["step"])
    state = json.loads(metadata["state"])
    assert state["step"] == 5
    assert state["recent"]["tokens"] > 0  # steps 4 and 5: the last line was at 3


def test_a_finished_run_is_returned_as_it_is(undisturbed: dict[str, Path]):
    """Resuming a finished run changes no byte of it."""
    before = contents(undisturbed["source"])
    again = resume(undisturbed["source"])
    assert contents(undisturbed["source"]) == before
    assert fingerprint(again) == fingerprint(load_model(undisturbed["source"]))


def test_runs_are_the_same_every_time(undisturbed: dict[str, Path], tmp_path: Path):
    """Two runs with the same seeds are equal to the last bit, with another seed they are not."""
    start(tmp_path / "again", "source")
    assert_same_run(tmp_path / "again", undisturbed["source"])
    batches = weather(tmp_path, seed=1)
    other = train(tmp_path / "other", batches, sizes(batches), CONFIG)
    assert fingerprint(other) != fingerprint(load_model(undisturbed["source"]))


def command(*arguments: str | Path) -> list[str]:
    """Return a command line of kullback."""
    return [sys.executable, "-m", "kullback", *map(str, arguments)]


def test_ctrl_c_says_how_to_go_on(tmp_path: Path):
    """SIGINT ends `kullback train` with code 130 and the command that ends the run bit for bit."""
    batches = weather(tmp_path, sentences=4)
    run = tmp_path / "my run"  # the blank must be quoted
    options = "--width 8 --heads 2 --layers 1 --mlp-width 16 --batch 4 --threads 1 --steps 60"
    source = ["--source", tmp_path / "weather.toml", *options.split()]
    process = subprocess.Popen(command("train", *source, "-o", run), stderr=subprocess.PIPE)
    while not (run / "training.json").exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    message = re.search(r"stopped at step (\d+); go on with: (kullback train .*)", said.decode())
    assert message
    assert int(message[1]) < 60
    assert main(shlex.split(message[2])[1:]) == 0
    config = TrainingConfig(steps=60, shards=1)
    alone = train(tmp_path / "alone", batches, sizes(batches), config)
    assert fingerprint(load_model(run)) == fingerprint(alone)
    assert metrics_but_times(run) == metrics_but_times(tmp_path / "alone")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_and_writes_a_checkpoint(
    number: signal.Signals, undisturbed: dict[str, Path], tmp_path: Path
):
    """After a signal the step is finished and saved, and the handlers are those of before."""
    before = signal.getsignal(number)

    def report(metrics: StepMetrics) -> None:
        if metrics.step == 6:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted) as stop:
        start(tmp_path / "run", "source", report=report)
    assert stop.value.step in (6, 7)
    assert signal.getsignal(number) == before
    resume(tmp_path / "run")
    assert_same_run(tmp_path / "run", undisturbed["source"])


# --- learning --------------------------------------------------------------------------------


def test_an_untrained_model_is_within_a_tenth_of_log_v(undisturbed: dict[str, Path]):
    """The first step's cross-entropy is log V within 0.1, on a source and on a text."""
    for run in undisturbed.values():
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
    state = _State(load_model(run), CONFIG)
    sums = sum((_gradients(state, shard, 1)[1] for shard in batches.validation()), Sums())
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
    state, truth = _State(gpt, CONFIG), exact_kl(gpt, language)
    found = []
    for step in range(400):
        parts = batches.shards(step, 2)
        sums = sum((_gradients(state, shard, 1)[1] for shard in parts), Sums())
        assert sums.kl is not None
        assert sums.kl_standard_error is not None
        found.append((sums.kl, sums.kl_standard_error))
    kl, error = np.array(found).T
    assert truth > 0.05
    assert abs(kl.mean() - truth) < 3 * kl.std() / math.sqrt(len(kl))
    covered = np.mean(np.abs(kl - truth) < 1.96 * error)
    assert 0.91 < covered < 0.985
    assert error.mean() == pytest.approx(kl.std(), rel=0.15)


def test_gradients_are_those_of_the_mean_over_the_batch(tmp_path: Path):
    """The shards' gradients add up to that of torch's cross-entropy over the whole batch."""
    batches = weather(tmp_path)
    gpt = GPT(sizes(batches), seed=1)
    state, shards = _State(gpt, CONFIG), batches.shards(0, 3)
    total = sum(len(shard.targets_M) for shard in shards)
    ours = [
        sum(parts) for parts in zip(*(_gradients(state, s, total)[0] for s in shards), strict=True)
    ]
    (whole,) = batches.shards(0, 1)
    logits = gpt.hidden_packed(whole.inputs_M, whole.layout) @ gpt.head_weight.T
    loss = F.cross_entropy(logits, whole.targets_M)
    theirs = torch.autograd.grad(loss, list(gpt.parameters()))
    torch.testing.assert_close(ours, list(theirs), rtol=1e-4, atol=1e-6)


def test_the_learning_rates_warm_up_stay_and_fall():
    """The factor is the trapezium that the configuration draws."""
    config = TrainingConfig(steps=100, warmup_steps=10, decay_fraction=0.4)
    rates = [config.rate(step) for step in range(100)]
    assert rates[:10] == pytest.approx([k / 10 for k in range(1, 11)])
    assert rates[10:61] == [1.0] * 51
    assert rates[60:] == pytest.approx([1 - k / 40 for k in range(40)])
    assert TrainingConfig(warmup_steps=0).rate(0) == 1.0


def test_one_step_is_clipped_muon_and_adamw(tmp_path: Path):
    """An update is torch's Muon for the blocks' matrices, AdamW for the rest, after clipping."""
    batches = weather(tmp_path)
    config = TrainingConfig(clip_norm=0.05, warmup_steps=4, steps=40, muon_lr=0.1, adamw_lr=0.02)
    state = _State(GPT(sizes(batches), seed=2), config)
    twin = GPT(sizes(batches), seed=2)
    named = dict(twin.named_parameters())
    begin = {name: weight.detach().clone() for name, weight in named.items()}
    blocks = {n: w for n, w in named.items() if w.ndim == 2 and "layers" in n}
    rest = [w for n, w in named.items() if n not in blocks]
    assert len(blocks) == 7
    muon = torch.optim.Muon(blocks.values(), weight_decay=0.0)
    adamw = torch.optim.AdamW(rest, betas=(0.9, 0.95), weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    for step in range(6):
        # Norms from 0.02, which is left alone, to 300.
        scale = 10.0 ** (step - 3)
        gradients = [scale * torch.randn(w.shape, generator=generator) for w in named.values()]
        norm = math.sqrt(sum(g.square().sum().item() for g in gradients))
        for weight, gradient in zip(named.values(), gradients, strict=True):
            weight.grad = gradient * min(1.0, config.clip_norm / norm)
        state.update([g.clone() for g in gradients])
        state.step += 1
        for optimiser, lr in ((muon, config.muon_lr), (adamw, config.adamw_lr)):
            optimiser.param_groups[0]["lr"] = lr * config.rate(step)
            optimiser.step()
    for name, weight in state.model.named_parameters():
        # Muon computes with 8 bits of mantissa, in another order there
        # (tests/training/test_muon.py: 32).
        bound = 0.1 if name in blocks else 1e-4
        moved = (named[name] - begin[name]).norm()
        assert moved > 0.01, name
        assert (weight - named[name]).norm() < bound * moved, name


@pytest.mark.parametrize("factor", [3000.0, 1e30])
def test_absurd_learning_rates_are_one_clear_error(factor: float, tmp_path: Path):
    """A diverging run stops with the loss, the step and what to change."""
    batches = weather(tmp_path)
    config = TrainingConfig(steps=200, muon_lr=0.02 * factor, adamw_lr=0.003 * factor, shards=1)
    with pytest.raises(
        RunError, match=r"training diverged: .* at step \d+; train a new run with lower"
    ):
        train(tmp_path / "run", batches, sizes(batches), config)
    assert not (tmp_path / "run" / "model.safetensors").exists()


# --- impossible wishes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": -3}, "steps is -3: it must be positive"),
        ({"steps": 0}, "steps is 0: it must be positive"),
        ({"shards": 0}, "shards is 0: it must be positive"),
        ({"muon_lr": -0.1}, "muon_lr is -0.1: it must be positive"),
        ({"adamw_lr": math.nan}, "adamw_lr is nan: it must be positive"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0: it must be positive"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0: it must be positive"),
        ({"warmup_steps": -1}, "warmup_steps is -1: it must be at least 0"),
        ({"seed": -1}, "seed is -1: it must be at least 0"),
        ({"decay_fraction": 1.5}, "decay_fraction is 1.5: it must lie in (0, 1]"),
    ],
)
def test_impossible_configurations(changes: dict[str, float], message: str):
    """An impossible setting is an error that shows it."""
    with pytest.raises(InvalidValueError, match=re.escape(message)):
        TrainingConfig(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"context": 4}, {"vocabulary_size": 99}])
def test_models_that_do_not_fit_the_data(change: dict[str, int], tmp_path: Path):
    """A context too short or another vocabulary is an error with both sides' numbers."""
    batches = weather(tmp_path)
    wrong = type(sizes(batches))(**(asdict(sizes(batches)) | change))
    message = (
        f"the model has a vocabulary of {wrong.vocabulary_size} and a context of {wrong.context}: "
        f"the data needs {batches.vocabulary_size} and at least {batches.context}"
    )
    with pytest.raises(InvalidValueError, match=re.escape(message)):
        train(tmp_path / "run", batches, wrong, CONFIG)
    assert not (tmp_path / "run").exists()
