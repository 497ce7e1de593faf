"""Tokenizers without a tokenizer.json: the ids of their file, or a refusal that names it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from kullback.errors import InvalidValueError, MissingExtraError
from kullback.models._sentence_piece_files import check_file, of_sentence_piece
from kullback.models.load import load_text_model
from kullback.text.tokenizer import TextTokenizer
from tiny_architectures import saved_model
from tiny_models import tiny_llama

PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁a", "a", "b"]
FILE = b"\n\x0e"


class Processor:
    """SentencePiece for `PIECES`: a space before the text, then the longest piece."""

    def __init__(self, model_file: str) -> None:
        assert Path(model_file).read_bytes() == FILE

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        rest, ids = "▁" + text.replace(" ", "▁"), []
        while rest:
            piece = next((p for p in ("▁a", "▁", "a", "b") if rest.startswith(p)), rest[0])
            rest = rest[len(piece) :]
            ids += [PIECES.index(piece)] if piece in PIECES else [3 + b for b in piece.encode()]
        return ids

    def id_to_piece(self, token: int) -> str:
        """Return the text of a token."""
        return PIECES[token]

    def get_piece_size(self) -> int:
        """Return the number of tokens."""
        return len(PIECES)

    def unk_id(self) -> int:
        """Return the id of what is unknown."""
        return 0

    def is_unknown(self, token: int) -> bool:
        """Whether it stands for what is unknown."""
        return token == 0

    def is_control(self, token: int) -> bool:
        """Whether it begins or ends a text."""
        return token in (1, 2)

    def is_byte(self, token: int) -> bool:
        """Whether it is a byte."""
        return 3 <= token < 259


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of `Processor`, as which sentencepiece is imported."""
    module = ModuleType("sentencepiece")
    monkeypatch.setattr(module, "SentencePieceProcessor", Processor, raising=False)
    monkeypatch.setitem(sys.modules, "sentencepiece", module)
    for name in ("google", "google.protobuf"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    path = tmp_path / "tokenizer.model"
    path.write_bytes(FILE)
    return path


def theirs(pieces: list[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer with `pieces` that puts no space before a text."""
    model = models.BPE(
        {piece: i for i, piece in enumerate(pieces)}, [("▁", "a")], byte_fallback=True,
        unk_token="<unk>",
    )  # fmt: skip
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def test_ids_are_those_of_the_file(file: Path) -> None:
    """Where transformers reads other pieces a note says so, and the bytes of a text are spelled."""
    other = theirs(PIECES)
    tokenizer = of_sentence_piece("m", file, TextTokenizer.from_transformers(other), other)
    assert other.encode("a b", add_special_tokens=False) != tokenizer.ids("a b")
    assert tokenizer.ids("a b") == Processor(str(file)).encode("a b")
    assert tokenizer.encode("a é<s>").byte_spans[-1].tolist() == [6, 7]
    assert any("tokenizer.model" in note for note in tokenizer.notes)
    with pytest.raises(InvalidValueError, match="<s>"):
        tokenizer.encode("a <s>", special_tokens="tokens")


def test_other_ids_than_the_file_are_refused(file: Path) -> None:
    """Pieces at other ids are of another vocabulary."""
    other = theirs([*PIECES[:-2], "b", "a"])
    with pytest.raises(InvalidValueError, match=r"tokenizer\.model"):
        of_sentence_piece("m", file, TextTokenizer.from_transformers(other), other)


def test_sentencepiece_is_named_where_it_is_missing(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to install."""
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(MissingExtraError, match="pip install sentencepiece"):
        check_file("m", file)


def test_a_file_of_tiktoken_is_refused_by_name(tmp_path: Path) -> None:
    """It has ranks of byte strings, and no rule for words."""
    folder = tiny_llama(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_text("IQ== 0\nIg== 1\n")
    with pytest.raises(InvalidValueError, match=r"tokenizer\.model.*tiktoken.*tokenizer\.json"):
        load_text_model(str(folder))


def test_vocabulary_and_merges_need_a_class_that_splits(tmp_path: Path) -> None:
    """GPT-2's class reads them as its tokenizer.json; Llama's would leave all characters out."""
    folder = saved_model("gpt2", tmp_path / "model")
    right = load_text_model(str(folder)).tokenizer.ids("don't  stop\n12")
    stored = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(stored["vocab"]))
    (folder / "merges.txt").write_text(
        "".join(
            "{} {}\n".format(*(m if isinstance(m, list) else m.split())) for m in stored["merges"]
        )
    )
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    assert load_text_model(str(folder)).tokenizer.ids("don't  stop\n12") == right
    settings.write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    with pytest.raises(InvalidValueError, match=r"vocab\.json.*LlamaTokenizer"):
        load_text_model(str(folder))
