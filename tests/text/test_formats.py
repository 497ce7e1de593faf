"""Formats of text files: rows of each, compressed or not, and what is refused by its name."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma

import pyarrow as pa
import pytest

from kullback.errors import InvalidValueError
from kullback.text.documents import read_documents

TEXTS = ['one "quoted"\r\nline', "añb, c\td", "", "four"]


def compressed_zst(content: bytes) -> bytes:
    """A frame of zstd."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


COMPRESSED = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": compressed_zst,
    ".GZ": gzip.compress,
    ".zstd": compressed_zst,
    ".gzip": gzip.compress,
}


LINES = (".jsonl", ".NDJSON", "lines.json", ".jsonlines", ".jsonl.part", ".jsonl.1")


def rows_in(suffix: str, path) -> bytes:
    """TEXTS in a format, in the column `body`."""
    rows = [{"id": i, "body": text} for i, text in enumerate(TEXTS)]
    if suffix in LINES:
        return "\n".join(map(json.dumps, rows)).encode()
    if suffix == ".json":
        return json.dumps(rows, indent=1).encode()
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        delimiter = "\t" if suffix in (".tsv", ".tab") else ","
        writer = csv.DictWriter(file, ["id", "body"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path.read_bytes()


@pytest.mark.parametrize("compression", COMPRESSED)
@pytest.mark.parametrize("suffix", [*LINES, ".json", ".csv", ".tsv", ".tab"])
def test_rows_are_documents_in_every_format(tmp_path, suffix, compression):
    """Byte for byte, whatever the format and the compression."""
    path = tmp_path / f"docs{suffix}{compression}"
    path.write_bytes(COMPRESSED[compression](rows_in(suffix, tmp_path / "made")))
    documents = read_documents([path], field="body")
    assert [document.text for document in documents] == TEXTS
    assert len({document.name for document in documents}) == len(TEXTS)
    with pytest.raises(InvalidValueError, match=r"'text'.* only 'id', 'body'.* --field"):
        read_documents([path])


@pytest.mark.parametrize("compression", COMPRESSED)
def test_compressed_text_is_one_document(tmp_path, compression):
    """Also in a folder."""
    path = tmp_path / "folder" / f"a.txt{compression}"
    path.parent.mkdir()
    path.write_bytes(COMPRESSED[compression](b"a text\n"))
    for source in (path, path.parent):
        (document,) = read_documents([source])
        assert document.text == "a text\n"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", b'"a string"', ["JSON str", "array"]),
        ("a.json", b'{"train": [1]}', ["no field 'text'", "'train'"]),
        ("a.json", b"[1, 2]", ["item 0"]),
        ("a.json", b"{not json", ["not JSON", "standard input"]),
        ("a.json", b'[{"text": "\xff"}]', ["not UTF-8", "byte 11"]),
        ("a.csv", b'text\nopen\n"open\nmore\n', ["damaged or not a table", "standard input"]),
        ("a.csv", b"id,text\n1,a,b\n", ["row 0", "3 columns"]),
        ("a.csv", b"id,text\n1,\xff\n", ["not UTF-8", "0xff"]),
        ("a.csv", b"", ["no column 'text'"]),
        ("a.csv", b"wordy" * 99 + b",2\n", ["no column 'text'", "wordy…", "--field"]),
        ("a.csv", b"text,text\na,b\n", ["more than one column"]),
        ("a.jsonl.gz", b"not compressed", ["damaged or not a .gz"]),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"text": "a"}\n' * 99, mtime=0)[:-9],
            ["damaged or not a .gz"],
        ),
        ("a.txt.xz", b"not compressed", ["damaged or not a .xz"]),
        ("a.txt.zst", b"not compressed", ["damaged"]),
        ("a.txt.zst", compressed_zst(b"a text" * 99)[:-5], ["damaged"]),
        ("a.zip", b"PK", ["archive", "extract"]),
        ("a.tar.gz", b"", ["archive", "extract"]),
        ("a.tbz2", b"BZ", ["archive", "extract"]),
        ("a.txt.lz4", b"\x04", ["LZ4", "decompress"]),
        ("a.jsonl.br", b"\x04", ["Brotli", "decompress"]),
        ("a.txt.Z.1", b"\x1f\x9d", ["compress"]),
        ("a.jl", b'\n{"text": "a"}\n{"text": "b"}\n', ["JSON object", ".jsonl", ".txt"]),
        ("a.data.gz", gzip.compress(b'{"text": "a"}\n', mtime=0), ["JSON object", ".jsonl"]),
        ("docs", b'{"text": "' + b"a" * 20_000 + b'"}\n', ["JSON object", ".jsonl"]),
        ("docs", b'[\n {"text": "a"}]', ["JSON array", ".json", ".txt"]),
        ("docs", b'["a", "b"]', ["JSON array", ".json", ".txt"]),
        ("a.txt", gzip.compress(b"a", mtime=0), ["gzip", "name does not say so"]),
        ("a.jsonl", bz2.compress(b'{"text": "a"}'), ["bzip2"]),
        ("a.txt.gz", gzip.compress(lzma.compress(b"a"), mtime=0), ["xz"]),
        ("a.csv", compressed_zst(b"text\na"), ["Zstandard"]),
        ("a.md", b"PAR1\x15\x00", ["Parquet"]),
        ("a.parquet.gz", b"", ["Parquet", "decompress"]),
        ("a.PDF", b"%PDF", [".txt"]),
        ("a.xlsx", b"PK", [".parquet"]),
    ],
)
def test_what_is_not_read_is_one_sentence(tmp_path, name, content, words):
    """Nothing is measured as raw text by accident."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InvalidValueError) as error:
        read_documents([path])
    for word in (*words, str(path)):
        assert word in str(error.value)


def test_quotes_of_a_table_with_tabs_may_be_of_the_text(tmp_path):
    """Where each line is a row: no rows are joined or lost."""
    path = tmp_path / "a.tsv"
    rows = ["id\ttext", '1\t"open', '2\tshut"', '3\t"A" is good', '4\t5" of rain', '5\t"all"']
    path.write_text("\n".join(rows) + "\n")
    texts = [row.split("\t")[1] for row in rows[1:]]
    assert [document.text for document in read_documents([path])] == texts
    path.write_text('text\n"open\nshut"\n')
    with pytest.raises(InvalidValueError, match=r"line 2 .*quotes.*\.jsonl"):
        read_documents([path])
    path.write_text('text\n"a ""b"""\n')
    assert read_documents([path])[0].text == 'a "b"'


