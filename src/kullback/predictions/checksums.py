"""Checksums of a safetensors file, in its own metadata.

The entry `CHECKSUMS` of the metadata is JSON: for each tensor its type, shape and the CRC-32 of its
bytes, and for the other entries of the metadata, together, their CRC-32.  They detect what a disk
or a transfer damaged; whoever changes a file on purpose can change them too.  CRC-32 finds every
damage of up to 32 consecutive bits, and takes 0.3 seconds a gigabyte.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec

from kullback.runtime.decoding import decode_json
from kullback.runtime.inputs import open_regular

__all__ = ["CHECKSUMS", "check_checksums", "checksums_json", "tensor_entry"]

CHECKSUMS = "kullback_checksums"
MOST_HEADER_BYTES = 100_000_000
"""As in the safetensors library."""
PIECE_BYTES = 1 << 20

_Size = Annotated[int, msgspec.Meta(ge=0, lt=2**62)]


class _Tensor(msgspec.Struct):
    """A tensor in the header of a file."""

    dtype: str
    shape: Annotated[list[_Size], msgspec.Meta(max_length=8)]
    data_offsets: tuple[_Size, _Size]


class _Checksums(msgspec.Struct):
    """The content of the entry `CHECKSUMS`."""

    tensors: dict[str, str]
    metadata: str


def tensor_entry(dtype: str, shape: Sequence[int], crc: int) -> str:
    """What is kept of a tensor.

    >>> tensor_entry("F32", (2, 3), 255)
    'F32 [2, 3] 000000ff'
    """
    return f"{dtype} {list(shape)} {crc:08x}"


def checksums_json(tensors: Mapping[str, str], metadata: Mapping[str, str]) -> str:
    """The value of the entry `CHECKSUMS`; `tensors` are what `tensor_entry` returned, by name."""
    entries = {"tensors": dict(tensors), "metadata": _metadata_crc(metadata)}
    return json.dumps(entries, sort_keys=True, separators=(",", ":"))


def check_checksums(path: Path, metadata: Mapping[str, str], tensors: bool = True) -> None:
    """Raise `ValueError` where the file is not what its checksums say; pass where it has none.

    `metadata` are those of the file.  Without `tensors` only the metadata are checked, which does
    not read the file.  Raises `OSError` where it cannot be read.
    """
    entry = metadata.get(CHECKSUMS)
    if entry is None:
        if len(metadata) > 1:  # kullback 0.1 wrote one entry, and no checksums
            raise ValueError(f"its metadata have no entry {CHECKSUMS!r}, but unknown ones")
        return
    expected = decode_json(entry, _Checksums)
    others = {name: value for name, value in metadata.items() if name != CHECKSUMS}
    if _metadata_crc(others) != expected.metadata:
        raise ValueError("the checksum of its metadata is wrong")
    if not tensors:
        return
    with open_regular(path) as file:
        base, header = _read_header(file)
        if set(header) != set(expected.tensors):
            raise ValueError("its tensors are not those of its checksums")
        for name, tensor in header.items():
            begin, end = tensor.data_offsets
            file.seek(base + begin)
            crc = _crc(file, end - begin)
            if tensor_entry(tensor.dtype, tensor.shape, crc) != expected.tensors[name]:
                raise ValueError(f"the checksum of its {name} is wrong")


def _read_header(file: BinaryIO) -> tuple[int, dict[str, _Tensor]]:
    """Where the tensors begin, and their entries."""
    size = int.from_bytes(file.read(8), "little")
    if size > MOST_HEADER_BYTES:
        raise ValueError(f"its header has {size:,} bytes, more than {MOST_HEADER_BYTES:,}")
    entries = decode_json(file.read(size), dict[str, msgspec.Raw])
    entries.pop("__metadata__", None)
    return 8 + size, {name: decode_json(bytes(raw), _Tensor) for name, raw in entries.items()}


def _crc(file: BinaryIO, size: int) -> int:
    """The CRC-32 of the next `size` bytes."""
    crc = 0
    while size:
        piece = file.read(min(size, PIECE_BYTES))
        if not piece:
            raise ValueError("it is truncated")
        crc = zlib.crc32(piece, crc)
        size -= len(piece)
    return crc


def _metadata_crc(metadata: Mapping[str, str]) -> str:
    canonical = json.dumps(dict(metadata), sort_keys=True, separators=(",", ":"))
    return f"{zlib.crc32(canonical.encode()):08x}"
