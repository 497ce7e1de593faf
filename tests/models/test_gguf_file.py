"""The header of a GGUF file, and headers that lie."""

from __future__ import annotations

import random
import struct
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from kullback.errors import InvalidValueError, MissingExtraError
from kullback.models.gguf_file import _tensor_types, read_gguf
from tiny_models import gguf_header


def written(path: Path, split: int = 0) -> Path:
    """A file with one entry of each kind and three tensors; the first part where it is split."""
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=split)
    writer.add_name("naïve")
    writer.add_context_length(77)
    writer.add_float32("llama.rope.freq_base", 0.5)
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    writer.add_token_list(["a", "b", "ñ"])
    writer.add_token_scores([0.5, 1.5, -2.0])
    writer.add_tensor("a.weight", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.add_tensor("b.weight", np.ones(5, dtype=np.float16))
    quantised = gguf.quantize(np.ones((2, 64), np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("c.weight", quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return next(iter(sorted(path.parent.glob(f"{path.stem}-00001-of-*"))), path)


def message_of(path: Path) -> str:
    """The one sentence about a file that is refused."""
    with pytest.raises(InvalidValueError) as caught:
        read_gguf(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"the model {path} ")
    return message


def test_entries_and_tensors_are_those_that_were_written(tmp_path: Path) -> None:
    """Shapes as torch has them; each tensor begins where `gguf`'s own reader finds it."""
    path = written(tmp_path / "m.gguf")
    file = read_gguf(path)
    assert (file.architecture, file.context_length, file.tokens) == ("llama", 77, ("a", "b", "ñ"))
    assert file.of_model("rope.freq_base") == 0.5
    assert file.metadata["tokenizer.ggml.add_bos_token"] is True
    assert file.metadata["tokenizer.ggml.scores"] == (0.5, 1.5, -2.0)
    assert sorted(tensor.type for tensor in file.tensors) == ["F16", "F32", "Q8_0"]
    assert file.parts == (path,)
    assert file.file_bytes == path.stat().st_size
    theirs = gguf.GGUFReader(path).tensors
    assert [(t.name, t.offset, t.size) for t in file.tensors] == [
        (t.name, t.data_offset, t.n_bytes) for t in theirs
    ]
    assert [t.shape for t in file.tensors] == [(2, 3), (5,), (2, 64)]


def test_all_parts_are_found_from_any_of_them(tmp_path: Path) -> None:
    """The entries are those of the first part, the tensors and the size those of all."""
    first = written(tmp_path / "m.gguf", split=1)
    parts = sorted(tmp_path.iterdir())
    assert len(parts) == 3
    for part in parts:
        file = read_gguf(part)
        assert file.parts == tuple(parts)
        assert [(t.name, t.part) for t in file.tensors] == [
            ("a.weight", 0), ("b.weight", 1), ("c.weight", 2),
        ]  # fmt: skip
        assert file.file_bytes == sum(path.stat().st_size for path in parts)
        assert file.context_length == 77
    (parts[1]).unlink()
    message = message_of(first)
    assert "1 of its 3 parts" in message
    assert parts[1].name in message


def test_a_part_of_another_model_is_refused(tmp_path: Path) -> None:
    """By its number, by the tensors that occur twice, and by how many there are."""
    written(tmp_path / "m.gguf", split=1)
    first, second, third = sorted(tmp_path.iterdir())
    right = second.read_bytes()
    second.write_bytes(third.read_bytes())
    assert "part 3 of 3" in message_of(first)
    other = tmp_path / "other"
    other.mkdir()
    written(other / "m.gguf", split=2)
    second.write_bytes((other / "m-00002-of-00002.gguf").read_bytes())
    assert "part 2 of 2" in message_of(first)
    # The name of its tensor is changed, to the one of the first part, then to a new one.
    second.write_bytes(right.replace(b"b.weight", b"a.weight"))
    assert "a.weight twice" in message_of(first)
    second.write_bytes(right)
    first.write_bytes(_with_count(first.read_bytes(), 4))
    assert "says 4" in message_of(third)


def _with_count(content: bytes, count: int) -> bytes:
    """The same first part, which says that there are `count` tensors."""
    key = b"split.tensors.count"
    at = content.index(key) + len(key) + 4
    return content[:at] + struct.pack("<i", count) + content[at + 4 :]


def test_a_part_that_was_renamed_is_named(tmp_path: Path) -> None:
    """llama.cpp finds the parts by their names."""
    first = written(tmp_path / "m.gguf", split=1)
    renamed = first.rename(tmp_path / "model.gguf")
    message = message_of(renamed)
    assert "part 1 of 3" in message
    assert "-00001-of-00003.gguf" in message
    assert "called part 4 of 3" in message_of(first.with_name("m-00004-of-00003.gguf"))
    alone = gguf_header(tmp_path / "all-00001-of-00001.gguf", "llama")
    assert read_gguf(alone).parts == (alone,)


def test_a_file_cut_anywhere_in_its_header_or_data_is_refused(tmp_path: Path) -> None:
    """Only the padding after the last tensor may be missing."""
    path = written(tmp_path / "m.gguf")
    content = path.read_bytes()
    last = read_gguf(path).tensors[-1]
    end = last.offset + last.size
    for size in (*range(0, end, 4), end - 1):
        path.write_bytes(content[:size])
        message_of(path)
    path.write_bytes(content[:end])
    assert read_gguf(path).tensors[-1] == last


def test_changed_bytes_give_a_header_or_one_sentence(tmp_path: Path) -> None:
    """Whatever a header says: no other error, and tensors only within the file."""
    path = written(tmp_path / "m.gguf")
    content = path.read_bytes()
    size = read_gguf(path).tensors[0].offset
    generator = random.Random(1)
    for place in range(0, size, 2):
        changed = bytearray(content)
        changed[place] = generator.randrange(256)
        changed[generator.randrange(size)] ^= 1 << generator.randrange(8)
        path.write_bytes(changed)
        try:
            tensors = read_gguf(path).tensors
        except InvalidValueError as error:
            assert "\n" not in str(error)  # noqa: PT017 # or none
        else:
            assert all(tensor.offset + tensor.size <= len(content) for tensor in tensors)


HUGE = struct.pack("<Q", 2**62)


@pytest.mark.parametrize(
    ("written_bytes", "lie", "reason"),
    [
        (struct.pack("<IQ", 3, 3), struct.pack("<IQ", 3, 2**40), "tensors, more than"),
        (struct.pack("<I", 3), struct.pack("<I", 1), "version 1"),
        (b"GGUF" + struct.pack("<I", 3), b"GGUF" + struct.pack(">I", 3), "version"),
        (struct.pack("<Q", 6) + "naïve".encode(), HUGE + "naïve".encode(), "ends at byte"),
        (struct.pack("<Q", 8) + b"a.weight", HUGE + b"a.weight", "ends at byte"),
        (struct.pack("<IQ", 8, 3), struct.pack("<IQ", 8, 2**50), "elements"),
        (struct.pack("<IQ", 6, 3), struct.pack("<IQ", 7, 2**23), "elements"),
        (struct.pack("<IQ", 6, 3), struct.pack("<IQ", 9, 3), "unknown type 9"),
        (struct.pack("<QQ", 3, 2), struct.pack("<QQ", 2**40, 2**40), "needs"),
        (b"a.weight\x02", b"a.weight\x09", "9 dimensions"),
        (struct.pack("<QQ", 64, 2), struct.pack("<QQ", 63, 2), "blocks"),
        (struct.pack("<QQI", 3, 2, 0), struct.pack("<QQI", 3, 2, 999), "type 999"),
        (struct.pack("<QQIQ", 3, 2, 0, 0), struct.pack("<QQIQ", 3, 2, 0, 32), "is said to begin"),
        (b"b.weight", b"b\xff\xffeight", "no name"),
    ],
)  # fmt: skip
def test_a_header_that_lies_is_refused(
    tmp_path: Path, written_bytes: bytes, lie: bytes, reason: str
) -> None:
    """Counts, lengths, sizes, types and offsets that the file cannot have."""
    path = written(tmp_path / "m.gguf")
    content = path.read_bytes()
    assert written_bytes in content
    path.write_bytes(content.replace(written_bytes, lie, 1))
    assert reason in message_of(path)


def test_the_alignment_is_a_power_of_two(tmp_path: Path) -> None:
    """Offsets are multiples of it."""
    path = tmp_path / "m.gguf"
    for alignment, right in ((64, True), (24, False), (0, False)):
        key = b"general.alignment"
        path.write_bytes(
            gguf_header(path, "llama").read_bytes().replace(
                struct.pack("<QQ", 0, 1), struct.pack("<QQ", 0, 2)
            )
            + struct.pack("<Q", len(key)) + key + struct.pack("<II", 4, alignment)
        )  # fmt: skip
        if right:
            assert read_gguf(path).metadata["general.alignment"] == 64
        else:
            assert "general.alignment" in message_of(path)


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sizes of ggml's types are those of the library gguf."""
    path = written(tmp_path / "m.gguf")
    _tensor_types.cache_clear()
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"gguf: pip install 'kullback\[hf\]'"):
        read_gguf(path)
