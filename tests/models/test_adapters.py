"""Adapters: merged weights against sums by hand, and everything that cannot be honoured."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    IA3Config,
    LoraConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    TrainableTokensConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from kullback.errors import InvalidValueError, MissingExtraError
from kullback.models.load import load_sized, load_text_model
from kullback.models.quantization import Scheme
from kullback.models.quantized_folder import save_quantised
from tiny_models import tiny_llama

INPUTS = torch.arange(40)[None]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the model that the adapters are of."""
    return tiny_llama(tmp_path_factory.mktemp("adapters") / "base")


@pytest.fixture(scope="module")
def lora(base: Path) -> Path:
    """Return the folder of a LoRA adapter, written by hand."""
    return lora_by_hand(base.parent / "lora", base)


def lora_by_hand(folder: Path, base: Path) -> Path:
    """Write an adapter of rank 4 and scale 2 of all queries and values, as peft does."""
    draw = torch.Generator().manual_seed(1)
    weights = {}
    for layer in range(2):
        for part in ("q_proj", "v_proj"):
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{part}"
            weights[f"{prefix}.lora_A.weight"] = torch.randn(4, 32, generator=draw) * 0.3
            weights[f"{prefix}.lora_B.weight"] = torch.randn(32, 4, generator=draw) * 0.3
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / "adapter_model.safetensors")
    configure(folder, peft_type="LORA", r=4, lora_alpha=8, task_type="CAUSAL_LM",
              target_modules=["q_proj", "v_proj"], base_model_name_or_path=str(base))  # fmt: skip
    return folder


def configure(folder: Path, **settings: object) -> None:
    """Change settings of an adapter's configuration."""
    path = folder / "adapter_config.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | settings))


def summed_by_hand(base: Path, lora: Path) -> Any:
    """Return the base with ``2·B·A`` added to its weights in float64."""
    model = AutoModelForCausalLM.from_pretrained(
        base, adapter_kwargs={"subfolder": "none"}
    ).double()
    weights = load_file(lora / "adapter_model.safetensors")
    for key, a in weights.items():
        if key.endswith("lora_A.weight"):
            b = weights[key.replace("lora_A", "lora_B")].double()
            name = key.removeprefix("base_model.model.").replace("lora_A.weight", "weight")
            model.get_parameter(name).data.add_(2 * b @ a.double())
    return model


def predicted(name: str | Path) -> torch.Tensor:
    """Return the logits of the model called `name`."""
    return load_sized(str(name)).model.predict(INPUTS).logits(slice(None)).double()


def test_an_adapter_alone_is_added_to_the_model_that_it_names(base: Path, lora: Path) -> None:
    """The logits are those of the sum by hand; name, notes and fingerprint say that it is there."""
    with torch.no_grad():
        expected = summed_by_hand(base, lora)(INPUTS).logits[0]
    torch.testing.assert_close(predicted(lora), expected, atol=1e-4, rtol=1e-4)
    assert (predicted(base) - expected).abs().max() > 0.1
    adapted, original = load_text_model(str(lora)), load_text_model(str(base))
    assert adapted.name == f"{base} + adapter {lora}"
    assert adapted.weights_fingerprint() != original.weights_fingerprint()
    assert any("LORA" in note and str(lora) in note for note in adapted.notes)


def test_an_adapter_beside_weights_is_applied(base: Path, lora: Path, tmp_path: Path) -> None:
    """The folder gives the numbers of the adapter, and its name says so."""
    both = shutil.copytree(base, tmp_path / "both")
    for file in lora.iterdir():
        shutil.copy(file, both)
    assert torch.equal(predicted(both), predicted(lora))
    assert load_text_model(str(both)).name == f"{both} + adapter {both}"


def test_an_adapter_beside_its_model_is_applied_once(
    base: Path, lora: Path, tmp_path: Path
) -> None:
    """An adapter alone is added to the weights that it names, not to what another made of them."""
    both = shutil.copytree(base, tmp_path / "both")
    for file in lora.iterdir():
        shutil.copy(file, both)
    alone = lora_by_hand(tmp_path / "alone", both)
    assert torch.equal(predicted(alone), predicted(lora))
    assert any("beside the weights" in note for note in load_text_model(str(alone)).notes)


