"""Where the weights of a model of `transformers` are: on one device, or on several.

accelerate spreads a model over GPUs, host memory and the disk (``device_map``), and hooks move the
inputs of each layer to its device.  Weights that do not fit stay in host memory or in their file,
and are copied to a device while their layer computes; the model has "meta" tensors there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from kullback.errors import InvalidValueError, MissingExtraError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "ON_CPU",
    "DeviceMap",
    "Place",
    "check_device_map",
    "computing_device",
    "is_spread",
    "own_parameters",
    "placement_note",
    "read_weight",
    "tied_names",
]

#: "auto", or the device of each module by its name ("" is the whole model), as accelerate has it.
DeviceMap: TypeAlias = "str | Mapping[str, int | str | torch.device]"
AUTO = "auto"


@dataclass(frozen=True)
class Place:
    """Where a model is to be loaded."""

    device: torch.device
    """Of a model that is spread, the best device."""
    device_map: DeviceMap | None = None

    @property
    def options(self) -> dict[str, DeviceMap]:
        """Those of ``from_pretrained`` that load the weights straight to where they belong.

        None for a CPU, and where accelerate is not installed: the model is moved afterwards.
        """
        if self.device_map is not None:
            return {"device_map": self.device_map}
        if self.device.type == "cpu" or not find_spec("accelerate"):
            return {}
        return {"device_map": {"": self.device}}

    def check_stored(self, name: str, what: str) -> None:
        """Raise `InvalidValueError` where a model that has to be computed first is to be spread."""
        if self.device_map is not None:
            raise InvalidValueError(
                f"device_map (--device-map) spreads weights as they are stored, and {name} {what}: "
                "leave it out, or save the model in torch's own types first"
            )


ON_CPU = Place(torch.device("cpu"))


def check_device_map(device_map: DeviceMap, name: str) -> None:
    """Raise unless accelerate is here and `device_map` is "auto" or a mapping.

    Raises `InvalidValueError`, `MissingExtraError` without accelerate.
    """
    if device_map != AUTO and not isinstance(device_map, Mapping):
        raise InvalidValueError(
            f"device_map (--device-map) is {device_map!r}: it must be auto, or in Python a mapping "
            "of modules to devices"
        )
    if not find_spec("accelerate"):
        raise MissingExtraError(
            f"device_map (--device-map) spreads {name} through accelerate, which is not installed: "
            "pip install accelerate, or leave it out"
        )


def is_spread(model: nn.Module) -> bool:
    """Whether the model is on more than one device, or not whole on any."""
    places = set(map(str, getattr(model, "hf_device_map", {}).values()))
    return len(places) > 1 or "disk" in places


def computing_device(model: PreTrainedModel, matrix: nn.Module | None) -> torch.device:
    """Where the model's output `matrix` computes; it takes inputs there and gives logits there."""
    device: torch.device = model.device
    if not is_spread(model):
        return device
    for module in (matrix, model):
        execution = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if execution is not None:
            return torch.device(execution)
    weight = getattr(matrix, "weight", None)
    return weight.device if isinstance(weight, Tensor) and not weight.is_meta else device


def read_weight(model: nn.Module, name: str, weight: Tensor) -> Tensor:
    """The weight with its numbers: itself, or of one that is not on a device, what is stored."""
    if not weight.is_meta:
        return weight
    from transformers.integrations.accelerate import load_offloaded_parameter

    # The type that it declares is a model of transformers; it asks for modules alone.
    owner: Any = model
    return load_offloaded_parameter(owner, name)


def tied_names(model: nn.Module) -> dict[str, str]:
    """The names of tied weights, each with the name of the weight that it is."""
    return dict(getattr(model, "all_tied_weights_keys", None) or {})


def own_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters, each shared one once, also where it is on no device."""
    tied = tied_names(model)
    return [
        weight for name, weight in model.named_parameters() if not (weight.is_meta and name in tied)
    ]


def placement_note(name: str, model: nn.Module) -> list[str]:
    """A note of where the parts of a model are that is spread."""
    if not is_spread(model):
        return []
    places = Counter(map(_place, getattr(model, "hf_device_map", {}).values()))
    listed = ", ".join(f"{count:,} on {place}" for place, count in sorted(places.items()))
    return [f"{name} is spread by accelerate, modules: {listed}"]


def _place(place: object) -> str:
    if isinstance(place, int):
        return f"cuda:{place}"
    names = {"cpu": "the host", "disk": "the disk"}
    return names.get(str(place), str(place))
