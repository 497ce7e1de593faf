"""What users give as a text."""

from __future__ import annotations

import pytest

from kullback.errors import InvalidValueError
from kullback.text.documents import Document
from kullback.text.inputs import documents_of


@pytest.mark.parametrize(
    "text",
    ["the night river", "two\nlines", "a long text " * 1000, None, 3, b"bytes", ["book.txt", 3]],
    ids=["words", "lines", "long", "none", "number", "bytes", "list"],
)
def test_what_is_no_file_is_refused_with_the_name_of_document(text: object, tmp_path, monkeypatch):
    """Text itself, bytes, numbers and None are errors that say how to give a text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text("hello")
    with pytest.raises(InvalidValueError, match=r"kullback\.Document"):
        documents_of(text)  # type: ignore[arg-type]


def test_a_file_whose_name_has_a_space_is_read(tmp_path):
    """A space in a string does not make it a text."""
    file = tmp_path / "the night.txt"
    file.write_text("river")
    mixed = documents_of([str(file), Document("mine", "sea")])
    assert [document.text for document in mixed] == ["river", "sea"]
