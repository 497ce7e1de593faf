"""Tensors of safetensors files that are read into memory that is used again."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from kullback.errors import InvalidValueError
from kullback.models import stored_tensors
from kullback.models.stored_tensors import (
    DTYPES,
    Blocks,
    StoredFile,
    block_bytes,
    read_tensors,
)
from kullback.runtime.weights import tensor_bytes


def stored(folder: Path, count: int = 3) -> Path:
    """A file of some tensors."""
    path = folder / "some.safetensors"
    draw = torch.Generator().manual_seed(0)
    save_file({f"t{i}": torch.randn(5, 7 + i, generator=draw) for i in range(count)}, path)
    return path


def read(path: Path) -> dict[str, torch.Tensor]:
    """All of its tensors."""
    tensors = list(StoredFile(str(path)).tensors.values())
    return read_tensors(tensors, Blocks(block_bytes(tensors)))


@pytest.mark.parametrize("has_preadv", [True, False])
def test_every_type_is_read_as_safetensors_reads_it(
    has_preadv: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its shape, an empty tensor and one number too; also on systems without `preadv`."""
    if not has_preadv:
        monkeypatch.delattr(os, "preadv", raising=False)
    path = tmp_path / "all.safetensors"
    draw = torch.Generator().manual_seed(0)
    numbers = torch.randint(0, 2, (3, 5), generator=draw)
    tensors = {name: numbers.to(dtype) for name, dtype in DTYPES.items()}
    tensors |= {"empty": torch.zeros(0, 4), "one": torch.tensor(2.5)}
    save_file(tensors, path)
    expected, actual = load_file(path), read(path)
    assert expected.keys() == actual.keys()
    for key, tensor in expected.items():
        assert (actual[key].dtype, actual[key].shape) == (tensor.dtype, tensor.shape)
        assert bytes(tensor_bytes(actual[key])) == bytes(tensor_bytes(tensor))


def test_a_block_is_used_again_when_nothing_refers_to_it(tmp_path: Path) -> None:
    """Not before: a tensor that somebody keeps is not overwritten."""
    tensors = list(StoredFile(str(stored(tmp_path))).tensors.values())
    blocks = Blocks(block_bytes(tensors))
    first = read_tensors(tensors, blocks)
    kept, place = first["t1"], first["t0"].data_ptr()
    copy = kept.clone()
    del first
    assert read_tensors(tensors, blocks)["t0"].data_ptr() != place
    assert torch.equal(kept, copy)
    del kept
    places = {read_tensors(tensors, blocks)["t0"].data_ptr() for _ in range(4)}
    assert place in places
    assert len(places) <= 2


def test_what_is_stopped_is_not_read_to_its_end(tmp_path: Path) -> None:
    """Nothing waits for a layer that nobody wants."""
    tensors = list(StoredFile(str(stored(tmp_path))).tensors.values())
    stop = threading.Event()
    stop.set()
    assert not read_tensors(tensors, Blocks(block_bytes(tensors)), stop)


def test_large_tensors_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pieces have the bytes of the whole."""
    monkeypatch.setattr(stored_tensors, "AT_ONCE", 48)
    path = stored(tmp_path)
    expected, actual = load_file(path), read(path)
    assert all(torch.equal(actual[key], tensor) for key, tensor in expected.items())


@pytest.mark.parametrize("change", ["cut short", "written to"])
def test_a_file_that_changes_is_named(change: str, tmp_path: Path) -> None:
    """With what to do; a memory-mapped file that is cut short would end the process."""
    path = stored(tmp_path)
    file = StoredFile(str(path))
    tensors = list(file.tensors.values())
    if change == "cut short":
        os.truncate(path, path.stat().st_size - 8)
    else:
        with path.open("r+b") as opened:
            opened.seek(-4, os.SEEK_END)
            opened.write(b"abcd")
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**6))
    with pytest.raises(InvalidValueError, match=r"some\.safetensors was changed.*run .* again"):
        read_tensors(tensors, Blocks(block_bytes(tensors)))


@pytest.mark.parametrize("change", ["deleted", "replaced"])
def test_a_file_that_goes_away_is_read_to_its_end(change: str, tmp_path: Path) -> None:
    """It is open; another file of its name is not mixed with it."""
    path = stored(tmp_path)
    expected = load_file(path)
    tensors = list(StoredFile(str(path)).tensors.values())
    path.unlink()
    if change == "replaced":
        save_file({key: tensor + 1 for key, tensor in expected.items()}, path)
    actual = read_tensors(tensors, Blocks(block_bytes(tensors)))
    assert all(torch.equal(actual[key], tensor) for key, tensor in expected.items())


def test_a_damaged_header_is_refused(tmp_path: Path) -> None:
    """As safetensors refuses it, when the file is opened."""
    path = stored(tmp_path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(SafetensorError):
        StoredFile(str(path))


def test_a_type_that_torch_does_not_have_is_named(tmp_path: Path) -> None:
    """With the tensor and the remedy."""
    path = tmp_path / "narrow.safetensors"
    header = {"t": {"dtype": "F8_E8M0", "shape": [4], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    with pytest.raises(InvalidValueError, match=r"t in .*F8_E8M0.*leave out --stream"):
        StoredFile(str(path))


def test_memory_that_is_too_small_is_a_memory_error() -> None:
    """Which the caller makes a sentence of."""
    with pytest.raises(MemoryError):
        Blocks(1 << 60).take()
