"""The header of a GGUF file against the configuration that transformers makes of it.

transformers reads a part of the entries, and leaves the rest at the defaults of the architecture,
silently.  Here every entry that describes the model is either found in the configuration, or
put into it before the weights are loaded, or known not to change a forward pass, or refused by
name.  What llama.cpp takes where an entry is missing is put in, too.  Entries of other names
(general., tokenizer., quantize., split., those of converters) do not describe the model; the
tokenizer is read in `kullback.models.gguf_tokenizer`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kullback.errors import InvalidValueError
from kullback.models.gguf_file import GGUFFile, Value
from kullback.models.gguf_rope import set_rope
from kullback.models.gguf_token_types import REMEDY

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

__all__ = ["apply_header", "check_types"]

# By entry, the names that the configurations of transformers have for it.
NAMES: Mapping[str, tuple[str, ...]] = {
    "vocab_size": ("vocab_size",),
    "context_length": ("max_position_embeddings", "n_positions"),
    "embedding_length": ("hidden_size",),
    "block_count": ("num_hidden_layers",),
    "feed_forward_length": ("intermediate_size", "n_inner", "ffn_hidden_size"),
    "attention.head_count": ("num_attention_heads",),
    "attention.head_count_kv": ("num_key_value_heads", "num_kv_heads"),
    "attention.layer_norm_rms_epsilon": (
        "rms_norm_eps", "norm_eps", "norm_epsilon", "layer_norm_epsilon", "layer_norm_eps",
    ),
    "attention.layer_norm_epsilon": (
        "layer_norm_epsilon", "layer_norm_eps", "norm_epsilon", "norm_eps",
    ),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "use_parallel_residual": ("use_parallel_residual",),
    "expert_count": ("num_experts", "num_local_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "expert_feed_forward_length": ("moe_intermediate_size",),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
    "expert_weights_norm": ("norm_topk_prob",),
    "expert_weights_scale": ("routed_scaling_factor",),
    "full_attention_interval": ("full_attention_interval",),
    "shortconv.l_cache": ("conv_L_cache",),
    "ssm.conv_kernel": ("conv_kernel", "linear_conv_kernel_dim"),
    "ssm.state_size": ("state_size", "linear_key_head_dim"),
    "ssm.time_step_rank": ("time_step_rank", "linear_num_value_heads"),
    "ssm.group_count": ("linear_num_key_heads",),
}  # fmt: skip
# Values that leave the model as it is where no configuration has a name for them.
NEUTRAL: Mapping[str, tuple[Value, ...]] = {
    "feed_forward_length": (0,),
    "attention.head_count": (0,),
    "attention.head_count_kv": (0,),
    "attention.causal": (True,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attn_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "embedding_scale": (0, 1),
    "residual_scale": (0, 1),
    "logit_scale": (0, 1),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "expert_shared_count": (0,),
    "expert_weights_scale": (0, 1),
    "expert_weights_norm": (False,),
    "expert_gating_func": (0, 1),  # softmax
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "leading_dense_block_count": (0,),
    "interleave_moe_layer_step": (0, 1),
    "moe_every_n_layers": (0, 1),
    "nextn_predict_layers": (0,),
    "ssm.dt_b_c_rms": (False,),
}
# Without which llama.cpp reads no model that has them, where the configuration has a name for them.
REQUIRED = (
    "context_length", "embedding_length", "block_count", "attention.head_count", "expert_count",
    "expert_used_count", "shortconv.l_cache", "ssm.conv_kernel", "ssm.state_size",
    "ssm.time_step_rank", "ssm.group_count",
)  # fmt: skip
RMS_EPSILON, EPSILON = "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"
# Whose norms subtract the mean.
LAYER_NORMS = ("bloom", "falcon", "gpt2", "nemotron", "stablelm", "starcoder2")
# Of the file's history, of embeddings, or of the vocabulary.
IRRELEVANT = ("tensor_data_layout", "pooling_type")
# Which transformers reads where they differ from layer to layer.
ARRAYS = (("lfm2", "attention.head_count_kv"),)
# Whose layers attend to a window in llama.cpp, too.
SLIDING = ("gemma2", "gemma3", "gpt-oss")
# The layers of the models of Gemma that scale attention by the width over the heads.
GEMMA_27B = {"gemma2": 46, "gemma3": 62}
# float32 in the file.
TOLERANCE = 1e-6
# GPT-2's and Bloom's, whose configurations may name no inner width.
INNER_WIDTHS = 4


def check_types(file: GGUFFile) -> None:
    """Raise `InvalidValueError` for entries that transformers would take for one number.

    They are different for each layer, or damaged.
    """
    for key in (*NAMES, "attention.key_length", "attention.value_length"):
        value = file.of_model(key)
        if value is None or isinstance(value, int | float) or (file.architecture, key) in ARRAYS:
            continue
        raise _refusal(file, key, [key])


def apply_header(file: GGUFFile, config: PreTrainedConfig) -> None:
    """Bring the configuration in line with the header, for the weights that are loaded next.

    Raises `InvalidValueError` naming an entry that transformers cannot apply.
    """
    prefix = f"{file.architecture}."
    entries = {
        key.removeprefix(prefix): value
        for key, value in file.metadata.items()
        if key.startswith(prefix)
    }
    header = _Header(file, config, entries)
    header.check_complete()
    refused = [key for key in entries if not header.honours(key)]
    refused += header.complete()
    if refused:
        raise _refusal(file, refused[0], refused)


def _refusal(file: GGUFFile, key: str, refused: Sequence[str]) -> InvalidValueError:
    """The sentence about the entry `key`, one of those that are refused."""
    value = file.of_model(key)
    has = "lacks" if value is None else "has"
    shown = "" if value is None else f" = {repr(value)[:60]}"
    more = f" (and {len(refused) - 1} more entries)" if len(refused) > 1 else ""
    return InvalidValueError(
        f"the model {file.name} {has} {file.architecture}.{key}{shown}{more} in its header, which "
        f"transformers does not apply: {REMEDY}"
    )


class _Header:
    """The entries that describe a model, and the configuration that they are applied to."""

    def __init__(
        self, file: GGUFFile, config: PreTrainedConfig, entries: Mapping[str, Value]
    ) -> None:
        self.file, self.entries = file, entries
        # The attributes are those of the class, which are many.
        self.config: Any = config
        self.fields = type(config)().to_dict()
        self.special: Mapping[str, Callable[[Any], bool]] = {
            "block_count": self._layers,
            "feed_forward_length": self._inner_width,
            "attention.key_length": self._head_width,
            "attention.value_length": lambda value: value == self.head_width,
            "attention.scale": self._attention_scale,
            "attention.sliding_window": self._sliding_window,
            "attention.sliding_window_pattern": self._sliding_pattern,
            "ssm.inner_size": self._inner_size,
            "expert_gating_func": self._gating,
            "nextn_predict_layers": lambda value: value == 0 or self._is_of("qwen35", "qwen35moe"),
            "rope.dimension_sections": lambda value: self._is_of("qwen35", "qwen35moe"),
        }

    @property
    def head_width(self) -> int | None:
        """Of a key; None for a model without attention."""
        width, total, heads = (
            self.entries.get(key)
            for key in ("attention.key_length", "embedding_length", "attention.head_count")
        )
        if isinstance(width, int):
            return width
        return (
            total // heads if isinstance(total, int) and isinstance(heads, int) and heads else None
        )

    def check_complete(self) -> None:
        """Raise `InvalidValueError` for an entry that is missing, and has no default."""
        epsilon = EPSILON if self._is_of(*LAYER_NORMS) else RMS_EPSILON
        needed = [epsilon, *(key for key in REQUIRED if self._names_of(key))]
        if self._is_of("gpt-oss"):
            needed.append("attention.sliding_window")
        missing = next((key for key in needed if key not in self.entries), None)
        if missing is not None:
            raise InvalidValueError(
                f"the model {self.file.name} is damaged: its header lacks "
                f"{self.file.architecture}.{missing}; download it again, or convert it again"
            )

    def honours(self, key: str) -> bool:
        """Whether the configuration now says what this entry says."""
        value: Any = self.entries[key]
        if key in IRRELEVANT or (key.startswith("rope.") and key not in self.special):
            return True  # or not, which `complete` finds
        if (self.file.architecture, key) in ARRAYS:
            return True
        if not isinstance(value, int | float) and key != "rope.dimension_sections":
            return False
        if key in self.special:
            return self.special[key](value)
        return self._named(key, value)

    def _named(self, key: str, value: Any) -> bool:
        """Whether the configuration has a name for the entry, and now its value."""
        names = self._names_of(key)
        if not names:
            return (
                self._is_neutral(key, value) or key == "context_length" or self._implied(key, value)
            )
        for name in names:
            if not _equal(getattr(self.config, name), value):
                setattr(self.config, name, None if self._is_unset(key, value) else value)
        return True

    def complete(self) -> list[str]:
        """Put in what llama.cpp takes where the file says nothing; the entries that do not fit."""
        if self.head_width is not None and self._has("head_dim"):
            self.config.head_dim = self.head_width
        if "attention.head_count_kv" not in self.entries:
            for name in self._names_of("attention.head_count_kv"):
                setattr(self.config, name, self.entries["attention.head_count"])
        refused = set_rope(self.file, self.config, self.entries, self.head_width)
        architecture = self.file.architecture
        if "attention.sliding_window" not in self.entries and self._has("sliding_window"):
            if architecture == "gemma3":
                refused.append("attention.sliding_window")
            # Qwen 2 MoE has 0 for none, and its code needs a number.
            elif architecture not in SLIDING and self.config.sliding_window:
                self.config.sliding_window = None
        padding = self.config.pad_token_id
        if isinstance(padding, int) and padding >= self.config.vocab_size:
            self.config.pad_token_id = None  # the default of another vocabulary
        if architecture in GEMMA_27B and self.head_width is not None:
            width = self.head_width
            if self.entries.get("block_count") == GEMMA_27B[architecture]:
                width = self.config.hidden_size // self.config.num_attention_heads
            self.config.query_pre_attn_scalar = width
        return refused

    def _names_of(self, key: str) -> list[str]:
        """What the configuration calls an entry; nothing where it has no name for it."""
        return [name for name in NAMES.get(key, ()) if self._has(name)]

    def _has(self, name: str) -> bool:
        mapped = self.config.attribute_map.get(name, name)
        return mapped in self.fields or name in self.fields

    def _is_of(self, *architectures: str) -> bool:
        return self.file.architecture in architectures

    def _is_neutral(self, key: str, value: Value | None) -> bool:
        return any(_equal(neutral, value) for neutral in NEUTRAL.get(key, ()))

    def _is_unset(self, key: str, value: Value | None) -> bool:
        return "softcapping" in key and value == 0

    def _implied(self, key: str, value: Value | None) -> bool:
        """Whether an entry that has no name in the configuration follows from others."""
        config = self.config
        if key == "feed_forward_length":
            return bool(value == INNER_WIDTHS * config.hidden_size)
        if key == "attention.head_count_kv":
            return bool(value == config.num_attention_heads)
        return False

    def _layers(self, value: Any) -> bool:
        extra = self.entries.get("nextn_predict_layers", 0)
        return bool(value - extra == self.config.num_hidden_layers)

    def _head_width(self, value: Any) -> bool:
        if self._has("head_dim"):
            return True  # of `complete`
        return bool(value * self.config.num_attention_heads == self.config.hidden_size)

    def _attention_scale(self, value: Any) -> bool:
        width = self.head_width
        return value == 0 or (width is not None and _equal(value, 1 / math.sqrt(width)))

    def _sliding_window(self, value: Any) -> bool:
        if self._is_of(*SLIDING) and self._has("sliding_window"):
            self.config.sliding_window = value
            return True
        # llama.cpp does not read it, or has it turned off.
        context = self.file.context_length
        return value == 0 or (context is not None and value >= context)

    def _sliding_pattern(self, value: Any) -> bool:
        types = getattr(self.config, "layer_types", None)
        if not isinstance(value, int) or value < 1 or not types:
            return False
        return all(
            (kind == "full_attention") == ((layer + 1) % value == 0)
            for layer, kind in enumerate(types)
        )

    def _inner_width(self, value: Any) -> bool:
        # Of Mamba it is 0, and `ssm.inner_size` is what transformers calls its inner width.
        return self._is_of("mamba") or self._named("feed_forward_length", value)

    def _inner_size(self, value: Any) -> bool:
        if self._is_of("mamba"):
            self.config.intermediate_size = value
            return True
        heads = getattr(self.config, "linear_num_value_heads", 0)
        return bool(value == heads * getattr(self.config, "linear_value_head_dim", 0))

    def _gating(self, value: Any) -> bool:
        kinds = {1: "softmax", 2: "sigmoid"}
        named = getattr(self.config, "scoring_func", None)
        return kinds.get(value) == named if named else self._is_neutral("expert_gating_func", value)


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, int | float) and isinstance(right, int | float):
        return abs(left - right) <= TOLERANCE * abs(right)
    return bool(left == right)
