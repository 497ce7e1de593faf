"""Writing of a safetensors file row by row, without keeping it in memory.

The format requires the header first and each tensor in one piece, and neither length is known
before the last row.  So space is reserved for the header; the first column grows in the file
itself, the others in unnamed temporary files in the same folder, which a killed process does not
leave behind; `publish` appends them, writes the header into its space, padded with spaces as the
format allows, and gives the file its name.  The header has the checksums of all that is in the file
(`kullback.predictions.checksums`), computed while the rows are written.

Format: https://github.com/huggingface/safetensors, "Format".  Axes: M rows.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import torch
from torch import Tensor

from kullback.errors import InvalidValueError
from kullback.predictions.checksums import CHECKSUMS, checksums_json, tensor_entry
from kullback.runtime.files import draft_of, explained
from kullback.runtime.weights import tensor_bytes

__all__ = ["DTYPES", "PADDING", "SafetensorsStream"]

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I32": torch.int32,
    "U8": torch.uint8,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
PADDING = "padding"
"""A tensor of up to seven bytes that aligns the tensors after it."""
ALIGNMENT = 64
# Bytes for the header's entries: up to twenty tensors of about 100 characters each, and as much for
# their checksums.
ENTRIES_ROOM = 4096


@dataclass(eq=False)
class _Column:
    """A tensor that grows in a file."""

    file: IO[bytes]
    dtype: torch.dtype
    shape: tuple[int, ...]
    """Of one row."""
    rows: int = 0
    crc: int = 0
    """CRC-32 of the bytes so far."""


class SafetensorsStream:
    """A context manager: `append` rows to columns, then `publish`.

    `metadata_bytes` is an upper limit of the size of the metadata.  Without `publish`, `path` holds
    what it held before.  Raises `RunError` where the file cannot be written.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with SafetensorsStream(Path(folder) / "x", metadata_bytes=100) as stream:
    ...         stream.append("a", torch.zeros(2, 3))
    ...         stream.append("a", torch.ones(1, 3))
    ...         stream.publish({}, {"about": "an example"})
    ...     from safetensors.torch import load_file
    ...     load_file(Path(folder) / "x")["a"].shape
    torch.Size([3, 3])
    """

    def __init__(self, path: Path, metadata_bytes: int) -> None:
        self.path = path
        size = 8 + metadata_bytes + ENTRIES_ROOM
        self._header_bytes = -(-size // ALIGNMENT) * ALIGNMENT - 8
        self._columns: dict[str, _Column] = {}
        self._open = ExitStack()

    def __enter__(self) -> SafetensorsStream:
        with explained(self.path):
            self._draft = self._open.enter_context(draft_of(self.path))
            self._main = self._draft.file
            self._main.seek(8 + self._header_bytes)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with explained(self.path):
            self._open.close()

    def append(self, name: str, values: Tensor) -> None:
        """Add rows to a column; `InvalidValueError` unless type and shape are those before."""
        shape = tuple(values.shape[1:])
        with explained(self.path):
            if name not in self._columns:
                file: IO[bytes] = self._main
                if self._columns:
                    file = tempfile.TemporaryFile(dir=self._draft.folder)  # noqa: SIM115 - it stays open
                    self._open.callback(file.close)
                self._columns[name] = _Column(file, values.dtype, shape)
            column = self._columns[name]
            if (values.dtype, shape) != (column.dtype, column.shape):
                raise InvalidValueError(
                    f"{name} is {values.dtype} of shape {shape} a row; the rows before were "
                    f"{column.dtype} of shape {column.shape}: a file is of one model"
                )
            content = tensor_bytes(values)
            column.file.write(content)
            column.crc = zlib.crc32(content, column.crc)
            column.rows += len(values)

    def publish(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        """Finish the columns, add tensors and metadata, and give the file its name.

        Raises `InvalidValueError` where the columns have different lengths.
        """
        lengths = {name: column.rows for name, column in self._columns.items()}
        if len(set(lengths.values())) != 1:
            raise InvalidValueError(f"the columns must have the same number of rows: {lengths}")
        with explained(self.path):
            (main, first), *narrow = self._columns.items()
            aligning = torch.zeros(-self._main.tell() % 8, dtype=torch.uint8)
            rest: list[tuple[str, _Column | Tensor]] = [*narrow, *tensors.items()]
            # Wider numbers first, so that all are aligned.
            rest.sort(key=lambda item: -item[1].dtype.itemsize)
            pieces: list[tuple[str, _Column | Tensor]] = [(main, first), (PADDING, aligning), *rest]
            header: dict[str, object] = {}
            checksums: dict[str, str] = {}
            begin = 0
            for name, piece in pieces:
                shape, crc = self._put(piece)
                end = begin + piece.dtype.itemsize * math.prod(shape)
                kind = NAMES[piece.dtype]
                checksums[name] = tensor_entry(kind, shape, crc)
                header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
                begin = end
            about = {**metadata, CHECKSUMS: checksums_json(checksums, metadata)}
            header = {"__metadata__": about, **header}
            content = json.dumps(header, separators=(",", ":")).encode()
            if len(content) > self._header_bytes:
                raise InvalidValueError(
                    f"the header has {len(content)} bytes, more than the {self._header_bytes} "
                    "reserved: give a larger metadata_bytes"
                )
            self._main.seek(0)
            self._main.write(self._header_bytes.to_bytes(8, "little"))
            self._main.write(content.ljust(self._header_bytes))
            self._draft.publish()

    def _put(self, piece: _Column | Tensor) -> tuple[tuple[int, ...], int]:
        """Write a piece unless the file contains it already; returns its shape and CRC-32."""
        if isinstance(piece, Tensor):
            content = tensor_bytes(piece)
            self._main.write(content)
            return tuple(piece.shape), zlib.crc32(content)
        if piece.file is not self._main:
            piece.file.seek(0)
            shutil.copyfileobj(piece.file, self._main, 1 << 20)
        return (piece.rows, *piece.shape), piece.crc
