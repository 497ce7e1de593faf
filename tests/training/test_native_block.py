"""Blocks in C against those of torch in float64, and runs where they can no longer be compiled."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that everyone uses

from interrupted_runs import CONFIG, assert_same_run
from kullback.errors import InvalidValueError
from kullback.runtime import mkl_products as mkl_module
from kullback.runtime.mkl_products import MKLProducts, mkl_products
from kullback.runtime.processor import VECTOR_FLAGS
from kullback.runtime.progress import Progress
from kullback.training import arithmetic, block_library, native_block
from kullback.training.arithmetic import CPU, Arithmetic, with_native
from kullback.training.batches import Shard
from kullback.training.block_library import BlockFunctions, block_functions
from kullback.training.config import TrainingConfig
from kullback.training.gpt import GPT
from kullback.training.gpt_config import GPTConfig
from kullback.training.interruption import Interrupted
from kullback.training.linear_cross_entropy import linear_cross_entropy
from kullback.training.loop import resume, train
from kullback.training.loss import losses, token_losses
from kullback.training.muon import Muon
from kullback.training.muon_library import SMALL_SIDE
from kullback.training.packed_attention import PackedLayout
from kullback.training.state import TrainingState
from tiny_runs import metrics_but_times, random_gpt, sizes, weather

HAS_COMPILER = any(shutil.which(name) for name in ("cc", "gcc", "clang"))
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="there is no C compiler")
V = 37
# One token, fewer than a tile, a vector with one more, and more than a block of queries.
LENGTHS = [[1], [3, 1, 2], [16, 16], [17, 9, 23], [64], [65, 2], [150, 40]]
# Width, heads, width of the MLP: heads narrower than a vector, as wide, and wider by half.
SHAPES = [(24, 3, 40), (32, 1, 33), (4, 2, 1), (96, 2, 48)]


@pytest.fixture(params=["C", "torch", "AVX2"])
def functions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> BlockFunctions:
    """Return the C functions, which multiply by themselves or leave the products to torch.

    They are compiled for the vectors that torch uses here, or for AVX2.
    """
    if request.param == "torch":
        monkeypatch.setattr(native_block, "mkl_products", lambda: None)
    elif mkl_products() is None:
        pytest.skip("C cannot multiply here")
    if request.param == "AVX2":
        if not torch.cpu._is_avx2_supported():
            pytest.skip("the processor has no AVX2")
        monkeypatch.setattr(block_library, "vector_flags", lambda: VECTOR_FLAGS["AVX2"])
    compiled = block_functions.__wrapped__()
    assert compiled is not None
    return compiled


def model(shape: tuple[int, int, int], dtype: torch.dtype = torch.float32) -> GPT:
    """Return a model of two layers."""
    width, heads, mlp_width = shape
    return random_gpt(GPTConfig(V, 256, width, 2, heads, mlp_width, rope_theta=50.0)).to(dtype)


def shard(lengths: list[int]) -> Shard:
    """Return random sequences of these lengths."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(V, (2, sum(lengths)), generator=generator)
    layout = PackedLayout.of(torch.tensor(lengths))
    return Shard(tokens[0], tokens[1], None, layout, np.array(lengths))


def first_of(batch: Shard, alone: Shard) -> Shard:
    """Return the first tokens of a shard, as many as another has, in its layout."""
    count = len(alone.targets_M)
    return replace(alone, inputs_M=batch.inputs_M[:count], targets_M=batch.targets_M[:count])


def loss_and_gradients(gpt: GPT, batch: Shard) -> tuple[Tensor, list[Tensor]]:
    """Return the mean loss of a shard, and its gradients, in float64."""
    loss, _ = losses(gpt, batch, 1 / len(batch.targets_M))
    gradients = torch.autograd.grad(loss, list(gpt.parameters()))
    return loss.double(), [gradient.double() for gradient in gradients]


