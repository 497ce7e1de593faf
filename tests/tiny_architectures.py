"""Tiny random models of many architectures of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tiny_models import tiny_llama

WIDE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
EXPERTS = WIDE | {"num_key_value_heads": 2, "num_experts_per_tok": 2}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": WIDE,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "mixtral": EXPERTS | {"num_local_experts": 4},
    "olmoe": EXPERTS | {"num_experts": 4},
    "qwen2_moe": EXPERTS
    | {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    "gpt_oss": EXPERTS | {"num_local_experts": 4, "head_dim": 16, "intermediate_size": 64},
    "gpt_neox": WIDE,
    "phi": WIDE,
    "gemma2": WIDE | {"num_key_value_heads": 2, "head_dim": 16},
    "opt": {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
            "word_embed_proj_dim": 32},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 16, "time_step_rank": 16},
}  # fmt: skip
# All matrices of these have a multiple of 16 columns.


def saved_model(kind: str, folder: Path) -> Path:
    """Save a random model of the architecture with the tokenizer of the tiny Llama."""
    tiny_llama(folder)
    for file in ("model.safetensors", "config.json", "generation_config.json"):
        (folder / file).unlink()
    torch.manual_seed(0)
    special = {f"{name}_token_id": None for name in ("bos", "eos", "pad")}
    config = AutoConfig.for_model(
        kind, vocab_size=256, initializer_range=0.2, **special, **ARCHITECTURES[kind]
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder
