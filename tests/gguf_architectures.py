"""GGUF files of tiny random models, with weights stored as llama.cpp's converter stores them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from gguf_files import Value, add_byte_level, add_entry, sizes_of, write_file

WIDTH, HEADS, CONTEXT = 32, 4, 64
SIZES = {
    "vocab_size": 257, "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": HEADS, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT,
    "initializer_range": 0.3, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip


def tiny(kind: str, **changes: Any) -> transformers.PreTrainedModel:
    """A random model of `kind`, such as "Llama", without a weight that is 0 or 1."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SIZES | changes)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for name, weight in model.named_parameters():
        if any(part in name for part in ("norm", "ln_")):
            torch.nn.init.normal_(weight, mean=weight.mean().item(), std=0.1)
        elif name.endswith("bias"):
            torch.nn.init.normal_(weight, std=0.1)
    return model


def byte_tokenizer() -> Tokenizer:
    """A token a byte, and one of two."""
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, [("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def stored_as_it_is(name: str, weight: Tensor) -> Tensor:
    """Return what the file has for the weight `name`."""
    return weight


def of_bloom(name: str, weight: Tensor) -> Tensor:
    """Queries, keys and values of all heads, in place of those of each head."""
    if "query_key_value" not in name:
        return weight
    width = WIDTH // HEADS
    parts = weight.reshape(HEADS, 3, width, *weight.shape[1:]).transpose(0, 1)
    return parts.reshape(weight.shape)


def of_gpt2(name: str, weight: Tensor) -> Tensor:
    """The matrices of `Conv1D` are transposed."""
    return (
        weight.T if name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")) else weight
    )


def of_mamba(name: str, weight: Tensor) -> Tensor:
    """The state matrix instead of its logarithm, and the convolution without its middle axis."""
    if name.endswith("A_log"):
        return -torch.exp(weight)
    return weight.squeeze(1) if name.endswith("conv1d.weight") else weight


def of_lfm2(name: str, weight: Tensor) -> Tensor:
    """The convolution without its middle axis."""
    return weight.squeeze(1) if name.endswith("conv.conv.weight") else weight


def of_qwen_moe(name: str, weight: Tensor) -> Tensor:
    """The gate of the shared expert as a vector."""
    return weight.reshape(-1) if name.endswith("shared_expert_gate.weight") else weight


def common(epsilon: float, **entries: Value) -> dict[str, Value]:
    """The entries of older models, with those of `entries`."""
    sizes: dict[str, Value] = {
        "context_length": CONTEXT, "embedding_length": WIDTH, "block_count": 2, "vocab_size": 257,
        "feed_forward_length": 4 * WIDTH, "attention.head_count": HEADS,
        "attention.layer_norm_epsilon": epsilon,
    }  # fmt: skip
    return sizes | entries


HEAD_16: dict[str, Value] = {"attention.key_length": 16, "attention.value_length": 16}
HEAD_8: dict[str, Value] = {"attention.key_length": 8, "attention.value_length": 8}
EXPERTS: dict[str, Value] = {
    "expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 16,
}  # fmt: skip
FEW_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
NEOX = {"attention.layer_norm_epsilon": 1e-5}

Maker = tuple[
    Callable[[], transformers.PreTrainedModel],
    Mapping[str, Value],
    Callable[[str, Tensor], Tensor],
]
#: By name: the architecture in the file, and how it is made.
MADE: dict[str, tuple[str, Maker]] = {
    "falcon": ("falcon", (
        partial(tiny, "Falcon", multi_query=True, parallel_attn=True, bias=False, alibi=False,
                new_decoder_architecture=False, ffn_hidden_size=4 * WIDTH),
        common(1e-5, **{"attention.head_count_kv": 1, "rope.freq_base": 10_000.0}),
        stored_as_it_is)),
    "bloom": ("bloom", (partial(tiny, "Bloom", n_layer=2, n_head=HEADS),
                        common(1e-5, **{"attention.head_count_kv": HEADS}), of_bloom)),
    "gpt2": ("gpt2", (partial(tiny, "GPT2", n_embd=WIDTH, n_layer=2, n_head=HEADS,
                              n_positions=CONTEXT), common(1e-5), of_gpt2)),
    "mamba": ("mamba", (
        partial(tiny, "Mamba", state_size=16, time_step_rank=4, expand=2, intermediate_size=64),
        {"context_length": CONTEXT, "embedding_length": WIDTH, "block_count": 2,
         "vocab_size": 257, "feed_forward_length": 0, "attention.head_count": 0,
         "ssm.conv_kernel": 4, "ssm.inner_size": 64, "ssm.state_size": 16,
         "ssm.time_step_rank": 4, "ssm.dt_b_c_rms": False,
         "attention.layer_norm_rms_epsilon": 1e-5}, of_mamba)),
    "qwen2_moe": ("qwen2moe", (
        partial(tiny, "Qwen2Moe", **FEW_EXPERTS, shared_expert_intermediate_size=24),
        EXPERTS | {"expert_shared_feed_forward_length": 24}, of_qwen_moe)),
    "qwen3_moe": ("qwen3moe", (
        partial(tiny, "Qwen3Moe", **FEW_EXPERTS, norm_topk_prob=True, head_dim=8),
        EXPERTS | HEAD_8, of_qwen_moe)),
    "lfm2": ("lfm2", (
        partial(tiny, "Lfm2", layer_types=["conv", "full_attention"],
                block_auto_adjust_ff_dim=False),
        {"shortconv.l_cache": 3, "attention.layer_norm_rms_epsilon": 1e-5,
         "attention.head_count_kv": [0, 2]}, of_lfm2)),
    "phi3": ("phi3", (partial(tiny, "Phi3"), {}, stored_as_it_is)),
    "gemma2": ("gemma2", (
        partial(tiny, "Gemma2", head_dim=16, query_pre_attn_scalar=16, sliding_window=5),
        HEAD_16 | {"attention.sliding_window": 5, "attn_logit_softcapping": 50.0,
                   "final_logit_softcapping": 30.0}, stored_as_it_is)),
    "gemma3": ("gemma3", (
        partial(tiny, "Gemma3Text", head_dim=16, query_pre_attn_scalar=16, sliding_window=5,
                num_hidden_layers=7),
        HEAD_16 | {"attention.sliding_window": 5}, stored_as_it_is)),
    "starcoder2": ("starcoder2", (partial(tiny, "Starcoder2"), NEOX, stored_as_it_is)),
    "stablelm": ("stablelm", (
        partial(tiny, "StableLm", use_qkv_bias=True),
        NEOX | {"use_parallel_residual": False, "rope.dimension_count": 2,
                "rope.freq_base": 10_000.0}, stored_as_it_is)),
    "nemotron": ("nemotron", (partial(tiny, "Nemotron"), NEOX | {"rope.dimension_count": 4},
                              stored_as_it_is)),
    "qwen2": ("qwen2", (partial(tiny, "Qwen2"), {}, stored_as_it_is)),
    "qwen3": ("qwen3", (partial(tiny, "Qwen3", head_dim=8), HEAD_8, stored_as_it_is)),
}  # fmt: skip


def made(name: str, path: Path) -> tuple[transformers.PreTrainedModel, Path]:
    """A model of the kind `name`, and its file."""
    architecture, (make, entries, stored) = MADE[name]
    model = make()
    writer = gguf.GGUFWriter(path, architecture)
    sizes = {} if "vocab_size" in entries else sizes_of(model)
    for key, value in {**sizes, **entries}.items():
        add_entry(writer, f"{architecture}.{key}", value)
    add_byte_level(writer, byte_tokenizer(), 257, set())
    kind = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture)
    names = gguf.get_tensor_name_map(kind, model.config.num_hidden_layers)
    norm = float(architecture.startswith(("gemma", "nemotron")))  # which is less 1 in transformers
    for key, weight in model.state_dict().items():
        if key == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        for tensor, values in experts_of(key, weight).items():
            writer.add_tensor(tensor, values)
        if ".experts." in key:
            continue
        values = stored(key, weight).contiguous().numpy()
        tensor = file_name(names, key)
        writer.add_tensor(tensor, values + norm if tensor.endswith("norm.weight") else values)
    return model, write_file(writer, path)


def experts_of(name: str, weight: Tensor) -> dict[str, np.ndarray]:
    """The tensors of the file for experts that are one parameter; none for other weights."""
    layer = f"blk.{name.split('.')[2]}" if ".experts." in name else ""
    if name.endswith("experts.gate_up_proj"):
        gate, up = (part.contiguous().numpy() for part in weight.chunk(2, dim=1))
        return {f"{layer}.ffn_gate_exps.weight": gate, f"{layer}.ffn_up_exps.weight": up}
    if name.endswith("experts.down_proj"):
        return {f"{layer}.ffn_down_exps.weight": weight.numpy()}
    return {}


def file_name(names: gguf.TensorNameMap, name: str) -> str:
    """The name in the file of a weight of transformers."""
    for key in (name, name.removeprefix("transformer.")):
        stored = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if stored is not None:
            return stored
    layer, end = name.split(".")[2], "ssm_a" if name.endswith("A_log") else "ffn_gate_inp.weight"
    return f"blk.{layer}.{end}"
