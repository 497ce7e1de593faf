"""Devices that tensors can be put on: the best one here, and the check of a name."""

from __future__ import annotations

import torch

from kullback.errors import InvalidValueError

__all__ = ["best_device", "check_device"]


def best_device() -> torch.device:
    """CUDA where torch finds a GPU, then MPS, then the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def check_device(device: torch.device | str) -> None:
    """Raise `InvalidValueError` unless tensors can be put on `device`.

    >>> check_device("abacus")
    Traceback (most recent call last):
    kullback.errors.InvalidValueError: the device 'abacus' cannot be used here: use cpu ...
    """
    try:
        # A number comes back only from a device that computes; "meta" has none.
        torch.zeros(1, device=device).item()
    # torch raises AssertionError, NotImplementedError or RuntimeError, with long messages.
    except Exception:
        known = ["cpu"]
        if torch.cuda.is_available():
            known += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        if torch.backends.mps.is_available():
            known.append("mps")
        raise InvalidValueError(
            f"the device {str(device)!r} cannot be used here: use {' or '.join(known)} "
            "(any other device needs a build of torch that supports it)"
        ) from None
