"""Byte spans from pieces and from offsets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kullback.errors import InvalidValueError
from kullback.text.byte_spans import (
    ALPHABET,
    bytes_of_token,
    spans_from_offsets,
    spans_from_pieces,
)


@given(st.lists(st.binary(max_size=4), max_size=9))
def test_spans_of_pieces_are_their_lengths(pieces: list[bytes]) -> None:
    """The concatenated pieces are split where they were joined."""
    source = b"".join(pieces)
    spans = spans_from_pieces(source, pieces)
    assert spans is not None
    assert [source[start:end] for start, end in spans] == pieces


def test_pieces_that_are_not_the_text_have_no_spans() -> None:
    """Other bytes, or more than one leading space, give None; one leading space is no byte."""
    assert spans_from_pieces(b"ab", [b"a", b"c"]) is None
    assert spans_from_pieces(b"ab", [b"  a", b"b"]) is None
    spans = spans_from_pieces(b"ab", [b" ", b"a", b"b"])
    assert spans is not None
    assert spans.tolist() == [[0, 0], [0, 1], [1, 2]]


def test_the_alphabet_has_one_character_a_byte() -> None:
    """GPT-2's alphabet is a bijection of 256 printable characters onto the bytes."""
    assert sorted(ALPHABET.values()) == list(range(256))
    assert all(character.isprintable() for character in ALPHABET)
    assert bytes_of_token("Ġ", byte_level=True) == b" "
    assert bytes_of_token("<|漢|>", byte_level=True) == "<|漢|>".encode()


def test_tokens_that_share_a_character_are_split_by_their_pieces() -> None:
    """Two tokens of one character have its bytes where the pieces agree, else the first has all."""
    offsets = [(0, 1), (1, 2), (1, 2)]
    spans = spans_from_offsets("aé", offsets, [b"a", b"\xc3", b"\xa9"])
    assert spans.tolist() == [[0, 1], [1, 2], [2, 3]]
    spans = spans_from_offsets("aé", offsets, [b"a", b"?", b"?"])
    assert spans.tolist() == [[0, 1], [1, 3], [3, 3]]


def test_dropped_text_is_an_error_and_dropped_whitespace_is_not() -> None:
    """The error has the byte and the characters; whitespace belongs to the next token."""
    assert spans_from_offsets("é  b", [(0, 1), (3, 4)], [b"", b""]).tolist() == [[0, 2], [2, 5]]
    with pytest.raises(InvalidValueError, match=r"'x' at byte 3"):
        spans_from_offsets("é x b", [(0, 1), (4, 5)], [b"", b""])
