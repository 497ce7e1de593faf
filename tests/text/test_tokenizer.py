"""Tokenizers for measuring: ids, byte spans and special tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from kullback.errors import InvalidValueError
from kullback.text.special_spellings import count_strings
from kullback.text.special_tokens import BOS, EOS
from kullback.text.tokenizer import Encoding, TextTokenizer
from kullback.text.tokenizer_training import tokenizer_config, train_tokenizer, word_tokenizer

CORPUS = ["the cat sat on the mat 😀😀 así habló él, señor\n\n漢字 漢字 漢字"] * 4
BYTE_LEVEL = TextTokenizer(train_tokenizer(CORPUS, 300), BOS, EOS)


def llama_like(prefix: bool = True) -> TextTokenizer:
    """Return a tokenizer like Llama 2's: "▁" for a space, one prepended, bytes for the unknown."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += ["\u2581", *"abcdefgh", "\u2581a", "ab", "\u2581ab"]
    merges = [("\u2581", "a"), ("a", "b"), ("\u2581a", "b")]
    model = models.BPE(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=merges,
        byte_fallback=True,
        unk_token="<unk>",
        fuse_unk=True,
    )
    tokenizer = Tokenizer(model)
    replace = normalizers.Replace(" ", "\u2581")
    leading = [normalizers.Prepend("\u2581")] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*leading, replace])
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return TextTokenizer(tokenizer, "<s>", "</s>")


def byte_level_nfc() -> TextTokenizer:
    """Return a tokenizer like Qwen's: byte-level, after composing characters."""
    tokenizer = train_tokenizer(CORPUS, 300)
    tokenizer.normalizer = normalizers.NFC()
    return TextTokenizer(tokenizer, BOS, EOS)


def word_pieces(unknown: str = "[UNK]") -> TextTokenizer:
    """Return a tokenizer like BERT's: lower case, no accents, whitespace, pieces of words."""
    tokens = [unknown, "the", "cat", "##s", "a", "##n", "espana", ".", "fi"]
    model = models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token=unknown)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return TextTokenizer(tokenizer)


def pieces(text: str, encoding: Encoding) -> list[bytes]:
    """Return the bytes of each token."""
    source = text.encode()
    return [source[start:end] for start, end in encoding.byte_spans]


def check_partition(text: str, encoding: Encoding) -> None:
    """Check that the spans are consecutive, from 0 to the end of the text."""
    spans = encoding.byte_spans
    assert spans.shape == (len(encoding.ids), 2)
    assert b"".join(pieces(text, encoding)) == text.encode()
    np.testing.assert_array_equal(spans[1:, 0], spans[:-1, 1])
    assert (spans[:, 0] <= spans[:, 1]).all()


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_spans_partition_any_text(text: str) -> None:
    """Byte-level, byte-fallback and NFC tokens partition the bytes of any text."""
    for tokenizer in (BYTE_LEVEL, LLAMA, LLAMA_NO_PREFIX, NFC):
        check_partition(text, tokenizer.encode(text))


LLAMA, LLAMA_NO_PREFIX, NFC = llama_like(), llama_like(prefix=False), byte_level_nfc()


def test_byte_level_tokens_inside_a_character_have_their_own_bytes() -> None:
    """An emoji that takes several byte-level tokens is split where their bytes are."""
    text = "x 🦜é"
    encoding = BYTE_LEVEL.encode(text)
    assert len(encoding) > len(text) - 1
    assert pieces(text, encoding)[-2:] in ([b"\x9c", "é".encode()], [b"\xc3", b"\xa9"])
    assert all(length > 0 for length in np.diff(encoding.byte_spans))


def test_byte_fallback_tokens_have_one_byte_each() -> None:
    """A character outside the vocabulary becomes as many one-byte tokens as it has bytes."""
    text = "ab é"
    assert pieces(text, LLAMA.encode(text)) == [b"ab", b" ", b"\xc3", b"\xa9"]


def test_a_prepended_space_is_no_byte_of_the_text() -> None:
    """The space that Llama 2's tokenizer prepends has no byte; a space of the text has one."""
    assert pieces("ab", LLAMA.encode("ab")) == [b"ab"]
    assert pieces("cab", LLAMA.encode("cab")) == [b"", b"c", b"ab"]
    assert pieces(" ab", LLAMA.encode(" ab"))[0] == b""
    assert pieces(" ab", LLAMA_NO_PREFIX.encode(" ab")) == [b" ab"]


def test_composed_characters_are_mapped_to_what_was_written() -> None:
    """Where NFC composes e and an accent, the tokens of é have the three bytes of the text."""
    text = "the cafe\u0301 sat"
    encoding = NFC.encode(text)
    check_partition(text, encoding)
    assert encoding.ids.tolist() == BYTE_LEVEL.encode("the café sat").ids.tolist()
    marks = [piece for piece in pieces(text, encoding) if "\u0301".encode() in piece]
    assert len(marks) == 1
    assert marks[0].endswith("\u0301".encode())
    korean = "\u1112\u1161\u11ab a"
    check_partition(korean, NFC.encode(korean))


def test_lower_case_and_whitespace_keep_their_bytes() -> None:
    """Whitespace that the tokenizer drops belongs to the next token, at the end to the last."""
    text = "The  CATS\tEspaña. "
    encoding = word_pieces().encode(text)
    check_partition(text, encoding)
    assert pieces(text, encoding) == [b"The", b"  CAT", b"S", "\tEspaña".encode(), b". "]


def test_unknown_words_are_an_error_that_names_them() -> None:
    """A word that becomes [UNK] is an error that says where it is."""
    with pytest.raises(InvalidValueError, match=r"'dog' at byte 11"):
        word_pieces().encode("España the dog".replace(" the", "  a"))


