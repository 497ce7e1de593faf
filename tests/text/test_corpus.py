"""Corpora: files that are read piece by piece."""

from __future__ import annotations

import gzip
import json
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kullback.errors import InvalidValueError
from kullback.text import corpus
from kullback.text.corpus import LONGEST_WORD, Corpus

ROWS = ["the night is long", "", " and\nquiet\u00a0 ", "señor"]


def documents(*sources: str | Path, field: str = "text") -> list[str]:
    """Return the documents of a corpus, its pieces joined."""
    texts: dict[int, str] = {}
    for piece in Corpus.of(sources, field).pieces():
        texts[piece.document] = texts.get(piece.document, "") + piece.text
    return [texts.get(i, "") for i in range(max(texts) + 1)]


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    """JSON Lines, Parquet, CSV and gzip are read by their names, one document a row."""
    lines = "\n".join(json.dumps({"text": row}) for row in ROWS)
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    pq.write_table(pa.table({"text": ROWS}), tmp_path / "c.parquet")
    quoted = "".join(f'"{row}",1\n' for row in ROWS)
    (tmp_path / "d.csv").write_text(f"text,n\n{quoted}", encoding="utf-8")
    (tmp_path / "e.jsonl.zst").write_bytes(pa.compress(lines.encode(), "zstd", asbytes=True))
    for path in sorted(tmp_path.iterdir()):
        assert documents(path) == ROWS, path


def test_files_of_folders_and_patterns(tmp_path: Path) -> None:
    """A folder gives its texts in the order of their paths, a pattern what it matches."""
    (tmp_path / "inner").mkdir()
    for name in ("b.txt", "inner/a.txt", "c.md"):
        (tmp_path / name).write_text(name)
    assert documents(tmp_path) == ["b.txt", "inner/a.txt"]
    assert documents(f"{tmp_path}/**/*.txt") == ["b.txt", "inner/a.txt"]
    assert documents(f"{tmp_path}/[c].md", tmp_path / "b.txt") == ["c.md", "b.txt"]
    with pytest.raises(InvalidValueError, match=r"pattern .*\*\.csv"):
        Corpus.of([f"{tmp_path}/*.csv"])


def test_pieces_end_before_whitespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long text is cut before whitespace that follows a character, and nothing is lost."""
    monkeypatch.setattr(corpus, "PIECE", 10)
    monkeypatch.setattr(corpus, "BLOCK", 7)
    text = "the  night\u00a0 is\n\nlong, señor, " + "x" * 50 + "  end  "
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    pieces = [piece.text for piece in Corpus.of([tmp_path / "a.txt"]).pieces()]
    assert "".join(pieces) == text
    assert len(pieces) > 3
    for before, after in pairwise(pieces):
        assert not before[-1].isspace()
        assert after[0] in " \n"


def test_a_line_without_whitespace_is_read_in_pieces(tmp_path: Path) -> None:
    """No piece of it is longer than `LONGEST_WORD`, since a tokenizer would take gigabytes."""
    text = "acgt" * (LONGEST_WORD // 2) + " end"
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    pieces = [piece.text for piece in Corpus.of([tmp_path / "a.txt"]).pieces()]
    assert "".join(pieces) == text
    assert LONGEST_WORD <= 1 << 18
    assert max(map(len, pieces)) <= LONGEST_WORD


@pytest.mark.parametrize(
    ("content", "words"), [(b"night \xff", "byte 6 is 0xff"), (b"night \xc3", "byte 6")]
)
def test_what_is_not_utf8_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    """The byte that is not UTF-8 is named, at the end of a file too."""
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InvalidValueError, match=words):
        documents(tmp_path / "a.txt")
