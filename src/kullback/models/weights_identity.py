"""The fingerprint of a transformers model's weights: computed once, and remembered between runs.

Hashing reads all weights.  Where they are those of files that this user's kullback has hashed
before in the same type, with the same versions, the fingerprint is remembered
(`kullback.runtime.remembered`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from torch import Tensor

from kullback.models.locate import Location
from kullback.models.placement import is_spread, read_weight, tied_names
from kullback.runtime.remembered import files_key, recall, remember
from kullback.runtime.weights import weights_fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

__all__ = ["WeightsIdentity", "stored_key"]

# What turns files into weights.
PACKAGES = ("kullback", "transformers", "torch", "safetensors", "gguf", "accelerate")
PATTERNS = ("*.safetensors", "*.bin", "*.json", "*.gguf")


@dataclass(eq=False)
class WeightsIdentity:
    """The fingerprint of weights that do not change, when it is asked for."""

    key: str | None = None
    """What identifies the files that the weights are those of; None where they are of none."""
    _weights: Mapping[str, Tensor] | None = field(default=None, repr=False)
    _known: str | None = None
    _lock: Lock = field(default_factory=Lock, repr=False)

    @classmethod
    def of(cls, model: PreTrainedModel) -> WeightsIdentity:
        """That of a model; of one that is spread, the weights are noted while none is computing."""
        return cls(_weights=model.state_dict() if is_spread(model) else None)

    def stored_as(self, key: str | None) -> WeightsIdentity:
        """The same, of weights that are those of the files that `key` identifies."""
        return WeightsIdentity(key, self._weights)

    def fingerprint(self, model: PreTrainedModel) -> str:
        """SHA-256 of the weights of `model`; several threads may ask."""
        with self._lock:
            if self._known is None and self.key is not None:
                self._known = recall(self.key)
            if self._known is None:
                weights = self._weights or model.state_dict()
                read = partial(read_weight, model)
                self._known = weights_fingerprint(weights, read, tied_names(model))
                if self.key is not None:
                    remember(self.key, self._known)
            return self._known


def stored_key(location: Location, model: PreTrainedModel, read_at: float) -> str | None:
    """What identifies the weights at `location`, of which `model` was made; None where unknown.

    Their reading began at `read_at`, by `time.time`.  All files of the folder count that say
    something about the weights.  On the hub it is the folder of the version in its cache.
    """
    files: list[Path] = []
    if location.header is not None:
        files = list(location.header.parts)
    else:
        folder = location.path or _snapshot(location.name, model.config)
        if folder is not None:
            files = sorted({file for pattern in PATTERNS for file in folder.glob(pattern)})
    about = {package: _version(package) for package in PACKAGES}
    return files_key(files, about | {"dtype": str(model.dtype)}, read_at)


def _snapshot(name: str, config: PreTrainedConfig) -> Path | None:
    """The folder of a model of the hub in its cache."""
    from huggingface_hub import try_to_load_from_cache

    commit = getattr(config, "_commit_hash", None)
    if commit is None:
        return None
    path = try_to_load_from_cache(name, "config.json", revision=commit)
    return Path(path).parent if isinstance(path, str) else None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
