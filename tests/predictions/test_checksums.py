"""Checksums of safetensors files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from kullback.predictions.checksums import CHECKSUMS, check_checksums
from kullback.predictions.safetensors_stream import SafetensorsStream

ABOUT = {"about": "an example"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with three tensors."""
    with SafetensorsStream(tmp_path / "x", metadata_bytes=100) as stream:
        for _ in range(2):
            stream.append("a", torch.randn(3, 5))
            stream.append("b", torch.arange(3, dtype=torch.int32))
        stream.publish({"whole": torch.eye(3)}, ABOUT)
    return tmp_path / "x"


def metadata(path: Path) -> dict[str, str]:
    """The metadata of a file."""
    with safe_open(path, framework="pt") as file:
        content: dict[str, str] = file.metadata()
    return content


def test_what_was_written_is_right(path: Path) -> None:
    """Every tensor has an entry."""
    check_checksums(path, metadata(path))
    assert set(json.loads(metadata(path)[CHECKSUMS])["tensors"]) == {"a", "b", "whole", "padding"}


@pytest.mark.parametrize("name", ["a", "b", "whole"])
def test_a_changed_byte_is_found_in_its_tensor(name: str, path: Path) -> None:
    """The error names the tensor; without tensors, or without checksums, it is not seen."""
    content = bytearray(path.read_bytes())
    size = int.from_bytes(content[:8], "little")
    begin = json.loads(content[8 : 8 + size])[name]["data_offsets"][0]
    content[8 + size + begin] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"checksum of its {name} is wrong"):
        check_checksums(path, metadata(path))
    check_checksums(path, metadata(path), tensors=False)
    check_checksums(path, ABOUT)  # recordings of version 0.1 have none


def test_changed_metadata_are_found(path: Path) -> None:
    """Another value, a further entry and a missing one are each an error."""
    entries = metadata(path)
    for changed in ({"about": "another"}, {"more": "x"}):
        with pytest.raises(ValueError, match="checksum of its metadata"):
            check_checksums(path, entries | changed, tensors=False)
    with pytest.raises(ValueError, match="checksum of its metadata"):
        check_checksums(path, {CHECKSUMS: entries[CHECKSUMS]}, tensors=False)


def test_other_tensors_are_found(path: Path) -> None:
    """A type, a shape and a name are part of the checksums."""
    entries = metadata(path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    for change in (
        {"a": tensors["a"].view(5, 6)}, {"b": tensors["b"].view(torch.float32)},
        {"c": torch.zeros(1)},
    ):  # fmt: skip
        save_file(tensors | change, path, entries)
        with pytest.raises(ValueError, match="checksum"):
            check_checksums(path, metadata(path))


@pytest.mark.parametrize("entry", ["", "[]", "{}", '{"tensors": 1, "metadata": ""}', "[" * 9999])
def test_damaged_checksums_are_an_error(entry: str, path: Path) -> None:
    """What is no table of checksums is damaged."""
    with pytest.raises(ValueError, match=r".+"):
        check_checksums(path, {CHECKSUMS: entry})
