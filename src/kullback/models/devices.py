"""Devices that tensors can be put on: the best one here, and checks of names and types."""

from __future__ import annotations

import torch

from kullback.errors import InvalidValueError
from kullback.runtime.workers import local_processes

__all__ = [
    "best_device",
    "check_device",
    "check_dtype",
    "check_float32_products",
    "own_device",
    "rounded_float32_products",
]


def best_device() -> torch.device:
    """CUDA where torch finds a GPU, then MPS, then the CPU; under torchrun this process's GPU.

    Raises `InvalidValueError` as `own_device` does.
    """
    if torch.cuda.is_available():
        return own_device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def own_device(device: torch.device | str) -> torch.device:
    """`device`; of "cuda" under torchrun, the GPU that is this process's own.

    Raises `InvalidValueError` for a name of no device, and where torchrun starts more processes on
    this machine than it has GPUs: two models on one GPU take twice the memory and the same time.
    """
    try:
        named = torch.device(device)
    except RuntimeError:
        raise _unusable(device) from None
    rank, count = local_processes()
    if named.type != "cuda" or named.index is not None or count == 1:
        return named
    gpus = torch.cuda.device_count()
    if gpus and count > gpus:
        raise InvalidValueError(
            f"torchrun starts {count} processes on this machine, and torch finds {gpus} GPU"
            f"{'' if gpus == 1 else 's'}: give --nproc-per-node {gpus}, or --device cpu"
        )
    return torch.device("cuda", rank)


def check_device(device: torch.device | str) -> None:
    """Raise `InvalidValueError` unless tensors can be put on `device`.

    >>> check_device("abacus")
    Traceback (most recent call last):
    kullback.errors.InvalidValueError: the device 'abacus' cannot be used here: use cpu ...
    """
    try:
        # A number comes back only from a device that computes; "meta" has none.
        torch.zeros(1, device=device).item()
    except torch.OutOfMemoryError:
        raise InvalidValueError(
            f"the device {str(device)!r} has no free memory: end what else runs on it, or choose "
            "another device"
        ) from None
    # torch raises AssertionError, NotImplementedError or RuntimeError, with long messages.
    except Exception:
        raise _unusable(device) from None


def check_dtype(dtype: torch.dtype, device: torch.device | str) -> None:
    """Raise `InvalidValueError` where `device` has no arithmetic of that type.

    >>> check_dtype(torch.bfloat16, "cpu")
    """
    device = torch.device(device)
    if device.type == "cuda":
        if dtype != torch.bfloat16:
            return
        with torch.cuda.device(device):
            # The emulation of older GPUs widens every product.
            able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        try:
            matrix = torch.ones(2, 2, dtype=dtype, device=device)
            able = (matrix @ matrix).sum().isfinite().item()
        # torch raises TypeError, NotImplementedError or RuntimeError for a type that is not there.
        except (TypeError, NotImplementedError, RuntimeError):
            able = False
    if not able:
        name = str(dtype).removeprefix("torch.")
        others = "float16 or --dtype float32" if dtype == torch.bfloat16 else "float32"
        raise InvalidValueError(
            f"the device {str(device)!r} has no arithmetic in {name}: add --dtype {others}, or "
            "--device cpu"
        )


def check_float32_products(device: torch.device) -> None:
    """Raise `InvalidValueError` where the process has let float32 products be rounded.

    It is a setting of the whole process, which is not changed here.
    """
    rounded = rounded_float32_products(device)
    if rounded:
        raise InvalidValueError(
            f"this process lets {device} multiply float32 numbers as {rounded} "
            "(torch.set_float32_matmul_precision): call "
            "torch.set_float32_matmul_precision('highest') first"
        )


def rounded_float32_products(device: torch.device) -> str | None:
    """What this process lets float32 products be rounded to; None where they are not.

    TF32 on a GPU, which keeps ten bits, and bfloat16 on a CPU.
    """
    if device.type == "cuda":
        return "TF32" if _allows_tf32() else None
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    bfloat16 = device.type == "cpu" and getattr(matmul, "fp32_precision", "") == "bf16"
    return "bfloat16" if bfloat16 else None


def _allows_tf32() -> bool:
    try:
        return bool(torch.backends.cuda.matmul.allow_tf32)
    except RuntimeError:  # newer settings were used, by which this one cannot be told
        return getattr(torch.backends.cuda.matmul, "fp32_precision", "none") == "tf32"


def _unusable(device: torch.device | str) -> InvalidValueError:
    known = ["cpu"]
    if torch.cuda.is_available():
        known += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        known.append("mps")
    needs = "any other device needs a build of torch that supports it"
    if str(device).partition(":")[0] == "cuda" and torch.version.cuda is not None:
        needs = (
            "torch was built for CUDA and finds no other GPU: see nvidia-smi and "
            "CUDA_VISIBLE_DEVICES"
        )
    elif str(device).partition(":")[0] == "cuda":
        needs = "this torch was built without CUDA: install one that was built with it"
    return InvalidValueError(
        f"the device {str(device)!r} cannot be used here: use {' or '.join(known)} ({needs})"
    )
