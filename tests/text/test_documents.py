"""Documents: reading files, folders and standard input."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kullback.errors import InvalidValueError
from kullback.runtime.temporary import TemporaryBytes
from kullback.text.documents import Document, read_documents, read_texts
from kullback.text.fingerprint import text_fingerprint


def write_json_lines(path: Path, *texts: str, field: str = "text") -> None:
    """Write one JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({field: text, "id": i}, ensure_ascii=False) for i, text in enumerate(texts)]
    path.write_text("\n".join(lines) + "\n\n")


def write_parquet(path: Path, *texts: str | None, field: str = "text") -> None:
    """Write a Parquet file of two columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": list(range(len(texts))), field: list(texts)}), path)


def test_a_file_is_one_document_byte_for_byte(tmp_path: Path) -> None:
    """Newlines, a byte order mark and whitespace at the ends are kept."""
    content = "\ufeffuno\r\ndos\r\n\n".encode()
    (tmp_path / "a.md").write_bytes(content)
    (document,) = read_documents([tmp_path / "a.md"])
    assert document.text.encode() == content
    assert (document.name, document.n_bytes, document.n_words) == ("a.md", len(content), 2)


def test_a_folder_is_its_text_files_in_order(tmp_path: Path) -> None:
    """All .txt files below a folder, sorted by path."""
    for name in ("b.txt", "a.txt", "sub/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    documents = read_documents([str(tmp_path)])
    assert [document.name for document in documents] == ["a.txt", "b.txt", "sub/c.txt"]
    assert [document.text for document in documents] == ["a.txt", "b.txt", "sub/c.txt"]


def test_a_folder_may_mix_kinds_of_files(tmp_path: Path) -> None:
    """Text, JSON lines and Parquet files are read recursively, sorted by path."""
    (tmp_path / "b.txt").write_text("B")
    write_json_lines(tmp_path / "sub" / "a.jsonl", "S0", "S1")
    write_parquet(tmp_path / "c.parquet", "C0", "C1")
    write_json_lines(tmp_path / "a.ndjson", "A")
    expected = {
        "a.ndjson:1": "A",
        "b.txt": "B",
        "c.parquet:0": "C0",
        "c.parquet:1": "C1",
        "sub/a.jsonl:1": "S0",
        "sub/a.jsonl:2": "S1",
    }
    documents = read_documents([tmp_path])
    assert [(document.name, document.text) for document in documents] == list(expected.items())


@pytest.mark.parametrize("write", [write_json_lines, write_parquet])
def test_a_folder_of_one_kind_is_read(write, tmp_path: Path) -> None:
    """A folder with nothing but JSON lines, or nothing but Parquet files, is read."""
    suffix = "jsonl" if write is write_json_lines else "parquet"
    for name in ("b", "a"):
        write(tmp_path / f"{name}.{suffix}", name, field="body")
    documents = read_documents([tmp_path], field="body")
    assert [document.text for document in documents] == ["a", "b"]


def test_files_of_a_folder_that_are_not_read_are_noted(tmp_path: Path) -> None:
    """The note names the first three of them; hidden files are not mentioned."""
    for name in ("a.txt", "b.md", "c.json", "d.gz", "e.html", ".hidden"):
        (tmp_path / name).write_text("x")
    notes: list[str] = []
    assert len(read_documents([tmp_path], note=notes.append)) == 1
    (note,) = notes
    assert "b.md, c.json, d.gz and 1 more" in note
    assert ".hidden" not in note
    (tmp_path / "a.txt").unlink()
    with pytest.raises(InvalidValueError, match=r"\.txt, .*b\.md, c\.json, d\.gz and 1 more"):
        read_documents([tmp_path])


def test_hidden_texts_of_a_folder_are_not_read(tmp_path: Path) -> None:
    """Nor those of a hidden folder within it; a note names them, and each can be given."""
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / ".cache").mkdir()
    for name in ("._a.txt", ".cache/b.txt"):
        (tmp_path / name).write_text("hidden")
    notes: list[str] = []
    assert [d.text for d in read_documents([tmp_path], note=notes.append)] == ["a"]
    (note,) = notes
    assert "._a.txt" in note
    assert ".cache/b.txt" in note
    assert [d.text for d in read_documents([tmp_path / ".cache", tmp_path / "._a.txt"])] == [
        "hidden",
        "hidden",
    ]
    (tmp_path / "a.txt").unlink()
    with pytest.raises(InvalidValueError, match=r"no .*\.txt.* only .*\._a\.txt"):
        read_documents([tmp_path])


def test_json_lines_and_parquet_hold_a_document_a_row(tmp_path: Path) -> None:
    """Each line or row is a document, also an empty one, read from the field that is named."""
    texts = ["año 😀", "", "two\u2028lines"]
    write_json_lines(tmp_path / "a.jsonl", *texts, field="body")
    write_parquet(tmp_path / "a.parquet", *texts, field="body")
    documents = read_documents([tmp_path / "a.jsonl", tmp_path / "a.parquet"], field="body")
    assert [document.text for document in documents] == texts * 2
    names = [document.name for document in documents[2:5]]
    assert names == ["a.jsonl:3", "a.parquet:0", "a.parquet:1"]


def test_a_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """- reads standard input to its end."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("sí\n".encode())))
    assert read_documents(["-"]) == [Document("standard input", "sí\n")]


