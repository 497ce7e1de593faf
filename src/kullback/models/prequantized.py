"""Checkpoints whose weights are quantised already: dequantised where that is exact.

A ``quantization_config`` in config.json says in which form the weights are.  The forms of
`kullback.models.dequantization` are read here, in float32 on any device, without the package that
wrote them: what is measured is the model of these weights.  Kernels of a GPU would round
activations as well; a note says that this is not done.  The other forms run through transformers
and their own package, or are refused with its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kullback.errors import InvalidValueError, MissingExtraError
from kullback.models.dequantization import DEQUANTISERS
from kullback.models.locate import Location

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

__all__ = ["StoredForm", "stored_form", "without_form"]

# What to import and what to install for the forms that are not read here.
PACKAGES = {
    "aqlm": ("aqlm", "aqlm[gpu,cpu]"),
    "auto-round": ("auto_round", "auto-round"),
    "bitsandbytes": ("bitsandbytes", "bitsandbytes"),
    "compressed-tensors": ("compressed_tensors", "compressed-tensors"),
    "awq": ("gptqmodel", "gptqmodel"),
    "eetq": ("eetq", "eetq"),
    "fbgemm_fp8": ("fbgemm_gpu", "fbgemm-gpu"),
    "fp_quant": ("fp_quant", "fp_quant"),
    "gptq": ("gptqmodel", "gptqmodel optimum"),
    "higgs": ("flute", "flute-kernel"),
    "hqq": ("hqq", "hqq"),
    "quanto": ("optimum.quanto", "optimum-quanto"),
    "quark": ("quark", "amd-quark"),
    "sinq": ("sinq", "sinq"),
    "spqr": ("spqr_quant", "spqr_quant"),
    "torchao": ("torchao", "'kullback[quantise]'"),
    "vptq": ("vptq", "vptq"),
}
# Forms of compressed-tensors that are a number and a scale.
COMPRESSED = ("dense", "float-quantized", "int-quantized", "naive-quantized", "pack-quantized")
# The ends of names that no plain model has: one that is left over was not understood.
QUANTISED = re.compile(
    r"(_scale_inv|weight_scale|weight_packed|weight_zero_point|qweight|qzeros|\.absmax|_blocks)$"
)
NARROW = (torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8, torch.int32)


@dataclass(frozen=True, eq=False)
class StoredForm:
    """The form in which a checkpoint has its weights."""

    name: str
    """Of the model."""
    method: str
    """As ``quant_method`` names it."""
    settings: Mapping[str, object]

    @property
    def dequantises(self) -> bool:
        """Whether it is read here; otherwise transformers runs it as it is."""
        if self.method == "compressed-tensors":
            return self.settings.get("format") in COMPRESSED and not any(
                self.settings.get(key) for key in ("sparsity_config", "transform_config")
            )
        if self.method == "bitsandbytes":
            return bool(self.settings.get("load_in_8bit"))
        if self.method == "awq":
            return str(self.settings.get("version", "gemm")).lower() == "gemm"
        return self.method in DEQUANTISERS

    def note(self, dtype: torch.dtype) -> str:
        """What is measured, with weights of `dtype`."""
        form = self._described()
        if self.dequantises:
            wide = dtype in (torch.float32, torch.float64)
            rounded = "" if wide else f", then rounded to {str(dtype).removeprefix('torch.')}"
            return (
                f"the weights of {self.name} are stored as {form} and dequantised in "
                f"float32{rounded}; activations are not quantised"
            )
        run = "dequantised" if self.settings.get("dequantize") else "run in that form"
        return f"the weights of {self.name} are stored as {form} and {run} by transformers"

    def _described(self) -> str:
        block, bits = self.settings.get("weight_block_size"), self.settings.get("bits")
        if self.method == "fp8":
            return "FP8" + (
                f" in blocks of {block[0]}×{block[1]}" if isinstance(block, list) else ""
            )
        if self.method == "bitsandbytes":
            bits = 8 if self.settings.get("load_in_8bit") else 4
        inner = self.settings.get("format") or (f"{bits} bits" if bits else "")
        if self.settings.get("dynamic"):
            inner = f"{inner}, others for some layers"
        return f"{self.method} ({inner})" if inner else self.method

    def check_installed(self) -> None:
        """Raise `MissingExtraError` where the form needs a package that is not installed."""
        if self.dequantises:
            return
        package, install = PACKAGES.get(self.method, (None, ""))
        if package is not None and not _is_installed(package):
            raise MissingExtraError(
                f"the weights of {self.name} are stored as {self._described()}, which needs "
                f"{package}: pip install {install}"
            )

    def unusable(self, reason: str) -> InvalidValueError:
        """The error for weights in this form that cannot be used here."""
        return InvalidValueError(
            f"the weights of {self.name} are stored as {self._described()}, and cannot be used "
            f"here ({reason}): give the model that it was made of, or another form of it"
        )

    def weights(self, location: Location, dtype: torch.dtype) -> tuple[dict[str, Tensor], int]:
        """All weights, dequantised in float32 and converted to `dtype`, and the files' size.

        Raises `InvalidValueError` where the files are damaged or have another form.
        """
        files = _files(location)
        stored: dict[str, Tensor] = {}
        try:
            for file in files:
                with safe_open(file, framework="pt") as weights:
                    stored.update({key: weights.get_tensor(key) for key in weights.keys()})  # noqa: SIM118
            is_any = any(_is_quantised(key, value) for key, value in stored.items())
            dequantised = DEQUANTISERS[self.method](stored, self.settings) if is_any else {}
        except InvalidValueError as error:
            raise self.unusable(str(error)) from None
        # A tensor that is missing, shapes that do not fit, settings of another kind.
        except (
            KeyError,
            RuntimeError,
            IndexError,
            TypeError,
            ValueError,
            SafetensorError,
        ) as error:
            raise InvalidValueError(
                f"the weights of {self.name} are not what {self._described()} needs "
                f"({type(error).__name__}: {error}): download it again"
            ) from error
        if not is_any:
            raise InvalidValueError(
                f"config.json of {self.name} says that its weights are stored as "
                f"{self._described()}, and none of them is: remove quantization_config from it to "
                "measure them as they are, or download it again"
            )
        left = sorted(key for key, value in dequantised.items() if _is_quantised(key, value))
        if left:
            raise self.unusable(f"{left[0]} has no scale")
        return (
            {k: v.to(dtype) if v.is_floating_point() else v for k, v in dequantised.items()},
            sum(file.stat().st_size for file in files),
        )


def _is_quantised(key: str, value: Tensor) -> bool:
    """Whether a tensor is quantised numbers, or a scale of some, by its name or type."""
    return bool(QUANTISED.search(key)) or value.dtype in NARROW


def stored_form(location: Location, config: PreTrainedConfig) -> StoredForm | None:
    """The form of quantised weights that `config` names; None for other models.

    Raises `MissingExtraError` where it needs a package that is not installed, `InvalidValueError`
    where transformers does not know it.
    """
    inner = config.get_text_config(decoder=True)
    settings: Any = getattr(config, "quantization_config", None) or getattr(
        inner, "quantization_config", None
    )
    if not settings:
        return None
    settings = settings if isinstance(settings, dict) else settings.to_dict()
    method = str(getattr(settings.get("quant_method"), "value", settings.get("quant_method")))
    if settings.get("load_in_8bit") or settings.get("load_in_4bit"):
        method = "bitsandbytes"
    form = StoredForm(location.name, method, settings)
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    if not any(known.removesuffix("_4bit") == method for known in AUTO_QUANTIZER_MAPPING):
        raise form.unusable("this version of transformers does not know that form")
    form.check_installed()
    if method == "metal":
        # transformers would run it as it is where an Apple GPU and the package kernels are there.
        form = replace(form, settings={**settings, "dequantize": True})
        config.quantization_config = form.settings
    return form


def without_form(config: PreTrainedConfig) -> None:
    """Remove the form from the configuration of a model that is dequantised."""
    for part in (config, config.get_text_config(decoder=True)):
        if hasattr(part, "quantization_config"):
            del part.quantization_config


def _files(location: Location) -> list[Path]:
    """The files of the weights, in the folder or from the hub."""
    from transformers.utils.hub import cached_file, get_checkpoint_shard_files

    single, index = "model.safetensors", "model.safetensors.index.json"
    options: dict[str, Any] = {"_raise_exceptions_for_missing_entries": False}
    listed = cached_file(location.source, index, **options)
    if listed is not None:
        shards, _ = get_checkpoint_shard_files(location.source, listed)  # type: ignore[no-untyped-call] # theirs
        return [Path(shard) for shard in shards]
    file = cached_file(location.source, single, **options)
    if file is None:
        raise InvalidValueError(
            f"the model {location.name} has no {single}: its quantised weights are in a form that "
            "is not read; download it as safetensors"
        )
    return [Path(file)]


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # of a parent that is missing, or hidden
        return False
