"""The best device, and devices that cannot be used."""

from __future__ import annotations

import pytest
import torch

from kullback.errors import InvalidValueError
from kullback.models.devices import best_device, check_device


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
