"""What llama.cpp asserts of a file's header: where it does not hold, it ends the process.

The sizes that it allows are those of llama.cpp of October 2026 (src/llama-hparams.h).
"""

from __future__ import annotations

from kullback.errors import InvalidValueError
from kullback.models.gguf_file import GGUFFile
from kullback.models.gguf_token_types import repeated_token

__all__ = ["check_asserts"]

MOST_LAYERS, MOST_EXPERTS = 512, 512
ROPE_SCALING = ("none", "linear", "yarn", "longrope")


def check_asserts(file: GGUFFile) -> None:
    """Raise `InvalidValueError` where llama.cpp would end the process while it reads the header."""
    scaling = file.of_model("rope.scaling.type")
    if scaling is not None and scaling not in ROPE_SCALING:
        raise _damaged(
            file, "rope.scaling.type", f"{scaling!r}, not one of {', '.join(ROPE_SCALING)}"
        )
    layers, experts, used = (
        _count(file, key) for key in ("block_count", "expert_count", "expert_used_count")
    )
    if layers is not None and not 0 < layers <= MOST_LAYERS:
        raise _damaged(file, "block_count", f"{layers:,}, not from 1 to {MOST_LAYERS}")
    if experts is not None and experts > MOST_EXPERTS:
        raise _damaged(file, "expert_count", f"{experts:,}, more than {MOST_EXPERTS}")
    if not (0 < (used or 0) <= experts if experts else not used):
        raise _damaged(file, "expert_used_count", f"{used or 0:,} of {experts or 0:,} experts")
    tokens: set[str] = set()
    for id_, token in enumerate(file.tokens):
        if token in tokens:
            raise repeated_token(file, token, id_)
        if token:  # llama.cpp makes up names for empty ones
            tokens.add(token)


def _count(file: GGUFFile, key: str) -> int | None:
    value = file.of_model(key)
    return value if isinstance(value, int) else None


def _damaged(file: GGUFFile, key: str, reason: str) -> InvalidValueError:
    return InvalidValueError(
        f"the model {file.name} is damaged: {file.architecture}.{key} is {reason}; download it "
        "again"
    )