@pytest.mark.parametrize("odd", ["pipe", "link"])
def test_a_folder_is_read_completely_or_not_at_all(odd: str, tmp_path: Path) -> None:
    """A pipe and a link that leads nowhere, of a name that is read, are not passed over."""
    (tmp_path / "b.txt").write_text("b")
    if odd == "pipe":
        os.mkfifo(tmp_path / "a.txt")
    else:
        (tmp_path / "a.txt").symlink_to("missing")
    with pytest.raises(InvalidValueError, match=r"a\.txt.*(named pipe|No such file)"):
        read_documents([tmp_path])


def test_standard_input_that_gives_no_text_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed, as by <&-, or a device, which may never end."""
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InvalidValueError, match="standard input, is closed"):
        read_documents(["-"])
    with open("/dev/zero") as zeros:
        monkeypatch.setattr(sys, "stdin", zeros)
        with pytest.raises(InvalidValueError, match="standard input, is a device"):
            read_documents(["-"])


def test_texts_are_one_a_file_whatever_the_suffix(tmp_path: Path) -> None:
    """`read_texts` reads a .jsonl file as the text that it is, and names a file that it cannot."""
    write_json_lines(tmp_path / "a.jsonl", "x")
    (tmp_path / "empty.txt").write_text(" \n")
    content = (tmp_path / "a.jsonl").read_text()
    assert read_texts([tmp_path / "a.jsonl"]) == [content]
    for name in ("empty.txt", "missing.txt"):
        with pytest.raises(InvalidValueError, match=name):
            read_texts([tmp_path / "a.jsonl", tmp_path / name])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", r"a\.txt is empty"),
        ("a.txt", b" \n", r"a\.txt is empty"),
        ("a.txt", b"abc\xff", r"a\.txt is not UTF-8: byte 3 is 0xff"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ', r"line 2 of .*a\.jsonl is not JSON"),
        ("a.jsonl", b"[1]", r"line 1 of .*a\.jsonl .*list"),
        ("a.jsonl", b'{"body": "a"}', r"line 1 .*'text'.*'body'.*--field"),
        ("a.jsonl", b'{"text": 3}', r"'text' of line 1 of .* 3"),
        ("a.jsonl", b'{"text": ' + b"9" * 5000 + b"}", r"'text' of line 1 of .* inf"),
        ("a.jsonl", b'{"text": "a\\ud800"}', r"line 1 .*U\+D800.* character 1"),
        ("a.jsonl", b'{"text": ""}', r"a\.jsonl is empty"),
        ("a.parquet", b"nothing", r"a\.parquet .*not a Parquet file"),
    ],
)
def test_bad_texts_are_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    """The error names the file and the byte, line or character, alone and in a folder."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidValueError, match=message):
        read_documents([tmp_path / name])
    with pytest.raises(InvalidValueError, match=message if "empty" not in message else "is empty"):
        read_documents([tmp_path])