@pytest.mark.parametrize("name", ["a.jl", "README.1", "a.txt", "a.json5.old"])
def test_other_text_is_one_document(tmp_path, name):
    """Braces and numbers at the end of a name are of many kinds of text; .txt is always one."""
    text = '{"text": "a"}\n' if name == "a.txt" else "{ f(x) = 1 }\n"
    (tmp_path / name).write_text(text)
    notes = []
    (document,) = read_documents([tmp_path / name], note=notes.append)
    assert document.text == text
    assert ["JSON object" in sentence for sentence in notes] == [True] * (name == "a.txt")


@pytest.mark.parametrize(
    ("text", "is_array"),
    [
        ('[{"text": "a"}, {"text": "b"}]', True),
        ('\n [ "a\\"b" ]', True),
        ('["' + "a " * 5000 + '"]', True),
        ('["Go", he said, "away"]\n', False),
        ('["Go"] he said', False),
        ("[Music] It begins.", False),
        ('["Go away," he said.]', False),
        ("[1, 2]", False),
        ("[]", False),
    ],
)
def test_an_array_in_a_txt_is_noted(tmp_path, text, is_array):
    """It is one text, and the name that would read the texts in it is given."""
    (tmp_path / "a.txt").write_text(text)
    notes = []
    (document,) = read_documents([tmp_path / "a.txt"], note=notes.append)
    assert document.text == text
    assert ["JSON array" in note and "rename it to .json " in note for note in notes] == (
        [True] * is_array
    )


def test_long_values_of_tables_leave_no_limit_behind(tmp_path):
    """The limit of Python's csv is the process's."""
    limit = csv.field_size_limit()
    (tmp_path / "a.csv").write_text("text\n" + "x" * (limit + 1) + "\n")
    (document,) = read_documents([tmp_path / "a.csv"])
    assert document.n_bytes == limit + 1
    assert csv.field_size_limit() == limit
