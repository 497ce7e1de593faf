"""Choices of kernels in a config.json, which must not depend on the packages that are installed.

A configuration may name attention or experts of another package (flash-attn, kernels of the hub):
transformers uses them where the package is there, and something else, or nothing, where it is not.
What transformers takes from a package without being asked is replaced while kullback reads
(`kullback.runtime.torch_functions`), or refused.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

from kullback.errors import InvalidValueError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

__all__ = ["pin_implementations"]

# Of torch and transformers alone; None is the default, torch's attention where the model allows it.
ATTENTION = (None, "eager", "sdpa")
EXPERTS = (None, "eager", "batched_mm", "grouped_mm")
# Types of models that transformers runs through a package wherever it is installed, and whether
# only on a GPU.
THROUGH_PACKAGES = {"xlstm": ("xlstm", False), "rwkv": ("kernels", True)}


def pin_implementations(name: str, config: PreTrainedConfig) -> list[str]:
    """Set the choices that need other packages to the default, in place; a note for each.

    Raises `InvalidValueError` where a package that is installed cannot be kept out.
    """
    package, on_gpu = THROUGH_PACKAGES.get(config.model_type, ("", False))
    if package and find_spec(package) and (torch.cuda.is_available() or not on_gpu):
        raise InvalidValueError(
            f"the model {name} ({config.model_type}) would run through the package {package}, "
            f"which changes its numbers: pip uninstall {package}"
        )
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
    # Of Mamba: a scan of the package mambapy.
    if getattr(config, "use_mambapy", False):
        config.use_mambapy = False
        notes[f"the configuration of {name} asks for mambapy: torch's own scan is used"] = None
    return list(notes)
