"""What is wrong with a model that only loading it tells."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from kullback.cli import main
from kullback.errors import InvalidValueError, MissingExtraError
from kullback.models.load import load_text_model
from tiny_models import TEXT, gguf_header, tiny_llama


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Hugging Face folder with a tiny Llama."""
    return tiny_llama(tmp_path / "tiny")


def edit(path: Path, **changes: object) -> None:
    """Change what a JSON file says."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def message_of(name: Path | str, **options: bool) -> str:
    """The one sentence that the failure to load gives."""
    with pytest.raises(InvalidValueError) as caught:
        load_text_model(str(name), **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith((f"the model {name} ", f"{name}/config.json "))
    return message


def test_an_unknown_architecture_is_named(folder: Path) -> None:
    """A model type that transformers lacks gives one sentence, with how to update it."""
    edit(folder / "config.json", model_type="zork")
    message = message_of(folder)
    assert "zork" in message
    assert "pip install --upgrade transformers" in message


def test_a_config_without_a_type_is_named(folder: Path) -> None:
    """A config.json of something else is no model."""
    (folder / "config.json").write_text("{}")
    assert "no config.json that names a model_type" in message_of(folder)


def test_an_encoder_decoder_is_refused(folder: Path) -> None:
    """T5 has no causal language model."""
    edit(folder / "config.json", model_type="t5")
    assert "is not a causal language model" in message_of(folder)


def test_code_in_a_model_is_not_run_unless_asked(folder: Path, tmp_path: Path) -> None:
    """The refusal names the flag, and the code has not run; with the flag it runs."""
    ran = tmp_path / "ran"
    (folder / "conf.py").write_text(
        f"open({str(ran)!r}, 'w').close()\n"
        "from transformers import LlamaConfig\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
    )
    edit(folder / "config.json", model_type="own", auto_map={"AutoConfig": "conf.OwnConfig"})
    assert "add --trust-remote-code" in message_of(folder)
    assert not ran.exists()
    message_of(folder, trust_remote_code=True)
    assert ran.exists()


def test_code_for_the_model_alone_is_not_run_unless_asked(folder: Path) -> None:
    """A known type of configuration may come with the code of a model."""
    edit(
        folder / "config.json", model_type="t5", auto_map={"AutoModelForCausalLM": "model.OwnModel"}
    )
    assert "add --trust-remote-code" in message_of(folder)


def test_code_for_the_tokenizer_is_not_run_unless_asked(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a tokenizer with code of its own fails, the refusal names the flag."""

    def refuse(*arguments: object, **options: object) -> None:
        raise ValueError("no")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", refuse)
    assert "no tokenizer that can be read (no)" in message_of(folder)
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokens.Own", None]})
    assert "add --trust-remote-code" in message_of(folder)
    assert "no tokenizer that can be read (no)" in message_of(folder, trust_remote_code=True)


def test_a_missing_tensor_is_named(folder: Path) -> None:
    """A weight that is not in the file is an error, where transformers would make one up."""
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    message = message_of(folder)
    assert "lacks 1 of its weights" in message
    assert "model.layers.1.mlp.up_proj.weight" in message


def test_weights_that_the_config_has_no_place_for_are_noted(folder: Path) -> None:
    """A config.json of fewer layers than the file: the note counts what is left out."""
    assert load_text_model(str(folder)).notes == ()
    edit(folder / "config.json", num_hidden_layers=1)
    (note,) = load_text_model(str(folder)).notes
    assert "9 of the weights" in note
    assert "model.layers.1.input_layernorm.weight" in note


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_reported_where_the_text_meets_them(
    folder: Path, value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence about the logits, not about causality, and exit code 2."""
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    text = folder.parent / "text.txt"
    text.write_text(TEXT)
    assert main(["evaluate", str(folder), "--text", str(text)]) == 2
    lines = capsys.readouterr().err.splitlines()
    (line,) = [line for line in lines if line.startswith("kullback: ")]
    assert line == lines[-1]
    assert all(name in line for name in ("row 0 of the predictions", "logits"))


def test_a_tensor_of_another_shape_is_named(folder: Path) -> None:
    """Weights that do not fit the config are refused, with both shapes of the first."""
    edit(folder / "config.json", intermediate_size=40)
    message = message_of(folder)
    assert "other shapes than its config.json" in message
    assert "model.layers.0.mlp.down_proj.weight, (32, 64) instead of (32, 40)" in message


def test_truncated_weights_are_damaged(folder: Path) -> None:
    """A file cut short is an error."""
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])
    assert "its weights seem missing or damaged (" in message_of(folder)


def test_a_damaged_configuration(folder: Path) -> None:
    """What cannot be the size of a model, and what transformers cannot make a configuration of."""
    edit(folder / "config.json", num_attention_heads="four")
    assert "is damaged: num_attention_heads is 'four'" in message_of(folder)
    edit(folder / "config.json", num_attention_heads=4, rms_norm_eps="tiny")
    assert "its configuration made transformers raise" in message_of(folder)


def test_an_empty_tokenizer_file_lacks_something(folder: Path) -> None:
    """A bare KeyError becomes a sentence."""
    (folder / "tokenizer.json").write_text("{}")
    assert "('added_tokens' is missing)" in message_of(folder)


def test_a_tokenizer_of_another_model_is_refused_where_a_text_needs_it(folder: Path) -> None:
    """More ids than the model has columns: a note names both, an error the token."""
    small = folder.parent / "small"
    config = LlamaConfig.from_pretrained(folder)
    config.vocab_size = 200
    LlamaForCausalLM(config).save_pretrained(small)
    for path in folder.glob("tokenizer*"):
        shutil.copy(path, small)
    model = load_text_model(str(small))
    assert any("256 ids and the model 200" in note for note in model.notes)
    # The id of a space is 220 in this tokenizer.
    assert len(model.tokenizer.encode("atext")) == 5
    with pytest.raises(InvalidValueError, match=r"has 200 of them: they do not belong together"):
        model.tokenizer.encode("a text")


def test_a_damaged_gguf_file_is_one_sentence(tmp_path: Path) -> None:
    """A header cut short."""
    path = gguf_header(tmp_path / "model.gguf", "llama")
    path.write_bytes(path.read_bytes()[:40])
    assert "damaged" in message_of(path)


def test_an_unknown_architecture_of_a_gguf_file_is_named(tmp_path: Path) -> None:
    """What llama.cpp knows and transformers does not."""
    message = message_of(f"{gguf_header(tmp_path / 'model.gguf', 'zork')}@transformers")
    assert "zork" in message
    assert "kullback[gguf]" in message


@pytest.mark.parametrize("library", ["transformers", "gguf"])
def test_a_missing_library_is_named(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without transformers, or gguf for such a file, the error says what to install."""
    path = gguf_header(tmp_path / "model.gguf", "llama")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=rf"{library}: pip install 'kullback\[hf\]'"):
        load_text_model(f"{path}@transformers")
