"""Writing of a safetensors file row by row, without keeping it in memory.

The format requires the header first and each tensor in one piece, and neither length is known
before the last row.  So space is reserved for the header; the first column grows in what becomes
the file itself, the others in files beside it (`kullback.predictions.kept_columns`), from which an
interrupted run resumes; `publish` appends them, writes the header into its space, padded with
spaces as the format allows, and gives the file its name.  The header has the checksums of all that
is in the file (`kullback.predictions.checksums`), computed while the rows are written.

Format: https://github.com/huggingface/safetensors, "Format".  Axes: M rows.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from kullback.errors import InvalidValueError
from kullback.predictions.checksums import CHECKSUMS, checksums_json, tensor_entry
from kullback.predictions.kept_columns import DTYPES, NAMES, GrowingColumn, KeptColumns
from kullback.runtime.files import explained, publish, write_all
from kullback.runtime.weights import tensor_bytes

__all__ = ["DTYPES", "PADDING", "SafetensorsStream"]

PADDING = "padding"
"""A tensor of up to seven bytes that aligns the tensors after it."""
ALIGNMENT = 64
# Bytes for the header's entries: up to twenty tensors of about 100 characters each, and as much for
# their checksums.
ENTRIES_BYTES = 4096


class SafetensorsStream:
    """A context manager: `append` rows to columns, then `publish`.

    `metadata_bytes` is an upper limit of the size of the metadata.  Without `publish`, `path` holds
    what it held before.  Where an `identity` says what the rows are of, those that were `mark`ed as
    complete are kept after a kill or an exception, but an `InvalidValueError`, and `rows` of them
    are there at the start.  Raises `RunError` where the file cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with SafetensorsStream(Path(folder) / "x", metadata_bytes=100) as stream:
    ...         stream.append("a", torch.zeros(2, 3))
    ...         stream.append("a", torch.ones(1, 3))
    ...         stream.publish({}, {"about": "an example"})
    ...     from safetensors.torch import load_file
    ...     load_file(Path(folder) / "x")["a"].shape
    torch.Size([3, 3])
    """

    def __init__(self, path: Path, metadata_bytes: int, identity: str | None = None) -> None:
        self.path = path
        size = 8 + metadata_bytes + ENTRIES_BYTES
        self._header_bytes = -(-size // ALIGNMENT) * ALIGNMENT - 8
        self._kept = KeptColumns(path, identity, 8 + self._header_bytes)

    def __enter__(self) -> SafetensorsStream:
        with explained(self.path):
            self._kept.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._kept.close(keep=kind is not None and not issubclass(kind, InvalidValueError))

    @property
    def kept(self) -> int:
        """Rows that are on the disk for a run that resumes: at the start, and after the end."""
        return self._kept.kept

    @property
    def notes(self) -> Mapping[str, str]:
        """What `mark` was given for the rows that were there at the start."""
        return self._kept.notes

    def append(self, name: str, values: Tensor) -> None:
        """Add rows to a column; `InvalidValueError` unless type and shape are those before."""
        shape = tuple(values.shape[1:])
        with explained(self.path):
            columns = self._kept.columns
            column = columns[name] if name in columns else self._kept.add(name, values.dtype, shape)
            if (values.dtype, shape) != (column.dtype, column.shape):
                raise InvalidValueError(
                    f"{name} is {values.dtype} of shape {shape} a row; the rows before were "
                    f"{column.dtype} of shape {column.shape}: a file is of one model"
                )
            column.append(values)

    def mark(self, notes: Mapping[str, str]) -> None:
        """All columns have the rows so far, which a run that resumes need not compute again."""
        with explained(self.path):
            self._kept.mark(notes)

    def publish(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        """Finish the columns, add tensors and metadata, and give the file its name.

        Raises `InvalidValueError` where the columns have different lengths.
        """
        lengths = {name: column.rows for name, column in self._kept.columns.items()}
        if len(set(lengths.values())) != 1:
            raise InvalidValueError(f"the columns must have the same number of rows: {lengths}")
        with explained(self.path):
            (main, first), *narrow = self._kept.columns.items()
            aligning = torch.zeros(-first.end(first.rows) % 8, dtype=torch.uint8)
            rest: list[tuple[str, GrowingColumn | Tensor]] = [*narrow, *tensors.items()]
            # Wider numbers first, so that all are aligned.
            rest.sort(key=lambda item: -item[1].dtype.itemsize)
            pieces: list[tuple[str, GrowingColumn | Tensor]]
            pieces = [(main, first), (PADDING, aligning), *rest]
            header: dict[str, object] = {}
            checksums: dict[str, str] = {}
            begin = 0
            for name, piece in pieces:
                shape, crc = self._put(piece, first)
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
            first.file.seek(0)
            write_all(first.file, self._header_bytes.to_bytes(8, "little"))
            write_all(first.file, content.ljust(self._header_bytes))
            publish(first.file, self._kept.main_file(), Path(os.path.realpath(self.path)))

    def _put(self, piece: GrowingColumn | Tensor, main: GrowingColumn) -> tuple[list[int], int]:
        """Write a piece unless the file contains it already; returns its shape and CRC-32."""
        if isinstance(piece, Tensor):
            content = tensor_bytes(piece)
            write_all(main.file, content)
            return list(piece.shape), zlib.crc32(content)
        if piece is not main:
            piece.copy_to(main.file)
        return [piece.rows, *piece.shape], piece.crc
