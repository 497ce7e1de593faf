"""The header of a GGUF file: metadata and the places of the tensors, over all parts of a split one.

The layout (ggml-org/ggml, docs/gguf.md), all numbers little-endian: the letters GGUF, the version,
the number of tensors and of entries; the entries, each a key, a type and a value; the tensors, each
a name, its sizes, its type and its offset; then, aligned, the data.  Every count, length and offset
is checked against the file before it is used, so that a header that lies costs neither time nor
memory.  The data of the tensors is not read.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import cast

from kullback.errors import InvalidValueError, MissingExtraError
from kullback.models.gguf_parts import part_number, part_paths
from kullback.runtime.inputs import open_regular
from kullback.text.tokenizer_file import MOST_TOKENS

__all__ = ["GGUFFile", "GGUFTensor", "Value", "read_gguf"]

Value = bool | int | float | str | tuple[bool | int | float | str, ...]

VERSIONS = (2, 3)
OTHER_KINDS = {"clip": "mmproj", "controlvector": "control vector"}
ARCHITECTURE = re.compile(r"[\w.-]{1,64}")
# The largest known files have some fifty entries and (one tensor an expert) fifty thousand tensors.
MOST_ENTRIES, MOST_TENSORS, MOST_NAME = 10_000, 1_000_000, 1_024
MOST_ELEMENTS = MOST_TOKENS
# ggml's.
MOST_DIMENSIONS = 4
DEFAULT_ALIGNMENT = 32
STRING, ARRAY, BOOL = 8, 9, 7
# The other types of values, as `struct` calls them.
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", BOOL: "?", 10: "Q", 11: "q",
           12: "d"}  # fmt: skip


@dataclass(frozen=True)
class GGUFTensor:
    """Where a tensor is, and how it is stored."""

    name: str
    shape: tuple[int, ...]
    """As torch has it: the last dimension is contiguous."""
    type: str
    """ggml's name of the type, such as "F32" or "Q4_K"."""
    part: int
    """Which of the parts contains it, from 0."""
    offset: int
    """Of its first byte in that part."""
    size: int
    """In bytes."""


@dataclass(frozen=True, eq=False)
class GGUFFile:
    """The header of a GGUF file; of a split one, that of all its parts together."""

    name: str
    """What messages call the model."""
    parts: tuple[Path, ...]
    """The file, or all parts in order: llama.cpp opens the first."""
    metadata: Mapping[str, Value]
    """The entries; strings that are not UTF-8 have lone surrogates (`surrogateescape`)."""
    tensors: tuple[GGUFTensor, ...]
    file_bytes: int
    """The size of all parts."""

    @property
    def architecture(self) -> str:
        """Such as "llama": the prefix of the keys that describe the model."""
        value = self.metadata["general.architecture"]
        assert isinstance(value, str)
        return value

    @property
    def context_length(self) -> int | None:
        """The longest input that the model was trained on; None where the file names none."""
        value = self.of_model("context_length")
        return value if isinstance(value, int) and value > 0 else None

    @property
    def tokens(self) -> tuple[str, ...]:
        """The vocabulary, by id; empty for a file without one."""
        return self.strings("tokenizer.ggml.tokens")

    def strings(self, key: str) -> tuple[str, ...]:
        """The array of strings with this key; empty where there is none."""
        value = self.metadata.get(key)
        # The elements of an array are of the same type.
        if not isinstance(value, tuple) or not value or not isinstance(value[0], str):
            return ()
        return cast("tuple[str, ...]", value)

    def of_model(self, key: str) -> Value | None:
        """The value of the architecture's own entry: "rope.freq_base" is "llama.rope.freq_base"."""
        return self.metadata.get(f"{self.architecture}.{key}")


