"""Spellings of special tokens: counts, notes, and their reading in pieces."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kullback.text import encoded_documents
from kullback.text.documents import Document
from kullback.text.encoded_documents import encode_documents
from kullback.text.special_spellings import count_strings, spelled_note
from kullback.text.stored_encodings import equal_tokens
from kullback.text.tokenizer import TextTokenizer
from tiny_tokenizers import trained


@given(st.text("<s/>x", max_size=30), st.lists(st.integers(0, 30), max_size=4))
def test_counts_do_not_depend_on_the_pieces(text, cuts):
    """A spelling may be cut by the end of a piece."""
    strings = ["<s>", "</s>", "<s>x", ""]
    edges = [0, *sorted(cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(edges)]
    assert count_strings(strings, pieces) == count_strings(strings, [text])


def test_the_note_says_how_often_and_how_they_were_read():
    """With the most frequent ones by name."""
    counts = count_strings(["<a>", "<b>", "<c>", "<d>"], ["<a><a><b><c><d>"])
    (note,) = spelled_note(counts, "text")
    for part in ("5 times", "<a> 2", "1 others", "ordinary characters", "--special-tokens tokens"):
        assert part in note
    assert "--special-tokens text" in spelled_note(counts, "tokens")[0]
    assert not spelled_note(count_strings(["<a>"], ["a"]), "text")


@pytest.mark.parametrize("special_tokens", ["text", "tokens"])
def test_pieces_read_special_tokens_as_the_whole_does(monkeypatch, special_tokens):
    """Also where a piece begins or ends in a spelling."""
    monkeypatch.setattr(encoded_documents, "PIECE", 700)
    monkeypatch.setattr(encoded_documents, "OVERLAP", 300)
    text = "".join(f"In {i} a brown fox;\n<|endoftext|>" for i in range(150))
    tokenizer = TextTokenizer(trained())
    (whole,) = [tokenizer.encode(text, special_tokens=special_tokens)]
    (encoding,) = encode_documents(
        tokenizer, [Document("long", text)], special_tokens=special_tokens
    )
    assert equal_tokens(encoding, whole)
    np.testing.assert_array_equal(encoding.spans(0, len(whole)), whole.byte_spans)
    end = trained().token_to_id("<|endoftext|>")
    assert np.count_nonzero(whole.ids == end) == (150 if special_tokens == "tokens" else 0)
