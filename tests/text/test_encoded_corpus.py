"""The tokens of a corpus are those of the library, whichever way they are found."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from kullback.errors import InvalidValueError
from kullback.text import corpus as corpus_module
from kullback.text import encoded_corpus, piece_encoders
from kullback.text.corpus import Corpus
from kullback.text.encoded_corpus import encode_corpus
from kullback.text.piece_encoders import CharacterEncoder, WordEncoder, piece_encoder
from kullback.text.special_tokens import BOS, EOS
from kullback.text.tokenizer import TextTokenizer
from kullback.text.tokenizer_file import HARD_STRINGS
from kullback.text.tokenizer_training import character_tokenizer, train_tokenizer

HARD = " ".join(HARD_STRINGS) + "a\u00a0 b \u3000c!\n\n\x1c d\u2028e <s> it's 'S ½²  \t\r\n\n end  "
BPE = train_tokenizer([HARD] * 3, 400)


def tokens(corpus: Corpus, tokenizer: Tokenizer) -> list[list[int]]:
    """Return the tokens of each document."""
    documents: dict[int, list[int]] = {}
    for piece in encode_corpus(corpus, tokenizer, TextTokenizer(tokenizer, BOS, EOS), "uint16"):
        documents.setdefault(piece.document, []).extend(piece.ids.tolist())
    return list(documents.values())


def rows(tmp_path: Path, count: int = 40) -> tuple[Corpus, list[str]]:
    """Return a corpus of rows of hard characters, and the rows."""
    dice = random.Random(0)
    texts = ["".join(dice.choices(HARD, k=dice.randrange(1, 60))) for _ in range(count)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    return Corpus.of([path]), texts


@pytest.mark.parametrize("kept", [0, 3, 10**6])
def test_parts_of_words_give_the_tokens_of_the_library(
    kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoded by parts, hard and random texts have the tokens of the library, kept or not."""
    monkeypatch.setattr(piece_encoders, "_KEPT", kept)
    assert isinstance(piece_encoder(BPE, "uint16"), WordEncoder)
    corpus, texts = rows(tmp_path)
    reader = TextTokenizer(BPE, BOS, EOS)
    assert tokens(corpus, BPE) == [reader.ids(text) for text in texts]
    (tmp_path / "hard.txt").write_text(HARD, encoding="utf-8", newline="")
    assert tokens(Corpus.of([tmp_path / "hard.txt"]), BPE) == [reader.ids(HARD)]


@pytest.mark.parametrize("by", ["table", "processes"])
def test_several_encoders_give_the_same_tokens(
    by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoded by threads or processes, in small batches, a corpus has the same tokens in order."""
    if by == "processes":
        monkeypatch.setattr(encoded_corpus, "table_encoder", lambda *arguments: None)
    corpus, _ = rows(tmp_path)
    expected = tokens(corpus, BPE)
    monkeypatch.setattr(encoded_corpus, "SMALL_CORPUS", 0)
    monkeypatch.setattr(encoded_corpus, "BATCH_DOCUMENTS", 3)
    assert tokens(corpus, BPE) == expected


def test_a_text_without_whitespace_is_cut_at_its_punctuation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chinese and Japanese text is cut before punctuation, with the tokens of the library."""
    monkeypatch.setattr(corpus_module, "PIECE", 8)
    dice = random.Random(1)
    text = "".join(dice.choices("漢字龥ひらカナー々〇・゛a1é，。、！？：；「」\ufffd'", k=3000))
    tokenizer = train_tokenizer([text], 500)
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    corpus = Corpus.of([tmp_path / "a.txt"])
    assert sum(1 for _ in corpus.pieces()) > 100
    assert tokens(corpus, tokenizer) == [TextTokenizer(tokenizer, BOS, EOS).ids(text)]


def test_other_tokenizers_give_bytes_too(tmp_path: Path) -> None:
    """A tokenizer without a fast encoder gives the library's tokens and the bytes of each."""
    corpus, texts = rows(tmp_path)
    tokenizer = Tokenizer.from_str(BPE.to_str())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    assert piece_encoder(tokenizer, "uint16") is None
    reader = TextTokenizer(tokenizer, BOS, EOS)
    pieces = list(encode_corpus(corpus, tokenizer, reader, "uint16"))
    assert [piece.ids.tolist() for piece in pieces] == [reader.ids(text) for text in texts]
    for piece, text in zip(pieces, texts, strict=True):
        assert piece.byte_sizes is not None
        assert piece.byte_sizes.sum() == piece.text_bytes == len(text.encode())


def test_characters(tmp_path: Path) -> None:
    """Each character is a token, as the library reads it; an unknown one is named."""
    tokenizer = character_tokenizer(HARD)
    assert isinstance(piece_encoder(tokenizer, "uint16"), CharacterEncoder)
    reader = TextTokenizer(tokenizer, BOS, EOS)
    (tmp_path / "hard.txt").write_text(HARD, encoding="utf-8", newline="")
    (ids,) = tokens(Corpus.of([tmp_path / "hard.txt"]), tokenizer)
    assert len(ids) == len(HARD)
    assert ids == reader.ids(HARD)
    assert tokenizer.decode(ids) == HARD
    assert np.all(
        reader.encode(HARD).byte_spans[-1] == [len(HARD.encode()) - 1, len(HARD.encode())]
    )
    (tmp_path / "other.txt").write_text("ok ж", encoding="utf-8")
    with pytest.raises(InvalidValueError, match="no token for 'ж'"):
        tokens(Corpus.of([tmp_path / "other.txt"]), tokenizer)


def test_a_text_that_cannot_be_spelled(tmp_path: Path) -> None:
    """A tokenizer without the text's characters is one sentence that names them."""
    tokenizer = Tokenizer(models.WordLevel({"night": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    (tmp_path / "a.txt").write_text("night señor", encoding="utf-8")
    with pytest.raises(InvalidValueError, match="no token for 'señor'"):
        tokens(Corpus.of([tmp_path / "a.txt"]), tokenizer)
