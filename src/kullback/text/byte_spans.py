"""Byte spans: which bytes of a text belong to which token.

A measure per byte, a text coloured by surprisal and a record that another tool can read all need
the bytes of the *source text* that a token covers.  Tokenizers give offsets in characters, of a
text that they have normalised, and several tokens may share one character.  Two methods, in turn:

* **pieces**: each vocabulary entry represents bytes (byte-level alphabet; "▁" for a space; "<0xE2>"
  for a byte).  Where the concatenated pieces *are* the text, their lengths are the spans, exactly.
  A leading space that the tokenizer adds is not a byte of the text.
* **offsets**: the tokenizer's own, in characters, for those that change the text (lower case, NFC,
  merged whitespace).  Whitespace between tokens belongs to the next token, at the end to the last
  one; marks that were composed with the character before them (NFC) or stripped belong to the token
  before.  Tokens that share characters are split by their pieces where these agree with the text;
  otherwise the first has all the bytes and the others have empty spans.

With either method the spans are a partition of the text's UTF-8 bytes, in order; where the
tokenizer drops text, an error says where.

Axes: n tokens; the last axis of spans is (start, end).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from kullback.errors import InvalidValueError

__all__ = ["ALPHABET", "bytes_of_token", "spans_from_offsets", "spans_from_pieces"]

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
SPACE = b" "


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's 256 printable characters, each for a byte (Radford et al. 2019, `bytes_to_unicode`).

    Bytes that are printable in Latin-1 are their own characters, the others are U+0100 and after.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + i): byte for i, byte in enumerate(others)}


ALPHABET = _byte_level_alphabet()


def bytes_of_token(token: str, byte_level: bool) -> bytes:
    """The bytes that a vocabulary entry represents.

    >>> bytes_of_token("ĠcafÃ©", byte_level=True) == " café".encode()
    True
    >>> bytes_of_token("▁caf", byte_level=False), bytes_of_token("<0xC3>", byte_level=False)
    (b' caf', b'\\xc3')
    """
    if byte_level:
        # An added token is ordinary text, not written in the alphabet.
        in_alphabet = all(character in ALPHABET for character in token)
        return bytes(ALPHABET[character] for character in token) if in_alphabet else token.encode()
    if match := BYTE_TOKEN.fullmatch(token):
        return bytes([int(match[1], 16)])
    return token.replace("\u2581", " ").encode("utf-8", "surrogatepass")


def spans_from_pieces(source: bytes, pieces: Sequence[bytes]) -> Int[np.ndarray, "n 2"] | None:
    """Spans where the concatenated pieces are the source, perhaps after a space; otherwise None.

    >>> spans_from_pieces(b"a b", [b" a", b" ", b"b"]).tolist()
    [[0, 1], [1, 2], [2, 3]]
    """
    joined = b"".join(pieces)
    spaces = len(joined) - len(source)
    if spaces not in (0, 1) or joined != SPACE * spaces + source:
        return None
    ends = np.cumsum(np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces))) - spaces
    return _spans(np.maximum(ends, 0))


def spans_from_offsets(
    text: str, offsets: Sequence[tuple[int, int]], pieces: Sequence[bytes], first_byte: int = 0
) -> Int[np.ndarray, "n 2"]:
    """Spans from the characters (start, end) that the tokenizer says each token covers.

    Raises `InvalidValueError` naming the first byte that no token covers, unless it is whitespace;
    bytes are counted from `first_byte`.
    """
    source = text.encode()
    byte_of = _byte_offsets(text)
    # The ends of tokens, to the character; each token starts at the end of the one before.
    ends = np.maximum.accumulate(byte_of[[end for _, end in offsets]])
    covered = 0
    for i, (start, end) in enumerate(offsets):
        if start > covered:
            marks = _check_gap(text, covered, start, byte_of + first_byte)
            if i > 0:
                ends[i - 1] = byte_of[covered + marks]
        shares = i > 0 and start < covered
        if shares and (i + 1 == len(offsets) or offsets[i + 1][0] >= max(covered, end)):
            first = _first_of_cluster(offsets, i)
            start_byte = 0 if first == 0 else int(ends[first - 1])
            exact = spans_from_pieces(source[start_byte : ends[i]], pieces[first : i + 1])
            if exact is not None:
                ends[first : i + 1] = start_byte + exact[:, 1]
        covered = max(covered, end)
    _check_gap(text, covered, len(text), byte_of + first_byte)
    if len(ends):
        ends[-1] = len(source)
    return _spans(ends)


def _first_of_cluster(offsets: Sequence[tuple[int, int]], last: int) -> int:
    """The first of the consecutive tokens that overlap up to `last`."""
    first = last
    while first > 0 and offsets[first][0] < offsets[first - 1][1]:
        first -= 1
    return first


def _check_gap(text: str, start: int, end: int, byte_of: Int[np.ndarray, "characters"]) -> int:
    """How many characters of text[start:end] are marks of the character before.

    Raises `InvalidValueError` unless the rest is whitespace.
    """
    marks = 0
    before = text[start - 1] if start else ""
    for character in text[start:end]:
        joined = unicodedata.normalize("NFKC", before + character)
        composed = len(joined) <= len(unicodedata.normalize("NFKC", before))
        if not (composed or unicodedata.category(character).startswith("M")):
            break
        before, marks = joined, marks + 1
    lost = text[start + marks : end]
    if lost.strip():
        first = start + marks + len(lost) - len(lost.lstrip())
        raise InvalidValueError(
            f"the tokenizer drops {lost.strip()[:20]!r} at byte {byte_of[first]} of the text: its "
            "surprisal cannot be measured; remove it from the text, or choose a model whose "
            "tokenizer knows it (byte-level ones know all)"
        )
    return marks


def _byte_offsets(text: str) -> Int[np.ndarray, "characters"]:
    """The byte at which each character begins, and the number of bytes."""
    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    widths = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(widths)])


def _spans(ends: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n 2"]:
    starts = np.concatenate([np.zeros(1, dtype=np.int64), ends])[:-1]
    return np.stack([starts, ends], axis=1)
