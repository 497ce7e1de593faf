"""The best device, and devices that cannot be used."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from kullback.cli.text_options import DTYPES
from kullback.errors import InvalidValueError
from kullback.models.devices import (
    best_device,
    check_device,
    check_dtype,
    check_float32_products,
    own_device,
)


@pytest.mark.parametrize(
    ("cuda", "mps", "best"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_the_best_device(cuda: bool, mps: bool, best: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA comes before MPS, and MPS before the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert best_device() == torch.device(best)


@pytest.mark.parametrize("device", ["cuda:99", "abacus", "meta"])
def test_an_unusable_device_is_named(device: str) -> None:
    """A device that torch does not find, or that holds no numbers, is an error with a choice."""
    with pytest.raises(InvalidValueError, match=f"device '{device}'.*use cpu"):
        check_device(device)
    check_device("cpu")


def under_torchrun(monkeypatch: pytest.MonkeyPatch, rank: int, count: int, gpus: int) -> None:
    """Set the environment of torchrun, and the number of GPUs."""
    values = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "LOCAL_RANK": rank}
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)


def test_each_process_of_torchrun_has_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third process takes the third GPU; one that is named by its number is taken as it is."""
    under_torchrun(monkeypatch, 2, 4, 4)
    assert best_device() == own_device("cuda") == torch.device("cuda:2")
    assert own_device("cuda:0") == torch.device("cuda:0")
    assert own_device("cpu") == torch.device("cpu")


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence says how many processes there may be."""
    under_torchrun(monkeypatch, 0, 3, 2)
    with pytest.raises(InvalidValueError, match=r"3 processes.*2 GPUs.*--nproc-per-node 2"):
        best_device()


def test_cuda_without_a_gpu_says_what_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build with CUDA sends the user to nvidia-smi, one without it to another build."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for version, said in (("13.0", "nvidia-smi"), (None, "built without CUDA")):
        monkeypatch.setattr(torch.version, "cuda", version)
        with pytest.raises(InvalidValueError, match=rf"'cuda:7'.*use cpu.*{said}"):
            check_device("cuda:7")


def test_a_gpu_without_bfloat16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An emulated bfloat16 does not count; float16 is no question there."""
    asked: list[bool] = []

    def supported(including_emulation: bool = True) -> bool:
        asked.append(including_emulation)
        return including_emulation

    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    with pytest.raises(InvalidValueError, match=r"'cuda:0'.*bfloat16.*--dtype float16"):
        check_dtype(torch.bfloat16, "cuda:0")
    assert asked == [False]
    check_dtype(torch.float16, "cuda:0")


@pytest.mark.parametrize(
    ("precision", "cuda", "cpu"),
    [("highest", "", ""), ("high", "TF32", ""), ("medium", "TF32", "bfloat16")],
)
def test_rounded_products_are_refused(precision: str, cuda: str, cpu: str) -> None:
    """What a notebook may have set for its training leaves float32 numbers ten bits or fewer."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        for device, rounded in (("cuda", cuda), ("cpu", cpu)):
            refused = pytest.raises(InvalidValueError, match=rf"{device} .*{rounded}.*'highest'")
            with refused if rounded else nullcontext():
                check_float32_products(torch.device(device))
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_cpu_has_every_type() -> None:
    """No type that `--dtype` offers is refused on a CPU; one without a product is."""
    offered = [getattr(torch, name) for name in DTYPES if name != "auto"]
    refused = []
    for dtype in (*offered, torch.float8_e4m3fn):
        try:
            check_dtype(dtype, "cpu")
        except InvalidValueError:
            refused.append(dtype)
    assert refused == [torch.float8_e4m3fn]
