"""Tokens and the bytes that they stand for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from kullback.errors import InvalidValueError
from kullback.text.special_tokens import BOS, EOS
from kullback.text.tokenizer import (
    Encoding,
    TextTokenizer,
    tokenizer_config,
    train_tokenizer,
    word_tokenizer,
)

CORPUS = ["the cat sat on the mat 😀😀 así habló él, señor\n\n漢字 漢字 漢字"] * 4
BYTE_LEVEL = TextTokenizer(train_tokenizer(CORPUS, 300), BOS, EOS)


def llama_like(prefix: bool = True) -> TextTokenizer:
    """The scheme of Llama 2: "▁" for a blank, also in front, and bytes for unknown characters."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += ["\u2581", *"abcdefgh", "\u2581a", "ab", "\u2581ab"]
    merges = [("\u2581", "a"), ("a", "b"), ("\u2581a", "b")]
    model = models.BPE(
        vocab={word: i for i, word in enumerate(words)},
        merges=merges,
        byte_fallback=True,
        unk_token="<unk>",
        fuse_unk=True,
    )
    tokenizer = Tokenizer(model)
    replace = normalizers.Replace(" ", "\u2581")
    front = [normalizers.Prepend("\u2581")] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*front, replace])
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return TextTokenizer(tokenizer, "<s>", "</s>")


def byte_level_nfc() -> TextTokenizer:
    """The scheme of Qwen: byte-level, after composing characters."""
    tokenizer = train_tokenizer(CORPUS, 300)
    tokenizer.normalizer = normalizers.NFC()
    return TextTokenizer(tokenizer, BOS, EOS)


def word_pieces(unknown: str = "[UNK]") -> TextTokenizer:
    """The scheme of BERT: lower case, no accents, blanks and pieces of words."""
    words = [unknown, "the", "cat", "##s", "a", "##n", "espana", ".", "fi"]
    model = models.WordPiece({word: i for i, word in enumerate(words)}, unk_token=unknown)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return TextTokenizer(tokenizer)


def pieces(text: str, encoding: Encoding) -> list[bytes]:
    """The bytes of each token."""
    source = text.encode()
    return [source[start:end] for start, end in encoding.byte_spans]


def check_partition(text: str, encoding: Encoding) -> None:
    """The spans begin at 0, follow each other and end at the end."""
    spans = encoding.byte_spans
    assert spans.shape == (len(encoding.ids), 2)
    assert b"".join(pieces(text, encoding)) == text.encode()
    np.testing.assert_array_equal(spans[1:, 0], spans[:-1, 1])
    assert (spans[:, 0] <= spans[:, 1]).all()


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_spans_partition_any_text(text: str) -> None:
    """Whatever a text holds, byte-level, byte-fallback and NFC tokens partition its bytes."""
    for tokenizer in (BYTE_LEVEL, LLAMA, LLAMA_NO_PREFIX, NFC):
        check_partition(text, tokenizer.encode(text))


LLAMA, LLAMA_NO_PREFIX, NFC = llama_like(), llama_like(prefix=False), byte_level_nfc()


def test_byte_level_tokens_inside_a_character_have_their_own_bytes() -> None:
    """An emoji that takes several byte-level tokens is split where their bytes are."""
    text = "x 🦜é"
    found = BYTE_LEVEL.encode(text)
    decoded = [BYTE_LEVEL.encode(text).ids[i : i + 1] for i in range(len(found))]
    assert len(decoded) > len(text) - 1
    assert pieces(text, found)[-2:] in ([b"\x9c", "é".encode()], [b"\xc3", b"\xa9"])
    assert all(length > 0 for length in np.diff(found.byte_spans))


def test_byte_fallback_tokens_have_one_byte_each() -> None:
    """A character outside the vocabulary becomes as many one-byte tokens as it has bytes."""
    text = "ab é"
    assert pieces(text, LLAMA.encode(text)) == [b"ab", b" ", b"\xc3", b"\xa9"]


def test_a_prefix_blank_is_no_byte_of_the_text() -> None:
    """The blank that Llama 2's tokenizer puts in front belongs to no byte, a real one does."""
    assert pieces("ab", LLAMA.encode("ab")) == [b"ab"]
    assert pieces("cab", LLAMA.encode("cab")) == [b"", b"c", b"ab"]
    assert pieces(" ab", LLAMA.encode(" ab"))[0] == b""
    assert pieces(" ab", LLAMA_NO_PREFIX.encode(" ab")) == [b" ab"]


def test_composed_characters_are_mapped_to_what_was_written() -> None:
    """Where NFC turns e + accent into é, its tokens take the three bytes that were in the text."""
    text = "the cafe\u0301 sat"
    found = NFC.encode(text)
    check_partition(text, found)
    assert found.ids.tolist() == BYTE_LEVEL.encode("the café sat").ids.tolist()
    marks = [piece for piece in pieces(text, found) if "\u0301".encode() in piece]
    assert len(marks) == 1
    assert marks[0].endswith("\u0301".encode())
    korean = "\u1112\u1161\u11ab a"
    check_partition(korean, NFC.encode(korean))


def test_lower_case_and_blanks_keep_their_bytes() -> None:
    """A tokenizer that folds case and drops blanks gives blanks to the next token or the last."""
    text = "The  CATS\tEspaña. "
    found = word_pieces().encode(text)
    check_partition(text, found)
    assert pieces(text, found) == [b"The", b"  CAT", b"S", "\tEspaña".encode(), b". "]


def test_unknown_words_are_an_error_that_names_them() -> None:
    """A word that becomes [UNK] is told by no token: the error says where it is."""
    with pytest.raises(InvalidValueError, match=r"no token for 'dog' at byte 11 of the text"):
        word_pieces().encode("España the dog".replace(" the", "  a"))