def read_gguf(path: Path, name: str | None = None) -> GGUFFile:
    """The header of the GGUF file at `path`, which may be any part of a split one.

    `name` is what messages call the model; `path` by default.  Raises `InvalidValueError` with one
    sentence where it is no GGUF file, no model, cut short, or its header does not fit the file, and
    where a part is missing or of another model; `MissingExtraError` without the library `gguf`.
    """
    name = name or str(path)
    parts = part_paths(path, name)
    headers = [_read_part(part, name, index) for index, part in enumerate(parts)]
    first_metadata, _ = headers[0]
    architecture = first_metadata.get("general.architecture")
    _check_kind(name, first_metadata.get("general.type", "model"), architecture)
    if not isinstance(architecture, str) or not ARCHITECTURE.fullmatch(architecture):
        raise _damaged(name, "its header has no general.architecture, such as llama")
    tensors: dict[str, GGUFTensor] = {}
    for index, (metadata, of_part) in enumerate(headers):
        number, count = part_number(metadata, name)
        if (number, count) != (index, len(parts)):
            raise InvalidValueError(
                f"the model {name} has parts that do not belong together: {parts[index].name} says "
                f"that it is part {number + 1} of {count}; give the parts of one file the names "
                f"that llama-gguf-split gave them, *-{number + 1:05d}-of-{count:05d}.gguf"
            )
        for tensor in of_part:
            if tensor.name in tensors:
                raise InvalidValueError(
                    f"the model {name} has the tensor {tensor.name} twice: it is damaged, or "
                    f"{parts[index].name} is a part of another model; download it again"
                )
            tensors[tensor.name] = tensor
    expected = first_metadata.get("split.tensors.count")
    if len(parts) > 1 and expected != len(tensors):
        raise InvalidValueError(
            f"the model {name} has {len(tensors):,} tensors in {len(parts)} parts, and its header "
            f"says {expected}: one of the parts belongs to another model; download them again"
        )
    size = sum(part.stat().st_size for part in parts)
    return GGUFFile(name, parts, first_metadata, tuple(tensors.values()), size)


def _check_kind(name: str, kind: Value, architecture: Value | None) -> None:
    """Raise `InvalidValueError` for an adapter, a projector of images, statistics and the like."""
    # Older files have no general.type.
    kind = OTHER_KINDS.get(str(architecture), kind)
    if kind != "model":
        raise InvalidValueError(
            f"the model {name} is no model by itself: its header says general.type = {kind!r}; "
            "give the file that it belongs to"
        )


def _damaged(name: str, reason: str) -> InvalidValueError:
    return InvalidValueError(f"the model {name} is damaged: {reason}; download it again")


def _read_part(path: Path, name: str, part: int) -> tuple[dict[str, Value], list[GGUFTensor]]:
    """The entries and the tensors of one file."""
    with open_regular(path) as file:
        head = file.read(4)
        if head != b"GGUF":
            raise InvalidValueError(
                f"the model {name} is not a GGUF file ({path.name} does not begin with the letters "
                "GGUF): download it again"
            )
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                return _Header(content, part).read()
            except ValueError as error:
                raise _damaged(name, str(error)) from None


