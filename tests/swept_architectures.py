"""Tiny random causal language models of transformers, by the name of their architecture."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCABULARY, WINDOW = 256, 48

# What a configuration is given of these: the names that it has.
TINY: dict[str, Any] = {
    "vocab_size": VOCABULARY, "vocab_size_per_layer_input": VOCABULARY, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": WINDOW, "max_seq_len": WINDOW,
    "hidden_size": 32, "d_model": 32, "embedding_size": 32, "word_embed_proj_dim": 32,
    "lru_width": 32, "hidden_size_per_layer_input": 8, "intermediate_size": 64, "ffn_dim": 64,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "num_heads": 4,
    "head_dim": 8, "rotary_dim": 8, "v_head_dim": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
    "q_lora_rank": 16, "kv_lora_rank": 16, "sliding_window": 16, "attention_window_size": 16,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "n_shared_experts": 1,
    "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "mamba_d_state": 8,
    "mamba_expand": 2, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1,
    "state_size": 8, "linear_num_value_heads": 4, "linear_num_key_heads": 2,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "is_decoder": True,
    "initializer_range": 0.15,
}  # fmt: skip

# As many heads of keys as of queries, whose width is that of its two parts.
_LATENT = {"num_key_value_heads": 4, "head_dim": None}
# None leaves out what the architecture computes from other sizes.
OVERRIDES: dict[str, dict[str, Any]] = {
    "axk1": _LATENT,
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "deepseek_v32": _LATENT,
    "dots3_note_text": {"num_key_value_heads": 4},
    "falcon": {"head_dim": None},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "glm4_moe_lite": _LATENT,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "lfm2_moe": {"num_dense_layers": 1, "layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8},
    "minicpm3": _LATENT,
    "youtu": {"num_key_value_heads": 4},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"]},
    "zaya": {"num_experts_per_tok": 1},
}

FAST = (
    "bloom", "cohere", "gemma2", "gpt2", "gpt_neox", "llama", "mamba", "mixtral", "opt", "phi3",
    "qwen2", "qwen3_moe",
)  # fmt: skip

SLOW = (
    "afmoe", "apertus", "arcee", "aria_text", "axk1", "bailing_hybrid", "bamba", "biogpt", "bitnet",
    "codegen", "cohere2", "cohere2_moe", "ctrl", "cwm", "deepseek_v2", "deepseek_v3",
    "deepseek_v32", "deepseek_v4", "diffllama", "doge", "dots1", "dots3_note_text", "ernie4_5",
    "ernie4_5_moe", "exaone4", "exaone_moe", "falcon", "falcon_h1", "falcon_mamba", "flex_olmo",
    "gemma", "gemma3_text", "gemma3n_text", "gemma4_text", "glm", "glm4", "glm4_moe",
    "glm4_moe_lite", "gpt_bigcode", "gpt_neo", "gpt_oss", "gptj", "granite", "granitemoe",
    "granitemoehybrid", "granitemoeshared", "helium", "hunyuan_v1_dense", "hunyuan_v1_moe",
    "internlm3", "jamba", "jetmoe", "lfm2", "lfm2_moe", "llama4_text", "mamba2", "mimo_v2_flash",
    "minicpm3", "minimax", "minimax_m2", "ministral", "ministral3", "mistral", "modernbert-decoder",
    "mpt", "nanochat", "nemotron", "nemotron_h", "olmo", "olmo2", "olmo3", "olmo_hybrid", "olmoe",
    "openai-gpt", "persimmon", "phi", "phimoe", "qwen2_moe", "qwen3", "qwen3_5_moe_text",
    "qwen3_5_text", "qwen3_next", "recurrent_gemma", "rwkv", "seed_oss", "smollm3", "solar_open",
    "stablelm", "starcoder2", "vaultgemma", "xglm", "youtu", "zamba2", "zaya",
)  # fmt: skip

# Why others are in neither list.
LEFT_OUT = {
    "blt": "its patches are made by a second model, of sizes of its own: 4.6 billion weights",
    "cpmant": "not causal: it is refused, and says so",
    "dbrx": "the released transformers cannot build it: its attention has no rope_theta",
    "emu3, fuyu, gemma3, gemma3n, gemma4, llama4, mllama, qwen3_5, qwen3_5_moe": (
        "wrappers of a text model, which is in the lists under its own name"
    ),
    "git, got_ocr2, phi4_multimodal, moss_transcribe_diarize": "the image or sound part is large",
    "kimi_linear": "builds 3 million weights whatever it is given, which takes 17 seconds",
    "longcat_flash": "its rotary width is not that of its configuration when it is tiny",
    "reformer, xlnet": "no plain forward pass over a window of any length",
    "xlm": "not causal with the released attention: it is refused, and says so",
    "xlstm": "its widths are properties that cannot be set",
    "xmod": "needs a language to be chosen",
    "zamba": "its shared layers cannot be tied in a model of so few",
    "bert, roberta and their kin": "encoders; as decoders they are not what people measure",
    "bart, marian, pegasus and their kin": "decoders of encoder-decoder models",
}


def tiny(architecture: str) -> PreTrainedModel:
    """Return the model with random weights, the same every time, in float32."""
    default = AutoConfig.for_model(architecture)
    names, aliases = default.to_dict(), type(default).attribute_map
    known = {name: value for name, value in TINY.items() if aliases.get(name, name) in names}
    known |= OVERRIDES.get(architecture, {})
    options = {name: value for name, value in known.items() if value is not None}
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **options)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model.float().train(False)