def test_dropped_characters_are_an_error_that_names_them() -> None:
    """A byte-pair vocabulary without the characters drops them, and the error says where."""
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "é": 1, " ": 2}, merges=[]))
    with pytest.raises(InvalidValueError, match=r"at byte 4 it reads b'a' for b'xyza'"):
        TextTokenizer(tokenizer).encode("é axyza")


def test_words_of_a_source_keep_their_bytes() -> None:
    """The word tokenizer of a source covers blanks with the words after them."""
    tokenizer = TextTokenizer(word_tokenizer([BOS, EOS, "ayer", "comió"]), BOS, EOS)
    assert tokenizer.encode("ayer  comió").byte_spans.tolist() == [[0, 4], [4, 12]]
    with pytest.raises(InvalidValueError, match="cannot read the text"):
        tokenizer.encode("ayer bebió")


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, LLAMA], ids=["byte-level", "llama"])
def test_special_tokens_in_a_text_are_plain_text(tokenizer: TextTokenizer) -> None:
    """A special token written in the text is read as characters and reported by name."""
    special = tokenizer.special_strings[0]
    text = f"a{special}b{special}"
    found = tokenizer.encode(text)
    check_partition(text, found)
    assert tokenizer.bos_id not in found.ids
    assert tokenizer.eos_id not in found.ids
    assert tokenizer.special_strings_in(text) == {special: 2}


def test_encode_adds_nothing() -> None:
    """`encode` puts no BOS in front even where the tokenizer's own configuration does."""
    assert BYTE_LEVEL.adds_bos
    assert BYTE_LEVEL.bos_id == 0
    assert 0 not in BYTE_LEVEL.encode("the cat").ids
    assert len(BYTE_LEVEL.encode("")) == 0


def test_adds_bos_is_what_the_tokenizer_does() -> None:
    """A post-processor that puts BOS in front counts, one that puts EOS at the end does not."""
    plain = train_tokenizer(CORPUS, 300)
    plain.post_processor = processors.TemplateProcessing(
        single=f"$A {BOS}", special_tokens=[(BOS, 0)]
    )
    assert not TextTokenizer(plain, BOS, BOS).adds_bos
    plain.post_processor = processors.ByteLevel(trim_offsets=True)
    assert not TextTokenizer(plain, BOS, EOS).adds_bos
    assert TextTokenizer(train_tokenizer(CORPUS, 300)).bos_id == 0


def test_a_folder_and_transformers_give_the_same_tokenizer(tmp_path: Path) -> None:
    """Read by us or by transformers, a folder's tokenizer has the same ids and fingerprint."""
    (tmp_path / "tokenizer.json").write_text(train_tokenizer(CORPUS, 300).to_str())
    (tmp_path / "tokenizer_config.json").write_text(tokenizer_config())
    ours = TextTokenizer.load(tmp_path)
    theirs = TextTokenizer.from_transformers(AutoTokenizer.from_pretrained(tmp_path))
    text = CORPUS[0]
    np.testing.assert_array_equal(ours.encode(text).ids, theirs.encode(text).ids)
    assert ours.fingerprint == theirs.fingerprint == BYTE_LEVEL.fingerprint
    assert (ours.bos_id, ours.eos_id, ours.adds_bos) == (0, 1, True)
    assert (theirs.bos_id, theirs.eos_id, theirs.adds_bos) == (0, 1, True)
    assert ours.vocabulary_size == BYTE_LEVEL.vocabulary_size > 258
    assert ours.fingerprint != NFC.fingerprint


def test_truncation_in_the_file_is_ignored() -> None:
    """A tokenizer that truncates to two tokens reads all of a text, and stays as it was."""
    tokenizer = train_tokenizer(CORPUS, 300)
    tokenizer.enable_truncation(2)
    assert len(TextTokenizer(tokenizer, BOS, EOS).encode(CORPUS[0])) > 10
    assert len(tokenizer.encode(CORPUS[0]).ids) == 2


def test_a_tokenizer_written_in_python_is_read_where_it_spells_the_text() -> None:
    """A tokenizer without a fast form gives exact spans for what it spells, and an error else."""
    tokenizer = TextTokenizer.from_transformers(ByT5Tokenizer())
    assert pieces("ab c", tokenizer.encode("ab c")) == [b"a", b"b", b" ", b"c"]
    assert not tokenizer.adds_bos
    with pytest.raises(InvalidValueError, match="does not spell the text: at byte 2"):
        tokenizer.encode("aé")


def test_damaged_tokenizers_are_named(tmp_path: Path) -> None:
    """A folder without a tokenizer, or with a broken one, says so."""
    with pytest.raises(InvalidValueError, match=r"has no tokenizer\.json"):
        TextTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InvalidValueError, match=r"tokenizer\.json is damaged"):
        TextTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text(train_tokenizer(CORPUS, 300).to_str())
    (tmp_path / "tokenizer_config.json").write_text("[1]")
    with pytest.raises(InvalidValueError, match="must hold a JSON object"):
        TextTokenizer.load(tmp_path)


def test_ids_are_those_of_transformers() -> None:
    """On plain text the ids are what transformers' tokenizer gives without special tokens."""
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("\u2581a", -1.0), ("b", -2.0)], 0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    theirs = PreTrainedTokenizerFast(tokenizer_object=tokenizer)  # type: ignore[no-untyped-call] # theirs
    ours = TextTokenizer.from_transformers(theirs)
    expected = theirs.encode("a ab b", add_special_tokens=False)[:3]
    assert ours.encode("a ab").ids.tolist() == expected
    with pytest.raises(InvalidValueError, match="no token for"):
        ours.encode("a c")