def relative_error(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Return the largest error of a gradient, in its norm or in a hundredth of the largest.

    Those of queries and keys of a single token are 0.
    """
    least = max(float(gradient.norm()) for gradient in theirs) / 100
    pairs = zip(ours, theirs, strict=True)
    return max(float((a - b).norm() / b.norm().clamp_min(least)) for a, b in pairs)


@needs_compiler
def test_a_target_outside_the_vocabulary_is_refused(functions: BlockFunctions) -> None:
    """Damaged data never reaches memory that is not the logits'."""
    logits, nll = torch.zeros(3, V), torch.empty(3)
    for outside in (-1, V):
        with pytest.raises(InvalidValueError, match="outside the vocabulary"):
            functions.cross_entropy(logits, torch.tensor([0, outside, 1]), torch.ones(3), nll)
    assert torch.equal(logits, torch.zeros(3, V))


@needs_compiler
def test_a_model_can_be_copied(functions: BlockFunctions) -> None:
    """As quantising does; the copy calls the same functions."""
    native = model(SHAPES[0]).compute_with(Arithmetic(functions=functions))
    copied = copy.deepcopy(native)
    assert copied.arithmetic.functions is functions
    batch = shard([5, 3])
    assert torch.equal(loss_and_gradients(copied, batch)[0], loss_and_gradients(native, batch)[0])


def test_there_are_functions_where_there_is_a_compiler() -> None:
    """They are used wherever they can be made, so that the other tests here mean something."""
    assert (block_functions() is not None) == HAS_COMPILER
    assert with_native(TrainingConfig(), CPU).native == HAS_COMPILER
    assert not with_native(TrainingConfig(fsdp=True), CPU).native
    assert not with_native(TrainingConfig(), torch.device("cuda")).native


@needs_compiler
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_gradients_are_those_of_float64(
    lengths: list[int], shape: tuple[int, int, int], functions: BlockFunctions
) -> None:
    """Loss and gradients of float32 are those of torch in float64 up to rounding."""
    batch = shard(lengths)
    exact_loss, exact = loss_and_gradients(model(shape, torch.float64), batch)
    native = model(shape).compute_with(Arithmetic(functions=functions))
    loss, gradients = loss_and_gradients(native, batch)
    torch.testing.assert_close(loss, exact_loss, rtol=2e-6, atol=0)
    assert relative_error(gradients, exact) < 1e-4


@needs_compiler
@pytest.mark.parametrize("lengths", [[17, 9, 23], [150, 40]])
def test_bfloat16_rounds_as_torch_does(lengths: list[int], functions: BlockFunctions) -> None:
    """The errors of bfloat16 are as large as those of our functions in torch, and not zero."""
    batch = shard(lengths)
    _, exact = loss_and_gradients(model(SHAPES[0], torch.float64), batch)
    errors = [
        relative_error(loss_and_gradients(model(SHAPES[0]).compute_with(rounded), batch)[1], exact)
        for rounded in (Arithmetic(bfloat16=True), Arithmetic(bfloat16=True, functions=functions))
    ]
    assert 1e-3 < errors[1] < 1.5 * errors[0]


@needs_compiler
def test_sums_of_bfloat16_are_not_rounded_in_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where C multiplies bfloat16, gradients of weights are sums in float32, not rounded ones."""
    monkeypatch.setattr(mkl_module, "has_amx", lambda: True)  # MKL multiplies without it, too
    mkl_products.cache_clear()
    products = mkl_products()
    mkl_products.cache_clear()
    if products is None or products.bfloat16 is None:
        pytest.skip("C cannot multiply bfloat16 here")
    monkeypatch.setattr(native_block, "mkl_products", lambda: products)
    batch, rounded = shard([17, 9, 23]), []
    for by_c in (True, False):
        if not by_c:
            monkeypatch.setattr(native_block, "mkl_products", lambda: None)
        arithmetic_here = Arithmetic(bfloat16=True, functions=block_functions())
        gpt = model(SHAPES[0]).compute_with(arithmetic_here)
        loss, _ = losses(gpt, batch, 1 / len(batch.targets_M))
        gradient = torch.autograd.grad(loss, gpt.model.layers[0].mlp.down_proj.weight)[0]
        rounded.append(torch.equal(gradient, gradient.bfloat16().float()))
    assert rounded == [False, True]


def test_wide_models_leave_bfloat16_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where both could multiply bfloat16, the width decides; float32 is C's at any width."""
    monkeypatch.setattr(native_block, "mkl_products", lambda: MKLProducts(1, 2))
    widest = native_block.WIDEST_BFLOAT16
    for dtype, width, address in (
        (torch.float32, 2 * widest, 1), (torch.bfloat16, widest, 2),
        (torch.bfloat16, widest + 2, None),
    ):  # fmt: skip
        assert native_block.product_in_c(dtype, width) == address


@needs_compiler
def test_tokens_beyond_those_at_once_are_computed_too(functions: BlockFunctions) -> None:
    """More tokens than are computed at once give the losses of each sequence alone."""
    shape = (32, 1, 7400)
    batch = shard([150] * 4)
    gpt = model(shape).compute_with(Arithmetic(functions=functions))
    alone = shard([150])
    np.testing.assert_allclose(
        token_losses(gpt, batch)[:150], token_losses(gpt, first_of(batch, alone)), atol=1e-5
    )


@needs_compiler
@pytest.mark.parametrize("bfloat16", [False, True])
def test_sequences_do_not_see_one_another(bfloat16: bool, functions: BlockFunctions) -> None:
    """The losses of a sequence are the same alone and among others, up to rounding."""
    gpt = model(SHAPES[0]).compute_with(Arithmetic(bfloat16=bfloat16, functions=functions))
    batch = shard([5, 70, 33])
    part = slice(5, 75)
    layout = PackedLayout.of(torch.tensor([70]))
    alone = Shard(batch.inputs_M[part], batch.targets_M[part], None, layout, np.array([70]))
    np.testing.assert_allclose(token_losses(gpt, batch)[part], token_losses(gpt, alone), atol=2e-6)


@needs_compiler
def test_rows_of_one_length_are_hidden_states_of_sequences(functions: BlockFunctions) -> None:
    """A batch of rows gives the hidden states of the same sequences in a packed layout."""
    gpt = model(SHAPES[0]).compute_with(Arithmetic(functions=functions))
    tokens = torch.arange(60).view(3, 20) % V
    with torch.no_grad():
        rows = gpt.hidden(tokens)
        packed = gpt.hidden_packed(tokens.flatten(), PackedLayout.of(torch.full((3,), 20)))
    assert torch.equal(rows.flatten(0, 1), packed)


@needs_compiler
def test_a_weight_that_is_not_a_number_is_seen(functions: BlockFunctions) -> None:
    """Its loss is not a number either, in both types."""
    for bfloat16 in (False, True):
        gpt = model(SHAPES[0]).compute_with(Arithmetic(bfloat16=bfloat16, functions=functions))
        with torch.no_grad():
            gpt.model.layers[0].self_attn.q_proj.weight[0, 0] = torch.nan  # type: ignore[union-attr,index,operator]
        loss, _ = loss_and_gradients(gpt, shard([20, 5]))
        assert torch.isnan(loss)


@needs_compiler
@pytest.mark.parametrize("columns", [1, 15, 16, 17, 604])
def test_cross_entropy_is_that_of_float64(columns: int, functions: BlockFunctions) -> None:
    """Losses and gradients are torch's in float64 to float32 rounding, a hopeless row, too."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(40, 8, generator=generator)
    head = 3 * torch.randn(columns, 8, generator=generator)
    hidden[0] = 30 * hidden[0]
    target = torch.randint(columns, (40,), generator=generator)
    weight = torch.rand(40, generator=generator)
    operands = [hidden.requires_grad_(), head.requires_grad_()]
    total, nll = linear_cross_entropy(hidden, head, target, weight, functions=functions)
    exact_nll = F.cross_entropy(hidden.double() @ head.double().T, target, reduction="none")
    exact = torch.autograd.grad((exact_nll * weight).sum(), operands)
    torch.testing.assert_close(nll.double(), exact_nll, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(total, operands), exact, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        _, again = linear_cross_entropy(hidden, head, target, weight, functions=functions)
    assert torch.equal(again, nll)


@needs_compiler
def test_a_run_without_a_compiler_any_more_is_resumed_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends near the weights of an uninterrupted run, computed by torch."""
    batches, runs = weather(tmp_path), [tmp_path / name for name in ("whole", "stopped")]
    train(runs[0], batches, sizes(batches), CONFIG)
    with pytest.raises(Interrupted):
        train(runs[1], batches, sizes(batches), CONFIG, stop_at=6)
    monkeypatch.setattr(arithmetic, "block_functions", lambda: None)
    notes: list[str] = []
    progress = Progress()
    monkeypatch.setattr(progress, "note", notes.append)
    resume(runs[1], progress=progress)
    assert "functions in C" in " ".join(notes)
    whole, resumed = (metrics_but_times(run) for run in runs)
    assert [line["step"] for line in resumed] == [line["step"] for line in whole]
    assert resumed[-1]["cross_entropy"] == pytest.approx(whole[-1]["cross_entropy"], rel=1e-4)


@pytest.mark.parametrize(
    ("flags", "bfloat16", "steps"),
    [("AVX2", False, 3), ("AVX2", True, 5), ("AVX512", False, 5), ("AVX512", True, 5)],
)
def test_muon_takes_three_steps_without_avx512_and_bfloat16(
    flags: str, bfloat16: bool, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new run on such a CPU has them in its configuration; one on a GPU has five."""
    monkeypatch.setattr(arithmetic, "vector_flags", lambda: VECTOR_FLAGS[flags])
    monkeypatch.setattr(arithmetic, "multiplies_bfloat16", lambda: bfloat16)
    config = with_native(TrainingConfig(), CPU)
    assert config.muon_steps == steps
    assert TrainingState.begin(GPTConfig(V, 8, 8, 1, 1, 8), config).muon.steps == steps
    assert with_native(TrainingConfig(), torch.device("cuda")).muon_steps == 5


def test_a_run_keeps_its_steps_of_muon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is resumed where new runs take five ends with the bits of its three.

    A description without the field, as older versions wrote it, means five.
    """
    batches = weather(tmp_path)
    gpt = replace(sizes(batches, width=SMALL_SIDE + 8), mlp_width=SMALL_SIDE + 34)
    monkeypatch.setattr(arithmetic, "muon_steps", lambda device: 3)
    runs = {name: tmp_path / name for name in ("whole", "run", "old")}
    train(runs["whole"], batches, gpt, CONFIG)
    for name in ("run", "old"):
        with pytest.raises(Interrupted):
            train(runs[name], batches, gpt, CONFIG, stop_at=1)
    description = json.loads((runs["old"] / "training.json").read_text())
    assert description["config"].pop("muon_steps") == 3
    (runs["old"] / "training.json").write_text(json.dumps(description))
    monkeypatch.setattr(arithmetic, "muon_steps", lambda device: 5)
    resume(runs["run"])
    assert_same_run(runs["run"], runs["whole"])
    resume(runs["old"])
    ends = [(runs[name] / "model.safetensors").read_bytes() for name in ("whole", "old")]
    assert ends[0] != ends[1]


@needs_compiler
def test_a_run_that_began_in_torch_ends_in_torch(tmp_path: Path) -> None:
    """A description without the field, as older versions wrote it, is of torch's functions."""
    batches, run = weather(tmp_path), tmp_path / "run"
    with pytest.raises(Interrupted):
        train(run, batches, sizes(batches), CONFIG, stop_at=6)
    description = json.loads((run / "training.json").read_text())
    assert description["config"].pop("native") is True
    (run / "training.json").write_text(json.dumps(description))
    gpt = resume(run)
    assert gpt.arithmetic.functions is None


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_wide_run_in_several_threads_resumes_bit_for_bit(
    dtype: str, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With matrices that Muon multiplies by MKL, a run that was stopped twice is the whole one."""
    if mkl_products() is None:
        pytest.skip("C cannot multiply here")
    batches = weather(tmp_path, sentences=36)
    gpt = replace(sizes(batches, width=SMALL_SIDE + 8), mlp_width=SMALL_SIDE + 34)
    config = with_native(replace(CONFIG, steps=9, shards=threads, dtype=dtype), CPU)
    left_to_torch: list[int] = []
    monkeypatch.setattr(
        Muon, "_descend", lambda _, weights, *__: left_to_torch.append(len(weights))
    )
    train(tmp_path / "whole", batches, gpt, config)
    with pytest.raises(Interrupted):
        train(tmp_path / "run", batches, gpt, config, stop_at=3)
    with pytest.raises(Interrupted):
        resume(tmp_path / "run", stop_at=5)
    resume(tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert set(left_to_torch) == {0}
