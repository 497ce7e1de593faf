"""Choices of kernels in a config.json, which must not depend on the packages that are installed.

A configuration may name attention or experts of another package (flash-attn, kernels of the hub):
transformers uses them where the package is there, and something else, or nothing, where it is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

__all__ = ["pin_implementations"]

# Of torch and transformers alone; None is the default, torch's attention where the model allows it.
ATTENTION = (None, "eager", "sdpa")
EXPERTS = (None, "eager", "batched_mm", "grouped_mm")


def pin_implementations(name: str, config: PreTrainedConfig) -> list[str]:
    """Set the choices that need other packages to the default, in place; a note for each."""
    parts = [config, *(getattr(config, key, None) for key in config.sub_configs)]
    known = {"_attn_implementation": ATTENTION, "_experts_implementation": EXPERTS}
    notes: dict[str, None] = {}
    for attribute, allowed in known.items():
        # Setting it in a configuration sets it in those inside: read all first.
        values = [(part, getattr(part, attribute, None)) for part in parts if part is not None]
        if all(value in allowed for _, value in values):
            continue
        for part, value in values:
            setattr(part, attribute, value if value in allowed else None)
            if value not in allowed:
                what = "attention" if "attn" in attribute else "experts"
                notes[
                    f"the configuration of {name} asks for {what} by {value}, which needs another "
                    "package: torch's own is used"
                ] = None
    return list(notes)