def test_bad_columns_and_missing_files_are_named(tmp_path: Path) -> None:
    """Another column, a row without text, a missing file and no source are errors."""
    write_parquet(tmp_path / "b.parquet", "a", field="body")
    write_parquet(tmp_path / "c.parquet", "a", None)
    (tmp_path / "sub").mkdir()
    for name, message in (
        ("b.parquet", r"b\.parquet .*'text'.*'body'"),
        ("c.parquet", r"row 1 of .*c\.parquet .*None"),
        ("missing.txt", r"missing\.txt cannot be read: No such file"),
        ("missing.parquet", r"missing\.parquet cannot be read: No such file"),
        ("sub", r"sub has no \.txt"),
    ):
        with pytest.raises(InvalidValueError, match=message):
            read_documents([tmp_path / name])
    with pytest.raises(InvalidValueError, match="there is no text"):
        read_documents([])


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".parquet"])
def test_texts_that_are_stored_on_disk_are_the_same(suffix, tmp_path, monkeypatch):
    """Names, bytes, words, parts and fingerprints, of files longer than memory allows."""
    texts = [" Ein  Satz.\n", "ñandú 日本語 🙂 x" * 40, "", "\tend "]
    path = tmp_path / f"texts{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"text": texts}), path)
    elif suffix == ".jsonl":
        path.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    else:
        texts = ["".join(texts)]
        path.write_text(texts[0], encoding="utf-8", newline="")
    stored = TemporaryBytes(limit=8)
    documents = read_documents([path], stored=stored)
    assert stored.is_on_disk
    assert [document.text for document in documents] == texts
    in_memory = [Document(d.name, t) for d, t in zip(documents, texts, strict=True)]
    assert documents == in_memory
    assert text_fingerprint(documents) == text_fingerprint(in_memory)
    for document, text in zip(documents, texts, strict=True):
        assert document.n_bytes == len(text.encode())
        assert document.n_words == len(text.split())
        for size in (1, 3, 50, 10_000):
            assert "".join(document.pieces(size)) == text
        assert document.part(0, document.n_bytes // 2).content() == document.content(
            0, document.n_bytes // 2
        )


def test_words_are_counted_across_pieces(monkeypatch):
    """Wherever a piece ends: within a word, before a space, within a run of spaces."""
    text = "ab  cdé f\u3000g " * 3
    for size in range(1, 12):
        pieces = Document.pieces
        monkeypatch.setattr(Document, "pieces", lambda self, s=size, p=pieces: p(self, s))
        assert Document("a", text).n_words == len(text.split())
        monkeypatch.setattr(Document, "pieces", pieces)


def test_a_pipe_or_device_is_refused(tmp_path):
    """Without opening it."""
    os.mkfifo(tmp_path / "pipe.txt")
    for path in (tmp_path / "pipe.txt", Path("/dev/zero")):
        with pytest.raises(InvalidValueError, match=r"named pipe|device"):
            read_documents([path])


def test_a_character_cut_at_the_end_of_a_block_is_one_character(tmp_path, monkeypatch):
    """Files are read in blocks; the byte that is wrong is counted from the file's beginning."""
    monkeypatch.setattr("kullback.text.documents.PIECE", 5)
    path = tmp_path / "a.txt"
    path.write_bytes("añbñcñdñ".encode())
    assert read_documents([path])[0].text == "añbñcñdñ"
    for content, place in ((b"abcdef\xffgh", 6), ("abcdñ".encode()[:-1], 4), (b"ab\xc3xyz", 2)):
        path.write_bytes(content)
        with pytest.raises(InvalidValueError, match=f"byte {place} is 0x"):
            read_documents([path])


def test_names_that_are_not_utf8_are_shown(tmp_path):
    """In a folder of texts such a file is read; its name can be written as JSON."""
    (tmp_path / os.fsdecode(b"a\xff.txt")).write_text("text")
    (document,) = read_documents([tmp_path])
    assert document.name == "a\ufffd.txt"
