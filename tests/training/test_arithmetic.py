"""The arithmetic of training: torch's operations against our own functions, and bfloat16."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from interrupted_runs import CONFIG
from kullback.errors import RunError
from kullback.runtime.processor import VECTOR_FLAGS, arithmetic_of_processor
from kullback.runtime.progress import Progress
from kullback.training import arithmetic, block_functions, block_library, muon_library
from kullback.training.arithmetic import (
    CPU,
    Arithmetic,
    arithmetic_of_run,
    note_other_bits,
    product,
)
from kullback.training.batches import Shard
from kullback.training.checkpoint import has_checkpoint
from kullback.training.config import TrainingConfig
from kullback.training.gpt import GPT
from kullback.training.gpt_config import GPTConfig
from kullback.training.interruption import Interrupted
from kullback.training.loop import resume, train
from kullback.training.loss import losses
from kullback.training.packed_attention import PackedLayout
from kullback.training.state import TrainingState
from tiny_runs import contents, metrics_but_times, random_gpt, sizes, weather

SIZES = GPTConfig(37, 300, width=24, layers=2, heads=3, mlp_width=40, rope_theta=50.0)
ACCELERATED = Arithmetic(accelerated=True)


def model(dtype: torch.dtype = torch.float64) -> GPT:
    """Return a model of two layers."""
    return random_gpt(SIZES).to(dtype)


def shard(lengths: list[int]) -> Shard:
    """Return random sequences of these lengths."""
    lengths_N = torch.tensor(lengths)
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(37, (2, sum(lengths)), generator=generator)
    return Shard(tokens[0], tokens[1], None, PackedLayout.of(lengths_N), lengths_N.numpy())


def loss_and_gradients(gpt: GPT, batch: Shard) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the mean loss of a shard, and its gradients."""
    loss, _ = losses(gpt, batch, 1 / len(batch.targets_M))
    return loss, torch.autograd.grad(loss, list(gpt.parameters()))


@pytest.mark.parametrize("lengths", [[16, 16, 16], [9, 2, 23], [5], [270, 3]])
def test_torch_operations_are_our_functions(lengths: list[int]) -> None:
    """Loss and gradients agree to 1e-11 in float64: equal rows, padded ones, and long ones."""
    gpt, batch = model(), shard(lengths)
    own = loss_and_gradients(gpt, batch)
    theirs = loss_and_gradients(gpt.compute_with(ACCELERATED), batch)
    torch.testing.assert_close(theirs, own, rtol=0, atol=1e-11)


