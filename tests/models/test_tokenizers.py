"""Tokenizers of loaded models: those of their files, whatever transformers makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, normalizers, processors
from transformers import AutoTokenizer, GPT2Config, LlamaConfig, Qwen2Config

from kullback.models._tokenizers import save_tokenizer, text_tokenizer, tokenizer_of_pair
from kullback.models.locate import Location
from kullback.models.quiet import no_steps, quiet_transformers
from kullback.text.tokenizer import TextTokenizer
from tiny_models import tiny_llama
from tiny_tokenizers import trained

HARD = "In 1990, 650841823 people;   37    1369 rows.\n\n\nI'm naïve."
CONFIGS = {"qwen2": Qwen2Config, "gpt2": GPT2Config, "llama": LlamaConfig}


def saved(folder: Path, tokenizer: Tokenizer, kind: str, **settings: object) -> Location:
    """A folder with a configuration and the files of a tokenizer, but no weights."""
    folder.mkdir(exist_ok=True)
    CONFIGS[kind](vocab_size=700).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<|endoftext|>", **settings})
    )
    return Location("mine", folder)


def loaded(location: Location) -> TextTokenizer:
    """The tokenizer as a model has it."""
    with quiet_transformers(no_steps):
        return text_tokenizer(location, AutoTokenizer.from_pretrained(location.source))


@pytest.mark.parametrize(
    ("kind", "class_name"),
    [
        ("qwen2", "PreTrainedTokenizerFast"),
        ("qwen2", "Qwen2Tokenizer"),
        ("gpt2", "GPT2Tokenizer"),
        ("llama", "LlamaTokenizer"),
        ("llama", "LlamaTokenizerFast"),
        ("llama", "GemmaTokenizer"),
        ("llama", "PreTrainedTokenizerFast"),
    ],
)
@pytest.mark.parametrize("settings", [{}, {"add_prefix_space": True, "legacy": False}])
def test_tokens_are_those_of_the_file(tmp_path, kind, class_name, settings):
    """Whatever class the configuration names, and a note says where transformers differs."""
    file = trained()
    location = saved(tmp_path / "m", file, kind, tokenizer_class=class_name, **settings)
    tokenizer = loaded(location)
    assert tokenizer.encode(HARD).ids.tolist() == file.encode(HARD).ids
    theirs = AutoTokenizer.from_pretrained(location.source)
    try:
        ids = theirs.encode(HARD, add_special_tokens=False)
    except Exception:  # the library's, where its class needs a token that the file lacks
        ids = []
    if ids != file.encode(HARD).ids:
        (note,) = tokenizer.notes
        assert "tokenizer.json" in note
        assert type(theirs).__name__ in note
        assert "mine" in note


def test_transformers_does_not_follow_the_file_of_a_qwen2(tmp_path):
    """The case for which the file is read: else the test above would prove nothing."""
    location = saved(tmp_path / "m", trained(), "qwen2", tokenizer_class="PreTrainedTokenizerFast")
    theirs = AutoTokenizer.from_pretrained(location.source)
    assert theirs.encode(HARD) != trained().encode(HARD).ids
    assert len(loaded(location).notes) == 1


def test_tokens_that_only_the_configuration_adds_are_kept(tmp_path):
    """Their ids follow those of the file."""
    added = {
        str(trained().get_vocab_size() + i): {"content": content, "special": True}
        for i, content in enumerate(["<|user|>", "<|tool|>"])
    }
    location = saved(
        tmp_path / "m", trained(), "qwen2",
        tokenizer_class="Qwen2Tokenizer", added_tokens_decoder=added,
    )  # fmt: skip
    tokenizer = loaded(location)
    assert {"<|user|>", "<|tool|>"} <= set(tokenizer.special_strings)
    (first, *_) = tokenizer.encode("<|user|>Hi", special_tokens="tokens").ids.tolist()
    assert str(first) in added


@pytest.mark.parametrize("in_file", [True, False])
@pytest.mark.parametrize("add_bos", [None, True, False])
def test_bos_is_what_the_file_does(tmp_path, in_file, add_bos):
    """A note says where the configuration says otherwise."""
    file = trained()
    file.add_special_tokens([AddedToken("<s>", special=True)])
    if in_file:
        file.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", file.token_to_id("<s>"))]
        )
    settings = {} if add_bos is None else {"add_bos_token": add_bos}
    location = saved(
        tmp_path / "m", file, "llama", tokenizer_class="LlamaTokenizer", bos_token="<s>", **settings
    )
    tokenizer = loaded(location)
    assert tokenizer.adds_bos == in_file
    assert tokenizer.bos_id == file.token_to_id("<s>")
    assert [note for note in tokenizer.notes if "add_bos_token" in note] == list(tokenizer.notes)
    assert len(tokenizer.notes) == (add_bos is not None and add_bos != in_file)


def test_dropout_of_a_tokenizer_reaches_no_number(tmp_path):
    """BPE dropout makes tokens random; they are those without it, and a note says so."""
    location = saved(
        tmp_path / "m", trained(dropout=0.5), "llama", tokenizer_class="PreTrainedTokenizerFast"
    )
    tokenizer = loaded(location)
    assert tokenizer.encode(HARD).ids.tolist() == trained().encode(HARD).ids
    (note,) = tokenizer.notes
    assert "dropout of 0.5" in note
    assert tokenizer.fingerprint == TextTokenizer(trained(), None, "<|endoftext|>").fingerprint


def test_the_files_of_a_tokenizer_are_copied_byte_for_byte(tmp_path):
    """What `quantise` writes has the tokenizer of its source, not what transformers makes of it."""
    location = saved(tmp_path / "m", trained(), "qwen2", tokenizer_class="PreTrainedTokenizerFast")
    (tmp_path / "copy").mkdir()
    save_tokenizer(location, AutoTokenizer.from_pretrained(location.source), tmp_path / "copy")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / "m" / name).read_bytes()


def test_the_tokenizer_of_a_pair_is_used_with_a_note(tmp_path):
    """Where it reads other tokens than the tokenizer.json that it was loaded from."""
    folder = tiny_llama(tmp_path / "m")
    theirs = AutoTokenizer.from_pretrained(folder)
    assert tokenizer_of_pair(theirs).notes == ()
    theirs.backend_tokenizer.normalizer = normalizers.Lowercase()
    (note,) = tokenizer_of_pair(theirs).notes
    assert "tokenizer.json" in note


def test_a_file_that_transformers_follows_is_made_into_one_tokenizer(tmp_path, monkeypatch):
    """The second takes a second where the vocabulary is large, and would be the same."""
    file = trained()
    file.post_processor = processors.TemplateProcessing(single="$A", pair="$A:0 $B:1")
    location = saved(tmp_path / "m", file, "llama", tokenizer_class="PreTrainedTokenizerFast")
    made = []
    init = TextTokenizer.__init__
    monkeypatch.setattr(
        TextTokenizer, "__init__", lambda self, *given: made.append(init(self, *given))
    )
    tokenizer = loaded(location)
    assert len(made) == 1
    assert tokenizer.encode(HARD).ids.tolist() == trained().encode(HARD).ids