class _Header:
    """A position in the bytes of a file; all methods raise `ValueError` with the reason."""

    def __init__(self, content: mmap.mmap, part: int) -> None:
        self.content = content
        self.size = len(content)
        self.part = part
        self.at = 4

    def read(self) -> tuple[dict[str, Value], list[GGUFTensor]]:
        """All entries and tensors."""
        (version,) = self.numbers("I", 1)
        if version not in VERSIONS:
            raise ValueError(f"it is of version {version} of the format, not of {VERSIONS[-1]}")
        tensor_count, entry_count = self.numbers("Q", 2)
        for count, most, what in (
            (tensor_count, MOST_TENSORS, "tensors"),
            (entry_count, MOST_ENTRIES, "entries"),
        ):
            # Each takes more than 8 bytes.
            if count > min(most, self.size // 8):
                raise ValueError(f"its header says {count:,} {what}, more than the file can hold")
        metadata: dict[str, Value] = {}
        for _ in range(entry_count):
            key = self.name()
            if key in metadata:
                raise ValueError(f"its header has {key!r} twice")
            (kind,) = self.numbers("I", 1)
            metadata[key] = self.value(kind, key)
        infos = [self.tensor_info() for _ in range(tensor_count)]
        return metadata, self.placed(infos, _alignment(metadata))

    def numbers(self, code: str, count: int) -> tuple[int, ...]:
        """`count` numbers of the type that `struct` calls `code`."""
        begin = self.skip(count * struct.calcsize(f"<{code}"))
        return struct.unpack_from(f"<{count}{code}", self.content, begin)

    def skip(self, size: int) -> int:
        """Where the next `size` bytes begin; the position is moved behind them."""
        begin = self.at
        if size > self.size - begin:
            raise ValueError(f"it ends at byte {self.size:,}, within its header")
        self.at = begin + size
        return begin

    def string(self) -> bytes:
        """A length and as many bytes."""
        (length,) = self.numbers("Q", 1)
        begin = self.skip(length)
        return self.content[begin : begin + length]

    def name(self) -> str:
        """A string that is a key or the name of a tensor."""
        begin, content = self.at, self.string()
        try:
            if len(content) <= MOST_NAME:
                return content.decode("utf-8")
        except UnicodeDecodeError:
            pass
        raise ValueError(f"at byte {begin:,} of its header there is no name")

    def value(self, kind: int, key: str) -> Value:
        """The value of the type with the number `kind`, which has the key `key`."""
        if kind == STRING:
            return self.string().decode("utf-8", "surrogateescape")
        if kind in SCALARS:
            (value,) = self.numbers(SCALARS[kind], 1)
            return value
        if kind != ARRAY:
            raise ValueError(f"{key!r} has a value of the unknown type {kind}")
        (inner,) = self.numbers("I", 1)
        (count,) = self.numbers("Q", 1)
        if inner not in SCALARS and inner != STRING:
            raise ValueError(f"{key!r} is an array of the unknown type {inner}")
        if count > min(MOST_ELEMENTS, self.size):
            raise ValueError(f"{key!r} is said to have {count:,} elements")
        return self.strings(count) if inner == STRING else self.numbers(SCALARS[inner], count)

    def strings(self, count: int) -> tuple[str, ...]:
        """`count` strings; a loop of its own, because vocabularies have 10⁵ and more."""
        content, size, at = self.content, self.size, self.at
        unpack = struct.Struct("<Q").unpack_from
        strings = []
        for _ in range(count):
            if at + 8 > size:
                raise ValueError(f"it ends at byte {size:,}, within its header")
            (length,) = unpack(content, at)
            at += 8
            if length > size - at:
                raise ValueError(f"it ends at byte {size:,}, within its header")
            strings.append(content[at : at + length].decode("utf-8", "surrogateescape"))
            at += length
        self.at = at
        return tuple(strings)

    def tensor_info(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, sizes (the contiguous one first), number of the type, offset."""
        name = self.name()
        (dimensions,) = self.numbers("I", 1)
        if dimensions > MOST_DIMENSIONS:
            raise ValueError(f"the tensor {name!r} is said to have {dimensions:,} dimensions")
        sizes = self.numbers("Q", dimensions)
        (kind,) = self.numbers("I", 1)
        (offset,) = self.numbers("Q", 1)
        return name, sizes, kind, offset

    def placed(
        self, infos: list[tuple[str, tuple[int, ...], int, int]], alignment: int
    ) -> list[GGUFTensor]:
        """The tensors, each of which must follow the one before, as llama.cpp requires."""
        data = _aligned(self.at, alignment)
        offset, tensors = 0, []
        for name, sizes, kind, stored in infos:
            known = _tensor_types().get(kind)
            if known is None:
                raise ValueError(f"the tensor {name!r} is of the unknown type {kind}")
            type_name, block, block_bytes = known
            if (sizes[0] if sizes else 1) % block:
                raise ValueError(
                    f"the tensor {name!r} has rows of {sizes[0]:,} numbers, which {type_name} "
                    f"cannot store: its blocks have {block}"
                )
            size = prod(sizes) // block * block_bytes
            if stored != offset:
                raise ValueError(
                    f"the tensor {name!r} is said to begin at byte {stored:,} of the data, not at "
                    f"{offset:,}, where the one before ends"
                )
            if size > self.size - data - offset:
                raise ValueError(
                    f"the tensor {name!r} needs {size:,} bytes from {data + offset:,} on, and the "
                    f"file has {self.size:,}"
                )
            shape = tuple(reversed(sizes))
            tensors.append(GGUFTensor(name, shape, type_name, self.part, data + offset, size))
            offset = _aligned(offset + size, alignment)
        return tensors


def _alignment(metadata: Mapping[str, Value]) -> int:
    """Of the data, in bytes."""
    value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(value, int) or not 0 < value < 2**31 or value & (value - 1):
        raise ValueError(f"general.alignment is {value!r}, not a power of two")
    return value


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


@cache
def _tensor_types() -> Mapping[int, tuple[str, int, int]]:
    """By ggml's number of a type: its name, the numbers of a block, and the bytes of a block."""
    try:
        from gguf import GGML_QUANT_SIZES
    except ImportError as error:
        raise MissingExtraError(
            f"reading a .gguf file needs {error.name or 'gguf'}: pip install 'kullback[hf]'"
        ) from error
    return {
        kind.value: (kind.name, block, size) for kind, (block, size) in GGML_QUANT_SIZES.items()
    }
