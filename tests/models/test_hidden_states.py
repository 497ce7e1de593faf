"""Hidden states between layers, in memory and on disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from kullback.errors import RunError
from kullback.models import hidden_states
from kullback.models.hidden_states import HiddenStates

CPU = torch.device("cpu")


@pytest.mark.parametrize("place", ["memory", "disk", "device"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_input_has_its_own_place(
    place: hidden_states.Place, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written under a number is read under it, and no file with a name is left."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    shapes = [(1, 3), (2, 2), (1, 1)]
    states = HiddenStates(shapes, (4,), dtype, CPU, place)
    written = [torch.randn(*shape, 4).to(dtype) for shape in shapes]
    for i in (2, 0, 1):
        states[i] = written[i]
    assert all(torch.equal(states[i], written[i]) for i in range(3))
    assert not list(tmp_path.iterdir())
    states.close()


def test_rows_of_several_streams() -> None:
    """A position may have more than one vector."""
    states = HiddenStates([(1, 3)], (2, 4), torch.float32, CPU, "memory")
    states[0] = torch.ones(1, 3, 2, 4)
    assert states[0].shape == (1, 3, 2, 4)


def test_a_full_disk_is_said_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has its full size from the beginning."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hidden_states.os, "posix_fallocate", full)
    with pytest.raises(RunError, match="TMPDIR"):
        HiddenStates([(1, 3)], (4,), torch.float32, CPU, "disk")


def test_a_disk_that_fills_up_is_the_same_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file system that promises space which it does not have."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    hidden = HiddenStates([(1, 3)], (4,), torch.float32, CPU, "disk")
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(RunError, match=r"kB.*No space left.*TMPDIR"):
        hidden[0] = torch.zeros(1, 3, 4)
