"""Tokens of documents that are encoded in pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from kullback.errors import InvalidValueError
from kullback.runtime import columns
from kullback.text import encoded_documents
from kullback.text.documents import Document
from kullback.text.encoded_documents import encode_documents
from kullback.text.stored_encodings import equal_tokens
from kullback.text.tokenizer import Encoding, TextTokenizer

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "docs/derivation.es.md").read_text(encoding="utf-8")[:20_000]
MIXED = "".join(f"{TEXT[i : i + 700]} 日本語の文 🙂👩‍👩‍👧 …\r\n\n" for i in range(0, 9000, 700))
SPECIAL = ["<unk>", "<s>"]


def byte_level() -> Tokenizer:
    """GPT-2's kind."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def sentencepiece_bpe() -> Tokenizer:
    """Llama 2's kind: "▁" before the text and for each space, and merges across words."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=[*SPECIAL, *bytes_], show_progress=False
    )
    lines = TEXT.splitlines()
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


def unigram() -> Tokenizer:
    """T5's kind: the most probable way to split each word."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=800, unk_token="<unk>", special_tokens=SPECIAL, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT, MIXED], trainer)
    return tokenizer


def wordpiece() -> Tokenizer:
    """BERT's kind: lower case, and spans from offsets."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))  # type: ignore[call-arg]
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=900, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator([TEXT, MIXED], trainer)
    return tokenizer


KINDS = {f.__name__: f for f in (byte_level, sentencepiece_bpe, unigram, wordpiece)}


@pytest.fixture(scope="module", params=sorted(KINDS))
def tokenizer(request: pytest.FixtureRequest) -> TextTokenizer:
    """One of each kind."""
    return TextTokenizer(KINDS[request.param](), "<s>" if request.param != "byte_level" else None)


@pytest.mark.parametrize("piece", [900, 4001])
@pytest.mark.parametrize("text", [TEXT, MIXED], ids=["Spanish", "mixed"])
def test_pieces_have_the_tokens_of_the_whole(tokenizer, text, piece, monkeypatch):
    """Ids and bytes, whatever the tokenizer and the length of a piece."""
    calls = counted_calls(tokenizer, monkeypatch)
    monkeypatch.setattr(encoded_documents, "PIECE", piece)
    monkeypatch.setattr(encoded_documents, "OVERLAP", 400)
    whole = tokenizer.encode(text)
    calls.clear()
    documents = [Document("short", "el"), Document("long", text), Document("again", text[:2000])]
    encodings = encode_documents(tokenizer, documents)
    np.testing.assert_array_equal(encodings[1].ids[:], whole.ids)
    np.testing.assert_array_equal(encodings[1].spans(0, len(whole)), whole.byte_spans)
    np.testing.assert_array_equal(encodings[1].spans(7, 31), whole.byte_spans[7:31])
    np.testing.assert_array_equal(
        encodings[1].ends_of(np.array([-1, 0, 5])), [0, *whole.byte_spans[[0, 5], 1]]
    )
    assert equal_tokens(encodings[2], tokenizer.encode(text[:2000]))
    assert max(calls) < 2 * piece + 900  # it was encoded in pieces


def test_one_endless_word_is_encoded_whole(tokenizer, monkeypatch):
    """Where pieces disagree about a word that began before them, the whole document decides."""
    monkeypatch.setattr(encoded_documents, "PIECE", 900)
    monkeypatch.setattr(encoded_documents, "OVERLAP", 200)
    text = "a la entropía " + "abcab" * 700 + " del modelo."
    try:
        whole = tokenizer.encode(text)
    except InvalidValueError:  # WordPiece has no token for so long a word
        with pytest.raises(InvalidValueError) as in_pieces:
            encode_documents(tokenizer, [Document("long", text)])
        assert "no token" in str(in_pieces.value)
        return
    (encoding,) = encode_documents(tokenizer, [Document("long", text)])
    assert equal_tokens(encoding, whole)


@pytest.mark.parametrize("change", [[1, 0], [0, -1]], ids=["id", "bytes"])
def test_tokens_that_the_whole_reads_otherwise_are_refused(change, monkeypatch):
    """Another id or another end of an early token, where the later ones are the same."""
    monkeypatch.setattr(encoded_documents, "PIECE", 900)
    monkeypatch.setattr(encoded_documents, "OVERLAP", 400)
    tokenizer = TextTokenizer(byte_level())
    text, encode = TEXT[:5000], tokenizer.encode
    cut = encoded_documents._cut
    first = iter([True, True])  # later pieces disagree
    monkeypatch.setattr(
        encoded_documents, "_cut", lambda *pieces: cut(*pieces) if next(first, False) else None
    )

    def changed(part: str, **options: Any) -> Encoding:
        encoding = encode(part, **options)
        if part == text:
            encoding.ids[3] += change[0]
            encoding.byte_spans[3, 1] += change[1]
        return encoding

    monkeypatch.setattr(tokenizer, "encode", changed)
    with pytest.raises(InvalidValueError, match="long as other tokens"):
        encode_documents(tokenizer, [Document("long", text)])


def test_words_are_not_cut(monkeypatch):
    """A vocabulary of whole words, without a token for others, reads a long text in pieces."""
    monkeypatch.setattr(encoded_documents, "PIECE", 400)
    monkeypatch.setattr(encoded_documents, "OVERLAP", 160)
    words = ["yesterday", "birds", "museum", "windows", "already", "tomorrow"]
    model = models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    text = "".join(words[i % 6] + " \n"[i % 7 == 0] for i in range(2000))
    encoding = encode_documents(TextTokenizer(made), [Document("words", text)])[0]
    assert encoding.ids[:].tolist() == [i % 6 for i in range(2000)]


def test_errors_name_the_byte_of_the_document(monkeypatch):
    """Not the one of the piece."""
    monkeypatch.setattr(encoded_documents, "PIECE", 900)
    monkeypatch.setattr(encoded_documents, "OVERLAP", 200)
    tokenizer = TextTokenizer(unigram(), "<s>")
    text = TEXT[:5000] + " ꙮ " + TEXT[5000:7000]
    with pytest.raises(InvalidValueError) as alone:
        tokenizer.encode(text)
    with pytest.raises(InvalidValueError) as in_pieces:
        encode_documents(tokenizer, [Document("long", text)])
    assert str(in_pieces.value) == str(alone.value)
    assert f"byte {len((TEXT[:5000] + ' ').encode())} " in str(in_pieces.value)


def test_long_encodings_are_on_disk(tokenizer, monkeypatch):
    """And the same."""
    monkeypatch.setattr(columns, "IN_MEMORY", 64)
    (encoding,) = encode_documents(tokenizer, [Document("a", TEXT)])
    assert equal_tokens(encoding, tokenizer.encode(TEXT))


def test_progress_is_told_in_bytes(tokenizer, monkeypatch):
    """From piece to piece, up to all of them."""
    monkeypatch.setattr(encoded_documents, "PIECE", 900)
    monkeypatch.setattr(encoded_documents, "OVERLAP", 200)
    told: list[tuple[int, int]] = []
    documents = [Document("a", TEXT), Document("b", TEXT[:100])]
    encode_documents(tokenizer, documents, lambda done, total: told.append((done, total)))
    total = sum(document.n_bytes for document in documents)
    assert len(told) > 10
    assert told == sorted(told)
    assert told[-1] == (total, total)


def counted_calls(tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each call of `encode`."""
    calls: list[int] = []
    encode = TextTokenizer.encode

    def counted(self, text, *options, **named):
        calls.append(len(text.encode()))
        return encode(self, text, *options, **named)

    monkeypatch.setattr(TextTokenizer, "encode", counted)
    return calls
