"""What normalisers take from a text is said, with the first word that is changed."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, normalizers

from kullback.text.documents import Document
from kullback.text.lost_text import READ, lost_text_note, lost_text_notes
from kullback.text.tokenizer import TextTokenizer
from kullback.text.tokenizer_training import train_tokenizer

TEXT = "one Año\n ﬁve  two "


def tokenizer(*parts: normalizers.Normalizer) -> TextTokenizer:
    """Return a tokenizer of bytes with these normalisers."""
    own = train_tokenizer([TEXT], 258)
    if parts:
        own.normalizer = normalizers.Sequence(list(parts))
    return TextTokenizer(own)


@pytest.mark.parametrize(
    ("part", "changed"),
    [
        (normalizers.Lowercase(), "'Año' is read as 'año'"),
        (normalizers.BertNormalizer(), "'Año' is read as 'ano'"),
        (normalizers.NFKC(), "'ﬁve' is read as 'five'"),
        (normalizers.Replace("two", ""), "'two' is read as ''"),
    ],
)
def test_lost_letters_are_said(part: normalizers.Normalizer, changed: str) -> None:
    """Bits per byte of such a tokenizer are not those of the text."""
    note = lost_text_note(tokenizer(part), TEXT)
    assert note is not None
    assert changed in note
    assert "bits per byte" in note


@pytest.mark.parametrize(
    "parts",
    [
        (),
        (normalizers.NFC(),),
        (normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")),
        (normalizers.Strip(),),
    ],
    ids=["none", "NFC", "marks", "strip"],
)
def test_what_keeps_the_letters_is_not_said(parts: tuple[normalizers.Normalizer, ...]) -> None:
    """Nor is whitespace, which tokenizers mark."""
    assert lost_text_note(tokenizer(*parts), TEXT) is None


def test_bytes_as_characters_are_no_change() -> None:
    """A byte-level normaliser writes each byte as a character."""
    own = Tokenizer(models.BPE())
    own.normalizer = normalizers.ByteLevel()
    own.add_tokens(["a"])
    assert lost_text_note(TextTokenizer(own), TEXT) is None


def test_documents_are_looked_at_in_their_beginning() -> None:
    """That of the first which is not empty."""
    lower = tokenizer(normalizers.Lowercase())
    documents = [Document("a", ""), Document("b", "one"), Document("c", "ONE")]
    assert lost_text_notes(lower, documents) == []
    assert len(lost_text_notes(lower, documents[2:])) == 1
    assert lost_text_notes(lower, [Document("d", "o" * READ + " ONE")]) == []
    assert lost_text_notes(lower, []) == []