def test_dropped_characters_are_an_error_that_names_them() -> None:
    """A byte-pair vocabulary without the characters drops them, and the error says where."""
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "é": 1, " ": 2}, merges=[]))
    with pytest.raises(InvalidValueError, match=r"at byte 4 .*b'a' for b'xyza'"):
        TextTokenizer(tokenizer).encode("é axyza")


def test_words_of_a_source_keep_their_bytes() -> None:
    """The word tokenizer of a source gives whitespace to the word after it."""
    tokenizer = TextTokenizer(word_tokenizer([BOS, EOS, "ayer", "comió"]), BOS, EOS)
    assert tokenizer.encode("ayer  comió").byte_spans.tolist() == [[0, 4], [4, 12]]
    with pytest.raises(InvalidValueError, match="no token for 'bebió'"):
        tokenizer.encode("ayer bebió")


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, LLAMA], ids=["byte-level", "llama"])
def test_special_tokens_in_a_text_are_ordinary_text(tokenizer: TextTokenizer) -> None:
    """A special token written in the text is read as characters and reported by name."""
    special = tokenizer.special_strings[0]
    text = f"a{special}b{special}"
    encoding = tokenizer.encode(text)
    check_partition(text, encoding)
    assert tokenizer.bos_id not in encoding.ids
    assert tokenizer.eos_id not in encoding.ids
    assert count_strings(tokenizer.special_strings, [text]) == {special: 2}


def test_encode_adds_nothing() -> None:
    """`encode` adds no BOS even where the tokenizer's own configuration does."""
    assert BYTE_LEVEL.adds_bos
    assert BYTE_LEVEL.bos_id == 0
    assert 0 not in BYTE_LEVEL.encode("the cat").ids
    assert len(BYTE_LEVEL.encode("")) == 0


def test_adds_bos_is_what_the_tokenizer_does() -> None:
    """A post-processor that prepends BOS counts, one that appends EOS does not."""
    trained = train_tokenizer(CORPUS, 300)
    trained.post_processor = processors.TemplateProcessing(
        single=f"$A {BOS}", special_tokens=[(BOS, 0)]
    )
    assert not TextTokenizer(trained, BOS, BOS).adds_bos
    trained.post_processor = processors.ByteLevel(trim_offsets=True)
    assert not TextTokenizer(trained, BOS, EOS).adds_bos
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
    """A tokenizer that truncates to two tokens reads all of a text, and is not changed."""
    tokenizer = train_tokenizer(CORPUS, 300)
    tokenizer.enable_truncation(2)
    assert len(TextTokenizer(tokenizer, BOS, EOS).encode(CORPUS[0])) > 10
    assert len(tokenizer.encode(CORPUS[0]).ids) == 2


def test_a_tokenizer_written_in_python_is_read_where_it_spells_the_text() -> None:
    """A tokenizer without a fast form gives exact spans, or an error where it has none."""
    tokenizer = TextTokenizer.from_transformers(ByT5Tokenizer())
    assert pieces("ab c", tokenizer.encode("ab c")) == [b"a", b"b", b" ", b"c"]
    assert not tokenizer.adds_bos
    with pytest.raises(InvalidValueError, match="at byte 2"):
        tokenizer.encode("aé")


def test_damaged_tokenizers_are_named(tmp_path: Path) -> None:
    """The error names the file that is missing or damaged."""
    with pytest.raises(InvalidValueError, match=r"tokenizer\.json"):
        TextTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InvalidValueError, match=r"tokenizer\.json is damaged"):
        TextTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text(train_tokenizer(CORPUS, 300).to_str())
    (tmp_path / "tokenizer_config.json").write_text("[1]")
    with pytest.raises(InvalidValueError, match=r"tokenizer_config\.json is damaged"):
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


@pytest.mark.parametrize("kind", ["WordLevel", "WordPiece"])
def test_a_word_without_a_token_is_named(kind: str):
    """Where none is for unknown words; the library's own sentence is not shown."""
    vocabulary = {"a": 0, "b": 1}
    tokenizer = Tokenizer(getattr(models, kind)(vocabulary))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    with pytest.raises(
        InvalidValueError, match="no token for 'año', and none for unknown"
    ) as error:
        TextTokenizer(tokenizer, None, None).encode("a b año b")
    assert "UNK" not in str(error.value)
    assert "byte-level" in str(error.value)


def test_spellings_of_special_tokens_are_text_or_tokens():
    """Either way the bytes are those of the text, also where the token takes whitespace with it."""
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "<": 1, "x": 2, ">": 3, "<x>": 4, "<m>": 5}))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation()]
    )
    tokenizer.add_special_tokens([AddedToken("<x>"), AddedToken("<m>", lstrip=True)])
    ours = TextTokenizer(tokenizer)
    as_text = ours.encode("a<x>a")
    as_tokens = ours.encode("a<x>a <m> a", special_tokens="tokens")
    assert as_text.ids.tolist() == [0, 1, 2, 3, 0]
    assert as_tokens.ids.tolist() == [0, 4, 0, 5, 0]
    assert as_tokens.byte_spans.tolist() == [[0, 1], [1, 4], [4, 5], [5, 9], [9, 11]]


def test_ids_without_a_row_are_errors_where_they_occur():
    """A token that the text never uses is no reason to refuse a model."""
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "pad": 9}))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    limited = TextTokenizer(tokenizer, bos_token="pad").with_rows(2)
    assert limited.encode("a b").ids.tolist() == [0, 1]
    assert limited.bos_id is None
    with pytest.raises(InvalidValueError, match=r"'pad' at byte 103 .* token 9.* 2 of them"):
        limited.encode("a b pad", first_byte=100)
