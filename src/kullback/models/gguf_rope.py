"""Rotary position embeddings of a GGUF file: base, scaling and frequency factors.

llama.cpp rotates pair i of a head at position p by the angle p·θᵢ/(s·fᵢ), θᵢ = base^(−2i/d), with
the factor s of linear scaling and the factors fᵢ of a tensor (Llama 3.1), and multiplies cosine and
sine by an attention factor.  transformers has no name for just that; its "longrope" (Ding et al.
2024) with the same factors for short and long texts is that formula.  YaRN (Peng et al. 2023) is
the same in both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from kullback.models.gguf_file import GGUFFile, Value

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

__all__ = ["FACTOR_TENSORS", "FREQUENCIES", "LONG", "SHORT", "set_rope"]

FREQUENCIES, LONG, SHORT = (
    "rope_freqs.weight",
    "rope_factors_long.weight",
    "rope_factors_short.weight",
)
FACTOR_TENSORS = (FREQUENCIES, LONG, SHORT)
DEFAULT_BASE = 10_000.0
# llama.cpp's, and transformers'.
BETA_FAST, BETA_SLOW = 32.0, 1.0
KNOWN = {
    "rope.dimension_count", "rope.dimension_sections", "rope.freq_base", "rope.freq_base_swa",
    "rope.scale_linear", "rope.scaling.type", "rope.scaling.factor", "rope.scaling.attn_factor",
    "rope.scaling.original_context_length", "rope.scaling.finetuned",
    "rope.scaling.yarn_log_multiplier", "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
}  # fmt: skip

NO_NUMBERS = ("rope.dimension_sections", "rope.scaling.type", "rope.scaling.finetuned")


def set_rope(
    file: GGUFFile, config: PreTrainedConfig, entries: Mapping[str, Value], head_width: int | None
) -> list[str]:
    """Put the rotation of the header into the configuration; the entries that it cannot have."""
    rotary = {key: value for key, value in entries.items() if key.startswith("rope.")}
    parameters = getattr(config, "rope_parameters", None)
    if not parameters or head_width is None:
        # A model without rotation; llama.cpp writes how many dimensions would be rotated.
        return [key for key in rotary if key != "rope.dimension_count"]
    refused = [
        key
        for key, value in rotary.items()
        if key not in KNOWN or (key not in NO_NUMBERS and not isinstance(value, int | float))
    ]
    if refused:
        return refused
    nested = {key: value for key, value in parameters.items() if isinstance(value, dict)}
    full = nested.get("full_attention") if nested else parameters
    if full is None:
        return [*rotary]
    full["rope_theta"] = _number(rotary, "rope.freq_base", DEFAULT_BASE)
    if "rope.freq_base_swa" in rotary:
        if "sliding_attention" not in nested:
            refused.append("rope.freq_base_swa")
        else:
            nested["sliding_attention"]["rope_theta"] = rotary["rope.freq_base_swa"]
    refused += _set_width(full, rotary, head_width)
    refused += _set_scaling(file, config, full, rotary)
    return refused


def _set_width(
    parameters: dict[str, Any], rotary: Mapping[str, Value], head_width: int
) -> list[str]:
    """How many dimensions of a head are rotated."""
    count = rotary.get("rope.dimension_count", head_width)
    part = parameters.get("partial_rotary_factor")
    if count == int(head_width * (1.0 if part is None else part)):
        return []
    if part is None or not isinstance(count, int) or not 0 < count <= head_width:
        return ["rope.dimension_count"]
    # transformers rounds the product down.
    parameters["partial_rotary_factor"] = math.nextafter(count / head_width, math.inf)
    return []


def _set_scaling(
    file: GGUFFile,
    config: PreTrainedConfig,
    parameters: dict[str, Any],
    rotary: Mapping[str, Value],
) -> list[str]:
    """The scaling of the angles, of each of llama.cpp's types."""
    kind = rotary.get("rope.scaling.type", "linear")
    factor = (
        _number(rotary, "rope.scaling.factor", _number(rotary, "rope.scale_linear", 1.0)) or 1.0
    )
    attention = _number(rotary, "rope.scaling.attn_factor", 1.0)
    context = int(
        _number(rotary, "rope.scaling.original_context_length", float(file.context_length or 0))
    )
    factors = {tensor.name: _values(file, tensor.name) for tensor in file.tensors
               if tensor.name in FACTOR_TENSORS}  # fmt: skip
    if None in factors.values():
        return ["rope.scaling.type"]
    # llama.cpp reads the multiplier for some architectures, and ignores it for others.
    neutrals = {"yarn_ext_factor": 1.0, "yarn_attn_factor": 1.0, "yarn_log_multiplier": 0.0}
    for key, neutral in neutrals.items():
        if kind == "yarn" and _number(rotary, f"rope.scaling.{key}", neutral) != neutral:
            return [f"rope.scaling.{key}"]
    if kind == "yarn":
        if factors:
            return ["rope.scaling.type"]
        parameters |= {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": context,
            "attention_factor": attention * _yarn_attention(factor),
            "beta_fast": _number(rotary, "rope.scaling.yarn_beta_fast", BETA_FAST),
            "beta_slow": _number(rotary, "rope.scaling.yarn_beta_slow", BETA_SLOW),
        }
        return []
    if kind not in ("none", "linear", "longrope"):
        return ["rope.scaling.type"]
    scale = 1.0 if kind == "none" else factor
    long, short = (factors.get(name, factors.get(FREQUENCIES)) for name in (LONG, SHORT))
    if (long is None) != (short is None) or (kind == "longrope" and long is None):
        return ["rope.scaling.type"]
    if long is None or short is None:
        if attention == 1.0:
            if scale != 1.0:
                parameters |= {"rope_type": "linear", "factor": scale}
            return []
        long = short = [1.0] * (int(rotary.get("rope.dimension_count", 0)) // 2)  # type: ignore[arg-type] # a number
    parameters |= {
        "rope_type": "longrope",
        "long_factor": [scale * value for value in long],
        "short_factor": [scale * value for value in short],
        "attention_factor": attention,
        "factor": 1.0,
        "original_max_position_embeddings": context,
    }
    if hasattr(config, "original_max_position_embeddings"):
        config.original_max_position_embeddings = context
    return []


def _yarn_attention(factor: float) -> float:
    """What YaRN multiplies cosine and sine by."""
    return 1.0 if factor <= 1 else 0.1 * math.log(factor) + 1.0


def _number(rotary: Mapping[str, Value], key: str, default: float) -> float:
    return float(rotary.get(key, default))  # type: ignore[arg-type] # `set_rope` has looked


def _values(file: GGUFFile, name: str) -> list[float] | None:
    """The numbers of a tensor in float32; None for another type."""
    tensor = next(tensor for tensor in file.tensors if tensor.name == name)
    if tensor.type != "F32":
        return None
    with file.parts[tensor.part].open("rb") as content:
        content.seek(tensor.offset)
        values: list[float] = np.frombuffer(content.read(tensor.size), "<f4").tolist()
    return values
