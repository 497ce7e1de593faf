"""Reading texts."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kullback.errors import InvalidValueError
from kullback.text.documents import Document, read_documents


def test_a_file_is_one_document_byte_for_byte(tmp_path: Path) -> None:
    """Newlines, a byte order mark and blanks at the ends stay as they are."""
    content = "\ufeffuno\r\ndos\r\n\n".encode()
    (tmp_path / "a.md").write_bytes(content)
    (document,) = read_documents([tmp_path / "a.md"])
    assert document.text.encode() == content
    assert (document.name, document.n_bytes, document.n_words) == ("a.md", len(content), 2)


def test_a_folder_is_its_text_files_in_order(tmp_path: Path) -> None:
    """All .txt files below a folder, sorted by path, and nothing else."""
    for name in ("b.txt", "a.txt", "sub/c.txt", "note.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    found = read_documents([str(tmp_path)])
    assert [each.name for each in found] == ["a.txt", "b.txt", "sub/c.txt"]
    assert [each.text for each in found] == ["a.txt", "b.txt", "sub/c.txt"]


def test_json_lines_and_parquet_hold_a_document_a_row(tmp_path: Path) -> None:
    """Each line or row is a document, also an empty one, read from the field that is named."""
    texts = ["año 😀", "", "two\u2028lines"]
    lines = [
        json.dumps({"body": text, "id": i}, ensure_ascii=False) for i, text in enumerate(texts)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n\n")
    pq.write_table(pa.table({"id": [0, 1, 2], "body": texts}), tmp_path / "a.parquet")
    found = read_documents([tmp_path / "a.jsonl", tmp_path / "a.parquet"], field="body")
    assert [each.text for each in found] == texts * 2
    assert [each.name for each in found[2:5]] == ["a.jsonl:3", "a.parquet:0", "a.parquet:1"]


def test_a_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """- reads standard input whole."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("sí\n".encode())))
    assert read_documents(["-"]) == [Document("standard input", "sí\n")]


def test_bad_texts_are_named(tmp_path: Path) -> None:
    """Whatever is wrong with a source, one sentence says where."""

    def check(name: str, content: bytes, message: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidValueError, match=message):
            read_documents([tmp_path / name])

    check("a.txt", b"", r"a\.txt is empty")
    check("a.txt", b" \n", r"a\.txt is empty")
    check("a.txt", b"abc\xff", r"a\.txt is not UTF-8: byte 3 is 0xff")
    check("a.jsonl", b'{"text": "a"}\n{"text": ', r"line 2 of .*a\.jsonl is not JSON")
    check("a.jsonl", b"[1]", r"line 1 of .*a\.jsonl is a JSON list")
    check("a.jsonl", b'{"body": "a"}', r"line 1 .* no field 'text', only 'body'")
    check("a.jsonl", b'{"text": 3}', r"field 'text', line 1 of .* is 3: it must be a text")
    check("a.jsonl", b'{"text": "a\\ud800"}', r"half a character \(U\+D800\) at character 1")
    check("a.jsonl", b'{"text": ""}', r"a\.jsonl is empty")
    check("a.parquet", b"nothing", r"a\.parquet is not a whole Parquet file")
    pq.write_table(pa.table({"body": ["a"]}), tmp_path / "b.parquet")
    check("b.parquet", (tmp_path / "b.parquet").read_bytes(), r"no column 'text', only 'body'")
    pq.write_table(pa.table({"text": ["a", None]}), tmp_path / "c.parquet")
    check("c.parquet", (tmp_path / "c.parquet").read_bytes(), r"row 1 of .* is None: it must be")
    (tmp_path / "sub").mkdir()
    for source, message in (
        (tmp_path / "missing.txt", "cannot be read: No such file"),
        (tmp_path / "missing.parquet", "cannot be read: No such file"),
        (tmp_path / "sub", r"has no \.txt file"),
    ):
        with pytest.raises(InvalidValueError, match=message):
            read_documents([source])
    with pytest.raises(InvalidValueError, match="there is no text"):
        read_documents([])