def test_without_peft_the_package_is_named(
    base: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never a number without the adapter; a model without one needs no peft."""
    both = shutil.copytree(base, tmp_path / "both")
    for file in lora.iterdir():
        shutil.copy(file, both)
    monkeypatch.setitem(sys.modules, "peft", None)
    for folder in (lora, both):
        with pytest.raises(MissingExtraError, match=r"peft.*pip install 'kullback\[peft\]'"):
            load_text_model(str(folder))
    load_text_model(str(base))


def test_a_scheme_quantises_the_merged_weights(base: Path, lora: Path, tmp_path: Path) -> None:
    """``ADAPTER@int8`` and what quantise saves of it are one model."""
    saved = save_quantised(lora, Scheme.parse("int8"), tmp_path / "saved")
    assert torch.equal(predicted(f"{lora}@int8"), predicted(saved.folder))
    distance = [(predicted(saved.folder) - predicted(m)).abs().mean() for m in (lora, base)]
    assert distance[0] < distance[1] / 3


METHODS: dict[str, Any] = {
    "dora": LoraConfig(r=4, target_modules=["q_proj"], use_dora=True, init_lora_weights=False),
    "rslora": LoraConfig(r=4, target_modules=["q_proj"], use_rslora=True, init_lora_weights=False),
    "ranks": LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False,
                        rank_pattern={"v_proj": 2}, alpha_pattern={"q_proj": 32}),
    "modules to save": LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False,
                                  modules_to_save=["lm_head"]),
    "tied embedding": LoraConfig(r=4, target_modules=["embed_tokens"], init_lora_weights=False),
    "ia3": IA3Config(target_modules=["v_proj", "down_proj"], feedforward_modules=["down_proj"],
                     init_ia3_weights=False),
    "tokens": TrainableTokensConfig(token_indices=[1, 2, 3], init_weights=False),
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_methods_give_the_logits_that_peft_gives(method: str, base: Path, tmp_path: Path) -> None:
    """Merged or not, also where embedding and head of the model are tied."""
    folder = base
    if method in ("tied embedding", "tokens", "modules to save"):
        folder = shutil.copytree(base, tmp_path / "tied")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
        weights = load_file(folder / "model.safetensors")
        del weights["lm_head.weight"]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    torch.manual_seed(2)
    model = AutoModelForCausalLM.from_pretrained(folder)
    setting = METHODS[method]
    setting.task_type = "CAUSAL_LM"
    adapted = get_peft_model(model, setting).eval()
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if weight.requires_grad and not name.endswith("magnitude_vector.default.weight"):
                weight.add_(torch.randn_like(weight) * 0.05)
        expected = adapted(input_ids=INPUTS).logits[0].double()
    adapted.save_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(predicted(tmp_path / "adapter"), expected, atol=1e-3, rtol=1e-3)
    assert (predicted(folder) - expected).abs().max() > 1e-2


def test_added_tokens_bring_their_rows_and_their_tokenizer(base: Path, tmp_path: Path) -> None:
    """The embedding grows by the rows in the adapter's file; the tokenizer is the adapter's."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_pretrained(base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<new>"])
    model.resize_token_embeddings(len(tokenizer))
    whole = ["lm_head", "embed_tokens"]
    setting = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=whole,
                         init_lora_weights=False, task_type="CAUSAL_LM")  # fmt: skip
    adapted = get_peft_model(model, setting).eval()
    with torch.no_grad():
        expected = adapted(input_ids=INPUTS).logits[0].double()
    adapted.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    loaded = load_text_model(str(tmp_path / "adapter"))
    assert loaded.vocabulary_size == 257 == loaded.tokenizer.vocabulary_size
    torch.testing.assert_close(predicted(tmp_path / "adapter"), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    "setting",
    [PromptTuningConfig(num_virtual_tokens=4), PrefixTuningConfig(num_virtual_tokens=4)],
)
def test_prompts_are_refused_by_their_kind(setting: Any, base: Path, tmp_path: Path) -> None:
    """They add inputs before the text, which no measure of the text counts."""
    setting.task_type, setting.base_model_name_or_path = "CAUSAL_LM", str(base)
    setting.save_pretrained(tmp_path / "adapter")
    save_file({"a": torch.zeros(1)}, tmp_path / "adapter" / "adapter_model.safetensors")
    with pytest.raises(InvalidValueError, match=rf"{setting.peft_type.value}.*adds inputs"):
        load_text_model(str(tmp_path / "adapter"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_model_name_or_path": None}, "names no model"),
        ({"base_model_name_or_path": "./nowhere"}, "nowhere"),
        ({"peft_type": "NEW"}, "NEW.*upgrade peft"),
        ({"new_setting": 3}, "new_setting.*upgrade peft"),
        ({"task_type": "SEQ_CLS"}, "SEQ_CLS"),
        ({"target_modules": ["c_attn"]}, "does not fit.*c_attn"),
        ({"target_modules": ["q_proj", "v_proj", "o_proj"]}, "lacks .*o_proj"),
        ({"target_modules": ["q_proj"]}, "has .*v_proj"),
    ],
)
def test_what_peft_would_ignore_is_refused(
    settings: dict[str, object], message: str, base: Path, tmp_path: Path
) -> None:
    """Missing and left-over weights, unknown settings and other tasks are errors."""
    folder = lora_by_hand(tmp_path / "adapter", base)
    configure(folder, **settings)
    with pytest.raises(InvalidValueError, match=message):
        load_text_model(str(folder))


def test_an_adapter_without_weights_or_of_itself_is_refused(base: Path, tmp_path: Path) -> None:
    """A left-over adapter_config.json is named, and so is one that leads back to its folder."""
    folder = lora_by_hand(tmp_path / "adapter", base)
    configure(folder, base_model_name_or_path=str(folder))
    with pytest.raises(InvalidValueError, match="names itself"):
        load_text_model(str(folder))
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(InvalidValueError, match=r"adapter_config.json and no adapter_model"):
        load_text_model(str(folder))
