"""What llama.cpp asserts of a file's header: where it does not hold, it ends the process.

The sizes that it allows are those of llama.cpp of October 2026 (src/llama-hparams.h).
"""

from __future__ import annotations

from kullback.errors import InvalidValueError
from kullback.models.gguf_file import GGUFFile
from kullback.models.gguf_token_types import repeated_token

__all__ = ["check_asserts"]

MOST_LAYERS, MOST_EXPERTS = 512, 512
# Which it reads as dense where they have one expert.
ONE_EXPERT = ("hunyuan-dense", "hunyuan_vl")
ACTIVATIONS = ("gelu", "silu", "tanh")
ROPE_SCALING = ("none", "linear", "yarn", "longrope")


def check_asserts(file: GGUFFile) -> None:
    """Raise `InvalidValueError` where llama.cpp would end the process while it reads the header."""
    scaling = file.of_model("rope.scaling.type")
    if scaling is not None and scaling not in ROPE_SCALING:
        raise _damaged(
            file, "rope.scaling.type", f"{scaling!r}, not one of {', '.join(ROPE_SCALING)}"
        )
    activation = file.of_model("classifier.activation")
    if activation is not None and activation not in ACTIVATIONS:
        raise _damaged(
            file, "classifier.activation", f"{activation!r}, not one of {', '.join(ACTIVATIONS)}"
        )
    layers, extra = _count(file, "block_count"), _count(file, "nextn_predict_layers")
    if layers is not None and not 0 < layers <= MOST_LAYERS:
        raise _damaged(file, "block_count", f"{layers:,}, not from 1 to {MOST_LAYERS}")
    if layers is not None and (extra or 0) > layers:
        raise _damaged(file, "nextn_predict_layers", f"{extra:,}, more than its {layers:,} layers")
    _check_experts(file)
    tokens: set[str] = set()
    for id_, token in enumerate(file.tokens):
        if token in tokens:
            raise repeated_token(file, token, id_)
        if token:  # llama.cpp makes up names for empty ones
            tokens.add(token)


def _check_experts(file: GGUFFile) -> None:
    """As `check_asserts`, of the numbers of experts, of those a token uses, and of their groups."""
    experts, used, groups, used_groups = (
        _count(file, f"expert_{key}") or 0
        for key in ("count", "used_count", "group_count", "group_used_count")
    )
    if file.architecture in ONE_EXPERT and experts <= 1:
        experts = used = 0
    if experts > MOST_EXPERTS:
        raise _damaged(file, "expert_count", f"{experts:,}, more than {MOST_EXPERTS}")
    if not (0 < used <= experts if experts else not used):
        raise _damaged(file, "expert_used_count", f"{used:,} of {experts:,} experts")
    if groups and (groups >= experts or experts % groups):
        raise _damaged(file, "expert_group_count", f"{groups:,} groups of {experts:,} experts")
    if groups > 1 and not 0 < used_groups < groups:
        raise _damaged(file, "expert_group_used_count", f"{used_groups:,} of {groups:,} groups")


def _count(file: GGUFFile, key: str) -> int | None:
    """A number; the largest where each layer has its own."""
    value = file.of_model(key)
    numbers = value if isinstance(value, tuple) else (value,)
    return max((number for number in numbers if isinstance(number, int)), default=None)


def _damaged(file: GGUFFile, key: str, reason: str) -> InvalidValueError:
    return InvalidValueError(
        f"the model {file.name} is damaged: {file.architecture}.{key} is {reason}; download it "
        "again"
    )
