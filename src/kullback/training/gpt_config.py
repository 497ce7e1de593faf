"""The sizes of a mini-GPT, and the `config.json` of the Llama that it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from kullback.errors import InvalidValueError
from kullback.runtime.limits import check_fits
from kullback.training.config import SIZES

__all__ = ["GPTConfig"]


@dataclass(frozen=True)
class GPTConfig:
    """The sizes of a model; `InvalidValueError` for sizes out of range."""

    vocabulary_size: int
    context: int
    """The longest sequence, in tokens."""
    width: int = 64
    layers: int = 2
    heads: int = 2
    mlp_width: int = 176
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    tied: bool = True
    """Whether the head is the embedding."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "tied":
                SIZES[name].set(self, name, value)
        if not isinstance(self.tied, bool):
            raise InvalidValueError(f"tied is {self.tied!r:.60}: it must be True or False")
        if self.width % (2 * self.heads):
            raise InvalidValueError(
                f"width is {self.width} and heads is {self.heads}: rotary positions need a width "
                f"that is a multiple of 2 × heads = {2 * self.heads}"
            )

    @property
    def parameters(self) -> int:
        """The number of parameters.

        >>> GPTConfig(vocabulary_size=10, context=8, width=4, layers=1, heads=1).parameters
        2228
        """
        block = 4 * self.width**2 + 3 * self.width * self.mlp_width + 2 * self.width
        matrices = 1 if self.tied else 2
        return matrices * self.vocabulary_size * self.width + self.layers * block + self.width

    def check_memory(self) -> None:
        """Raise `InvalidValueError` for a model larger than the memory of this machine."""
        what, size = f"a model of {self.parameters:,} parameters", 4 * self.parameters
        check_fits(size, what, "choose a smaller width, fewer layers or a smaller vocabulary")

    def to_huggingface(self, bos_token_id: int | None, eos_token_id: int | None) -> dict[str, Any]:
        """The `config.json` of a Llama with these sizes."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocabulary_size,
            "max_position_embeddings": self.context,
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "head_dim": self.width // self.heads,
            "intermediate_size": self.mlp_width,
            "hidden_act": "silu",
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.rope_theta,
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": self.tied,
            "bos_token_id": bos_token_id,
            "eos_token_id": eos_token_id,
            "torch_dtype": "float32",
        }

    @classmethod
    def from_huggingface(cls, config: dict[str, Any]) -> GPTConfig:
        """The sizes in a `config.json`.

        Raises `KeyError` for a missing size, `InvalidValueError` for a Llama that a mini-GPT cannot
        be: with biases, grouped-query attention, scaled positions, and the like.
        """
        rope = config.get("rope_parameters") or config  # since and before transformers 5
        sizes = cls(
            vocabulary_size=config["vocab_size"],
            context=config["max_position_embeddings"],
            width=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            mlp_width=config["intermediate_size"],
            rope_theta=rope["rope_theta"],
            norm_eps=config["rms_norm_eps"],
            tied=config.get("tie_word_embeddings", True),
        )
        fixed = {
            "attention_bias": False,
            "mlp_bias": False,
            "hidden_act": "silu",
            "num_key_value_heads": sizes.heads,
            "head_dim": sizes.width // sizes.heads,
            "rope_scaling": None,
        }
        values = {key: (config.get(key, required), required) for key, required in fixed.items()}
        values["rope_type"] = (rope.get("rope_type", "default"), "default")
        for key, (value, required) in values.items():
            if value != required:
                raise InvalidValueError(f"{key} is {value!r}: a mini-GPT has {required!r}")
        return sizes
