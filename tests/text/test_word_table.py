"""A table in C cuts texts as the parts in Python are cut, and has the library's ids."""

from __future__ import annotations

import random
import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from kullback.text import piece_encoders, word_table
from kullback.text.piece_encoders import WordEncoder, piece_encoder, table_encoder
from kullback.text.tokenizer_file import HARD_STRINGS
from kullback.text.tokenizer_training import train_tokenizer
from kullback.text.word_table import WordTable, word_library

# All whitespace of Unicode, what Python adds to it, and characters that look like some in UTF-8.
SPACES = "".join(chr(i) for i in range(0x3001) if chr(i).isspace())
NEAR = "\u0080\u0084\u0086\u009f\u00a1\u200b\u202a\u2060\u167f\u1681\u2fff\u3001é漢😀\x00\x1b\x7f"
HARD = " ".join(HARD_STRINGS) + SPACES + NEAR + "the night is long, it's 'S <s> ½²\r\n"
BPE = train_tokenizer([HARD] * 3, 400)
PART = re.compile(r"\s*\S+(?:[^\S \t\n\r]\s*\S*)*|\s+")

needs_library = pytest.mark.skipif(word_library() is None, reason="there is no C compiler")


def texts(count: int, seed: int = 0) -> list[str]:
    """Return random texts of hard characters, empty ones among them."""
    dice = random.Random(seed)
    return ["".join(dice.choices(HARD, k=dice.randrange(90))) for _ in range(count)]


def test_there_is_a_library_where_there_is_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is used wherever it can be compiled, and not where that is disabled."""
    has_compiler = any(shutil.which(name) for name in ("cc", "gcc", "clang"))
    assert (table_encoder(BPE, "uint16") is not None) == has_compiler
    monkeypatch.setenv("KULLBACK_COMPILE", "0")
    word_library.cache_clear()
    assert table_encoder(BPE, "uint16") is None
    word_library.cache_clear()


@needs_library
@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_ids_are_those_of_the_library(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """First and last of all, new and known words of any length have the library's ids."""
    monkeypatch.setattr(piece_encoders, "_AT_ONCE", 7)
    encoder, words = table_encoder(BPE, dtype), piece_encoder(BPE, dtype)
    assert encoder is not None
    assert isinstance(words, WordEncoder)
    long = "x" * 63 + " " + "x" * 64 + " " + "x" * 300 + " é" + "é" * 31
    for some in (texts(200), [HARD, "", long, long], texts(200), [], [""], texts(50, 1)):
        ours = encoder.encode(some)
        assert ours == words.encode(some)
        encodings = words._tokenizer.encode_batch_fast(some, add_special_tokens=False)
        ids = [np.frombuffer(content, dtype).tolist() for content in ours]
        assert ids == [encoding.ids for encoding in encodings]


@needs_library
def test_words_are_found_once_they_are_added() -> None:
    """What is missing is in order, with its place; added, all that is short enough is found."""
    library = word_library()
    assert library is not None
    table = WordTable(library, "uint16")
    some = [text for text in texts(100) if text]
    content, ends = "".join(some).encode(), np.cumsum([len(text.encode()) for text in some])
    ids, counts, missing = table.find(content, ends)
    assert len(ids) == counts.sum() == 0
    parts = [content[begin:end] for begin, end, *_ in missing.tolist()]
    control = re.compile(r"[\x00-\x08\x0e-\x1b]")  # not whitespace, but no end of a part in C
    for k, text in enumerate(some):
        if not control.search(text):
            of_text = [
                part.decode() for part, n in zip(parts, missing[:, 3], strict=True) if n == k
            ]
            assert of_text == PART.findall(text)
    assert b"".join(parts) == content
    first = {part: number for number, part in enumerate(dict.fromkeys(parts))}
    assert table.add([*first], np.arange(2 * len(first)), np.full(len(first), 2))
    ids, counts, missing = table.find(content, ends)
    short = [part for part in parts if len(part) <= 64]
    assert len(missing) == len(parts) - len(short)
    assert ids[::2].tolist() == [2 * first[part] for part in short]
    assert counts.sum() == len(ids) == 2 * len(short)


@needs_library
def test_a_full_table_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words are kept when a table is full, and threads that read the old one have right ids."""
    make = WordTable.__init__
    made = []

    def small(self: WordTable, library: object, dtype: object) -> None:
        made.append(self)
        make(self, library, dtype, 4 + len(made) % 3, 200)  # type: ignore[arg-type]

    monkeypatch.setattr(WordTable, "__init__", small)
    encoder, words = table_encoder(BPE, "uint16"), piece_encoder(BPE, "uint16")
    assert encoder is not None
    assert words is not None
    batches = [texts(30, seed) for seed in range(40)]
    expected = [words.encode(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(encoder.encode, batches)) == expected
    assert len(made) > 3


@needs_library
def test_parts_with_one_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of two slots, where almost all words collide, has no wrong ids."""
    library = word_library()
    assert library is not None
    table = WordTable(library, "uint16", 1, word_table.RECORD_BYTES)
    words = [f" {i}".encode() for i in range(20)]
    assert not table.add(words, np.arange(20), np.ones(20))
    ids, _, missing = table.find(b"".join(words), np.array([len(b"".join(words))]))
    assert len(ids) + len(missing) == 20
    assert 0 < len(ids) <= 2
    absent = {int(begin) for begin in missing[:, 0]}
    starts = np.cumsum([0, *map(len, words[:-1])])
    assert ids.tolist() == [i for i, begin in enumerate(starts.tolist()) if begin not in absent]