def test_torch_operations_in_float32_are_near_float64() -> None:
    """The gradient of the accelerator's path in float32 is that of float64 up to rounding."""
    batch = shard([9, 2, 23])
    _, exact = loss_and_gradients(model(), batch)
    _, rounded = loss_and_gradients(model(torch.float32).compute_with(ACCELERATED), batch)
    for a, b in zip(rounded, exact, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("accelerated", [False, True])
def test_bfloat16_rounds_products_alone(accelerated: bool) -> None:
    """Losses differ by less than a percent, gradients by a few; weights and loss are float32."""
    batch, gpt = shard([16, 16, 16, 16]), model(torch.float32)
    loss, gradients = loss_and_gradients(gpt, batch)
    gpt.compute_with(Arithmetic(bfloat16=True, accelerated=accelerated))
    rounded_loss, rounded = loss_and_gradients(gpt, batch)
    assert rounded_loss.dtype == torch.float32
    assert rounded_loss != loss
    assert rounded_loss.item() == pytest.approx(loss.item(), rel=0.01)
    for a, b in zip(rounded, gradients, strict=True):
        assert a.dtype == torch.float32
        assert 1e-5 < (a - b).norm() / b.norm() < 0.05


@pytest.mark.parametrize("able", [False, True])
def test_products_do_not_depend_on_the_processor(
    able: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounded operands, a sum in float32, a rounded result: with and without instructions."""
    monkeypatch.setattr(arithmetic, "multiplies", lambda dtype: able)
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(20, 20, generator=generator) for _ in range(2))
    expected = (a.bfloat16().double() @ b.bfloat16().double()).bfloat16()
    ours = product(a, b, bfloat16=True)
    assert ours.dtype == torch.float32
    assert torch.equal(ours.bfloat16().float(), ours)
    torch.testing.assert_close(ours, expected.float(), rtol=2**-7, atol=1e-6)


def test_the_functions_of_a_cpu_are_not_used_on_an_accelerator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The path of an accelerator has none of our autograd functions in its blocks."""

    def fail(*arguments: object) -> None:
        raise AssertionError

    monkeypatch.setattr(block_functions._NormalisedLinear, "apply", fail)
    with pytest.raises(AssertionError):
        loss_and_gradients(model(), shard([16]))
    loss_and_gradients(model().compute_with(ACCELERATED), shard([16]))


def trained(run: Path, stop_at: int | None = None, **changes: object) -> GPT:
    """Train, or resume where the run has begun."""
    if has_checkpoint(run):
        return resume(run, stop_at=stop_at)
    batches = weather(run.parent)
    config = replace(CONFIG, steps=14, shards=1, **changes)  # type: ignore[arg-type]
    return train(run, batches, sizes(batches), config, stop_at=stop_at)


def test_a_run_of_an_accelerator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its curve is that of our functions up to rounding, and is resumed bit for bit."""
    trained(tmp_path / "ours")
    monkeypatch.setattr(arithmetic, "ACCELERATED_ON_CPU", True)
    trained(tmp_path / "theirs")
    ours, theirs = (metrics_but_times(tmp_path / name) for name in ("ours", "theirs"))
    for a, b in zip(ours, theirs, strict=True):
        assert a["cross_entropy"] == pytest.approx(b["cross_entropy"], rel=2e-3)
    assert ours != theirs
    with pytest.raises(Interrupted):
        trained(tmp_path / "half", stop_at=7)
    trained(tmp_path / "half")
    assert metrics_but_times(tmp_path / "half") == theirs
    of_half, of_theirs = contents(tmp_path / "half"), contents(tmp_path / "theirs")
    for name in ("model.safetensors", "checkpoint.safetensors"):
        assert of_half[name] == of_theirs[name]


def test_a_run_in_bfloat16(tmp_path: Path) -> None:
    """Its loss is within a percent of float32's, and it is resumed bit for bit in bfloat16."""
    trained(tmp_path / "float32")
    trained(tmp_path / "whole", dtype="bfloat16")
    with pytest.raises(Interrupted):
        trained(tmp_path / "half", stop_at=7, dtype="bfloat16")
    trained(tmp_path / "half")
    exact, whole, half = (
        metrics_but_times(tmp_path / name) for name in ("float32", "whole", "half")
    )
    assert whole != exact
    assert whole[-1]["cross_entropy"] == pytest.approx(exact[-1]["cross_entropy"], rel=0.01)
    assert half == whole
    names = ("half", "whole")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in names]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("accelerated", [False, True])
def test_divergence_is_seen_before_it_is_written(
    accelerated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step that diverged is named, from 1 as in the metrics; no checkpoint contains it."""
    monkeypatch.setattr(arithmetic, "ACCELERATED_ON_CPU", accelerated)
    batches = weather(tmp_path)
    config = replace(CONFIG, muon_lr=100.0, adamw_lr=100.0, checkpoint_every=1, warmup_steps=0)
    with pytest.raises(RunError, match="diverged") as error:
        train(tmp_path / "run", batches, sizes(batches), config)
    steps = re.search(r"at step (\d+); the checkpoint of step (\d+) is kept", str(error.value))
    assert steps is not None
    assert int(steps[1]) == int(steps[2]) + 1
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] < int(steps[1])
    assert "weight_decay" not in str(error.value)


def test_a_diverged_run_names_its_weight_decay(tmp_path: Path) -> None:
    """Where a run has some; and what is resumed is said only where there is a checkpoint."""
    batches = weather(tmp_path)
    config = replace(CONFIG, muon_lr=1.0, adamw_lr=1.0, weight_decay=0.5, warmup_steps=0)
    state = TrainingState.begin(sizes(batches), config)
    with pytest.raises(RunError, match=r"weight_decay is 0\.5") as error:
        state.check_loss(1e9)
    assert "resumed" not in str(error.value)


class Notes(Progress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Keep it."""
        self.notes.append(text)


@pytest.mark.parametrize(
    ("began", "resumed", "said"),
    [("cpu", "cpu", ""), ("cuda", "cpu", "began on cuda"), ("cuda", "cuda", "no fixed order")],
)
def test_other_bits_are_noted(began: str, resumed: str, said: str) -> None:
    """A run on a CPU is resumed without a note, elsewhere and on an accelerator with one."""
    progress = Notes()
    note_other_bits(TrainingConfig(device=began), torch.device(resumed), progress)
    assert [said in note for note in progress.notes] == [True] * bool(said)


def test_another_torch_or_processor_is_noted() -> None:
    """What the run began with is named where it differs, and nothing where it is unknown."""
    here = torch.__version__, arithmetic_of_processor()
    for began, words in (
        (here, ()),
        (("", ""), ()),
        (("0.9", here[1]), ("torch 0.9",)),
        (("0.9", "SVE256"), ("torch 0.9", "SVE256")),
    ):
        progress = Notes()
        note_other_bits(TrainingConfig(), CPU, progress, began)
        assert len(progress.notes) == bool(words)
        assert all(word in note for note in progress.notes for word in words)


def test_what_is_computed_in_c_is_part_of_the_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """MKL's products and Muon in C round otherwise; a run that leaves both to torch has neither."""
    monkeypatch.setattr(arithmetic, "block_functions", lambda: "functions")
    monkeypatch.setattr(arithmetic, "mkl_products", lambda: "products")
    monkeypatch.setattr(arithmetic, "muon_functions", lambda: "functions")
    monkeypatch.setattr(arithmetic, "vector_flags", lambda: VECTOR_FLAGS["AVX512"])
    monkeypatch.setattr(arithmetic, "_version_of_functions", lambda: "12ab")
    native, here = TrainingConfig(native=True), arithmetic_of_processor()
    began = arithmetic_of_run(native)
    version = "functions in C 12ab"
    assert began == f"{here}, products of MKL, Muon of all matrices in C, {version}"
    small = f"{here}, products of MKL, Muon in C, {version}"
    assert arithmetic_of_run(replace(native, muon_rows=32)) == small
    assert arithmetic_of_run(TrainingConfig()) == here
    with monkeypatch.context() as with_avx2:  # which sums symmetric products in another order
        with_avx2.setattr(arithmetic, "vector_flags", lambda: VECTOR_FLAGS["AVX2"])
        assert "Muon of all matrices by triangles in C" in arithmetic_of_run(native)
        assert arithmetic_of_run(replace(native, muon_rows=32)) == small
    earlier = Notes()  # a run that left large matrices to torch is resumed
    note_other_bits(native, CPU, earlier, (torch.__version__, small))
    assert f"Muon in C, {version}; now" in earlier.notes[0]
    monkeypatch.setattr(arithmetic, "muon_functions", lambda: None)
    progress = Notes()
    note_other_bits(native, CPU, progress, (torch.__version__, began))
    assert f"Muon of all matrices in C, {version}; now" in progress.notes[0]
    assert "a processor" not in progress.notes[0]


def test_other_functions_in_c_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what their sources are; what a run of before began with is not known."""
    if block_library.block_functions() is None:
        pytest.skip("there is no C compiler")
    config = TrainingConfig(native=True, muon_rows=32)
    began = arithmetic_of_run(config)
    earlier = began[: began.index(", functions in C ")]

    def notes(began: str) -> list[str]:
        progress = Notes()
        note_other_bits(config, CPU, progress, (torch.__version__, began))
        return progress.notes

    assert [notes(began), notes(earlier)] == [[], []]
    assert len(notes(f"SVE256, {earlier}")) == 1
    digest = arithmetic.source_digest
    for source in (block_library.SOURCE, muon_library.SOURCE):
        with monkeypatch.context() as changed:
            changed.setattr(
                arithmetic,
                "source_digest",
                lambda path, source=source: digest(path) + "x" * (path == source),
            )
            arithmetic._version_of_functions.cache_clear()
            assert len(notes(began)) == 1
            assert notes(earlier) == []
    arithmetic._version_of_functions.cache_clear()


def test_a_run_of_before_is_of_a_cpu_in_float32() -> None:
    """Descriptions without the fields mean what the program did then."""
    config = TrainingConfig()
    assert Arithmetic.of(config, CPU) == Arithmetic()
    assert (config.device, config.dtype, config.compiled) == ("cpu", "float32", False)
