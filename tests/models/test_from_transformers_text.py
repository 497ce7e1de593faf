"""Models that read more than text: their text models are measured."""

from __future__ import annotations

import pytest
import torch
import transformers as hf

import kullback
from kullback.models.load import load_sized
from kullback.models.quantization import Scheme
from kullback.models.quantized_folder import save_quantised
from kullback.models.weight_matrices import unquantised_weights, weight_matrices
from kullback.text.documents import Document
from tiny_folders import SIZES, VOCABULARY_SIZE, plain_nll, saved
from tiny_models import TEXT

V = VOCABULARY_SIZE
VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
QWEN_VISION = {
    "depth": 1, "hidden_size": 16, "intermediate_size": 16, "out_hidden_size": 32, "num_heads": 2,
    "patch_size": 14,
}  # fmt: skip
QWEN_TEXT = {
    **SIZES,
    "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4},
}
QWEN_IDS = {
    "image_token_id": V - 1, "video_token_id": V - 2, "vision_start_token_id": V - 3,
    "vision_end_token_id": V - 4,
}  # fmt: skip


def wrapper(name: str) -> hf.PreTrainedModel:
    """A random model that reads text and images."""
    torch.manual_seed(0)
    configs = {
        "Gemma3": lambda: {
            "text_config": hf.Gemma3TextConfig(**SIZES, sliding_window=16),
            "vision_config": hf.SiglipVisionConfig(**VISION),
            "mm_tokens_per_image": 1,
        },
        "Mistral3": lambda: {
            "text_config": hf.MistralConfig(**SIZES),
            "vision_config": hf.PixtralVisionConfig(**VISION, head_dim=8),
            "image_token_index": V - 1,
        },
        "Llava": lambda: {
            "text_config": hf.LlamaConfig(**SIZES),
            "vision_config": hf.CLIPVisionConfig(**VISION),
            "image_token_index": V - 1,
        },
        "Qwen2VL": lambda: {
            "text_config": QWEN_TEXT,
            "vision_config": {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2},
            **QWEN_IDS,
        },
        "Qwen2_5_VL": lambda: {
            "text_config": QWEN_TEXT, "vision_config": QWEN_VISION, **QWEN_IDS
        },
        "Qwen3VL": lambda: {
            "text_config": QWEN_TEXT,
            "vision_config": {**QWEN_VISION, "deepstack_visual_indexes": [0]},
            **QWEN_IDS,
        },
    }  # fmt: skip
    config = getattr(hf, f"{name}Config")(**configs[name]())
    return getattr(hf, f"{name}ForConditionalGeneration")(config)


@pytest.mark.parametrize(
    "name",
    [
        "Gemma3",
        "Mistral3",
        "Llava",
        pytest.param("Qwen2VL", marks=pytest.mark.slow),
        pytest.param("Qwen2_5_VL", marks=pytest.mark.slow),
        pytest.param("Qwen3VL", marks=pytest.mark.slow),
    ],
)
def test_the_text_model_of_a_wrapper_is_measured(tmp_path, name):
    """With the nll that the whole model gives for text alone, and a note."""
    model = wrapper(name)
    folder = saved(model, tmp_path / "m")
    result = kullback.evaluate(folder, Document("text", TEXT))
    assert result.measures["cross_entropy"].value == pytest.approx(plain_nll(model), abs=1e-6)
    assert any(type(model).__name__ in note and "text alone" in note for note in result.notes)


def test_a_llava_predicts_as_its_text_model_alone(tmp_path):
    """The same weights in a Llama."""
    model = wrapper("Llava").eval()
    alone = hf.LlamaForCausalLM(model.config.text_config).eval()
    alone.model.load_state_dict(model.model.language_model.state_dict())
    alone.lm_head.load_state_dict(model.lm_head.state_dict())
    assert plain_nll(alone) == pytest.approx(plain_nll(model), abs=1e-9)


@pytest.mark.parametrize("name", ["Gemma3", "Mistral3", "Llava", "Qwen2VL", "Qwen2_5_VL"])
def test_only_the_text_model_of_a_wrapper_is_quantised(name):
    """All its layers, none of the part that reads images; the rest is listed with its share."""
    model = wrapper(name)
    quantised = {weight.parameter for weight in weight_matrices(model)}
    text = model.model.language_model
    expected = {
        f"model.language_model.{layer}.weight"
        for layer, module in text.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    assert quantised == expected
    left = unquantised_weights(model)
    assert any("vis" in entry.name for entry in left)
    numbers = sum(model.get_parameter(name).numel() for name in quantised)
    whole = sum(parameter.numel() for parameter in model.parameters())
    assert sum(entry.share for entry in left) == pytest.approx(1 - numbers / whole)


def test_a_quantised_wrapper_is_saved_as_it_is_measured(tmp_path):
    """``MODEL@SCHEME`` and the folder of `quantise` predict the same."""
    folder = saved(wrapper("Llava"), tmp_path / "m")
    made = save_quantised(folder, Scheme.parse("int8"), tmp_path / "q")
    ids = torch.arange(1, 21)[None]
    live, stored, original = (
        load_sized(name).model.predict(ids).logits(slice(None))
        for name in (f"{folder}@int8", made.folder, folder)
    )
    assert torch.equal(live, stored)
    assert not torch.equal(live, original)
