"""Quantisation schemes by name, and models whose weights have only the values of a scheme.

A weight-only scheme replaces each row of a matrix, or each group of neighbours in a row, by
integers (or 8-bit floats) and a scale; the layer computes with ``scale × integer``.  So a quantised
model *is* the model whose weights are those products, and that is what is measured here: the
arithmetic is that of the original model, and the KL is that of the weights alone.  torchao chooses
integers and scales.

`quantise_layers` quantises the matrices of `kullback.models.weight_matrices` and leaves embedding
and head; so ``FOLDER@int8`` is the model that ``kullback quantise FOLDER --scheme int8`` saves.  A
16-bit scheme converts all weights.  `quantise` takes a mini-GPT's embedding, which is its head too,
with the rest: most of the weights of so small a model are there.  Normalisation weights and biases
are kept.

Sizes are bytes.  A weight is *packed* to the bits of its scheme here; on disk, torchao keeps an
integer of 4 or 2 bits in a whole byte (`Scheme.saved_bytes`).
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kullback.errors import InvalidValueError, MissingExtraError
from kullback.models.placement import own_parameters
from kullback.models.quiet import no_steps, quiet_loggers
from kullback.models.weight_matrices import weight_matrices
from kullback.runtime.progress import Steps
from kullback.runtime.wording import suggestion
from kullback.training.gpt import GPT

if TYPE_CHECKING:
    from torchao.core.config import AOBaseConfig

__all__ = [
    "QuantisedGPT",
    "Rounding",
    "Scheme",
    "cast_all",
    "check_not_quantised",
    "linear_weights",
    "packed_size_in_bytes",
    "quantise",
    "quantise_layers",
    "require_torchao",
    "saved_size_in_bytes",
    "size_in_bytes",
]

PATTERN = re.compile(r"int([1-8])(?:-g([1-9][0-9]{0,9}))?")
# What an unknown name is compared with.
COMMON = ("int8", "int4", "int4-g32", "int2-g32", "fp8", "bf16", "fp16")
# The 8-bit float has a scale for each row; the 16-bit ones need none.
FLOATS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.float8_e4m3fn}


@dataclass(frozen=True)
class Scheme:
    """Symmetric integers of `bits` bits, one scale for each row or each `group` of weights.

    Where `floating` is given (``bf16``, ``fp16``, ``fp8``) floats of that format instead.
    """

    bits: int
    group: int | None
    floating: str | None = None

    @classmethod
    def parse(cls, name: str) -> Scheme:
        """The scheme of a name like ``int8``, ``int4-g32`` or ``bf16``.

        Raises `InvalidValueError` for an unknown name, with the most similar known one.

        >>> Scheme.parse("int4-g32")
        Scheme(bits=4, group=32, floating=None)
        """
        if name in FLOATS:
            return cls(8 * FLOATS[name].itemsize, None, name)
        match = PATTERN.fullmatch(name)
        if not match:
            similar = suggestion(name.strip(), COMMON)
            write = "  Write" if similar else ": write"
            raise InvalidValueError(
                f"the scheme {name!r} is unknown{similar}{write} intBITS for one scale a row "
                "(int8), intBITS-gSIZE for one scale for every SIZE weights (int4-g32), or one of "
                f"{', '.join(FLOATS)}"
            )
        return cls(int(match[1]), int(match[2]) if match[2] else None)

    @property
    def name(self) -> str:
        """The name that `parse` reads."""
        return self.floating or f"int{self.bits}" + (f"-g{self.group}" if self.group else "")

    @property
    def integer_dtype(self) -> torch.dtype:
        """torch's name for integers of `bits` bits."""
        dtype: torch.dtype = getattr(torch, f"int{self.bits}")
        return dtype

    @property
    def is_cast(self) -> bool:
        """Whether it is only a conversion to a 16-bit float, without scales."""
        return self.floating in ("bf16", "fp16")

    def size_in_bytes(self, shape: torch.Size) -> int:
        """The size of a matrix, or of those of all experts: packed numbers and float32 scales."""
        return -(-shape.numel() * self.bits // 8) + 4 * self._scales(shape)

    def saved_bytes(self, shape: torch.Size) -> int:
        """The size of a matrix on disk: whole bytes a number, float32 scales, zero points.

        torchao saves a zero point of 8 bits with each scale of integers, though it is always 0.
        """
        zero_points = self._scales(shape) if self.floating is None else 0
        return shape.numel() * -(-self.bits // 8) + 4 * self._scales(shape) + zero_points

    def _scales(self, shape: torch.Size) -> int:
        *rows, columns = shape
        return 0 if self.is_cast else math.prod(rows) * (columns // (self.group or columns))

    def check_fits(self, name: str, shape: torch.Size) -> None:
        """Raise `InvalidValueError` where `group` does not divide the columns of layer `name`."""
        if self.group and shape[-1] % self.group:
            raise InvalidValueError(
                f"the scheme {self.name} does not fit {name}: its {shape[-1]} columns are not a "
                f"multiple of {self.group}; choose another group size"
            )

    def torchao_config(self) -> AOBaseConfig:
        """The scheme as torchao's configuration; not for the 16-bit floats, which need none."""
        from torchao.quantization import Float8WeightOnlyConfig, IntxWeightOnlyConfig
        from torchao.quantization.granularity import PerAxis, PerGroup

        if self.floating == "fp8":
            return Float8WeightOnlyConfig()
        return IntxWeightOnlyConfig(
            weight_dtype=self.integer_dtype,
            granularity=PerGroup(self.group) if self.group else PerAxis(0),
            scale_dtype=torch.float32,
        )


@dataclass(frozen=True, eq=False)
class QuantisedGPT:
    """A model whose matrices hold only values of the scheme, and its size."""

    gpt: GPT
    scheme: str
    size_bytes: int
    """Integers packed to their bits, float32 scales, and float32 for what is not quantised."""


@dataclass(frozen=True)
class Rounding:
    """What quantising a model in place did."""

    size_bytes: int
    """The model's new size: integers packed to their bits, their scales, and the other weights."""
    changed: bool
    """Whether any weight has another value than before."""


def size_in_bytes(model: nn.Module) -> int:
    """The size of a model's parameters as they are in memory, each shared one once."""
    return sum(_tensor_bytes(weight, packed=False) for weight in own_parameters(model))


def packed_size_in_bytes(model: nn.Module) -> int:
    """`size_in_bytes`, with the integers of torchao's tensors packed to their bits."""
    return sum(_tensor_bytes(weight, packed=True) for weight in own_parameters(model))


def saved_size_in_bytes(model: nn.Module, scheme: Scheme) -> int:
    """The size of the weights that ``kullback quantise`` saves of `model`, not yet quantised.

    Layers of the class ``nn.Linear`` are those of the scheme; all else is float32 (also the
    quantised weights of other layers, which transformers reads only so), or 16-bit with a 16-bit
    scheme.
    """
    numbers = sum(weight.numel() for weight in model.parameters())
    if scheme.is_cast:
        return 2 * numbers
    saved = [weight.matrix for weight in weight_matrices(model) if weight.is_linear]
    others = numbers - sum(matrix.numel() for matrix in saved)
    return sum(scheme.saved_bytes(matrix.shape) for matrix in saved) + 4 * others


def _tensor_bytes(weight: Tensor, packed: bool) -> int:
    """The bytes of a tensor; of one that wraps others (torchao's), the sum of theirs."""
    if not hasattr(weight, "__tensor_flatten__"):
        return weight.element_size() * weight.numel()
    names, _ = weight.__tensor_flatten__()
    parts: dict[str, Tensor] = {name: getattr(weight, name) for name in names}
    integers = re.fullmatch(r"torch\.int([1-8])", str(getattr(weight, "target_dtype", None)))
    if packed and integers and "qdata" in parts:
        # As `Scheme.size_in_bytes`: without zero points, which are all 0.
        bits = int(integers[1]) * parts["qdata"].numel()
        return -(-bits // 8) + _tensor_bytes(parts["scale"], packed)
    return sum(_tensor_bytes(part, packed) for part in parts.values())


def quantise(gpt: GPT, scheme: Scheme) -> QuantisedGPT:
    """A quantised copy of `gpt`, embedding and all; the original is not changed.

    Raises `MissingExtraError` without torchao, `InvalidValueError` where the group size does not
    divide the columns of a matrix.
    """
    quantised, size = copy.deepcopy(gpt), 0
    for name, weight in quantised.named_parameters():
        if weight.ndim == 2:
            weight.data.copy_(_rounded(weight.detach(), scheme, name))
            size += scheme.size_in_bytes(weight.shape)
        else:
            size += weight.element_size() * weight.numel()
    return QuantisedGPT(quantised, scheme.name, size)


def quantise_layers(
    model: nn.Module,
    scheme: Scheme,
    wanted: Callable[[str], bool] = lambda name: True,
    progress: Steps = no_steps,
) -> Rounding:
    """Quantise the matrices of `model` in place, but the head.

    `wanted` chooses among them by the names of `linear_weights`; `progress` is told how many are
    done, and of how many.  Raises as `quantise` does.
    """
    layers = [(name, matrix) for name, matrix in linear_weights(model) if wanted(name)]
    saved, changed = 0, False
    with quiet_loggers():
        for done, (name, matrix) in enumerate(layers):
            progress(done, len(layers))
            rounded = _rounded(matrix, scheme, name)
            changed = changed or not torch.equal(rounded, matrix)
            matrix.copy_(rounded)
            saved += matrix.element_size() * matrix.numel() - scheme.size_in_bytes(matrix.shape)
    progress(len(layers), len(layers))
    return Rounding(size_in_bytes(model) - saved, changed)


def cast_all(model: nn.Module, scheme: Scheme) -> Rounding:
    """Round all weights of `model` in place to a 16-bit scheme."""
    assert scheme.floating is not None
    changed = False
    for weight in model.state_dict().values():  # parameters, and the buffers that are saved
        if weight.is_floating_point():
            rounded = weight.to(FLOATS[scheme.floating]).to(weight.dtype)
            changed = changed or not torch.equal(rounded, weight)
            weight.copy_(rounded)
    return Rounding(2 * sum(weight.numel() for weight in model.parameters()), changed)


def linear_weights(model: nn.Module) -> list[tuple[str, Float[Tensor, "*experts out in"]]]:
    """The names and matrices of `weight_matrices`: views into the model."""
    return [(weight.name, weight.matrix) for weight in weight_matrices(model)]


def check_not_quantised(name: str, model: nn.Module) -> None:
    """Raise `InvalidValueError` where the weights of the model `name` are quantised already."""
    quantised = next(
        (
            layer
            for layer, matrix in linear_weights(model)
            if hasattr(matrix, "__tensor_flatten__") or not matrix.is_floating_point()
        ),
        None,
    )
    # Other libraries replace the layers by their own: transformers then remembers which it was.
    if quantised is None and getattr(model, "hf_quantizer", None) is None:
        return
    where = f" (its layer {quantised})" if quantised else ""
    raise InvalidValueError(
        f"the model {name} is quantised already{where}: quantise the model that it was made of, or "
        "use it as it is"
    )


def require_torchao() -> None:
    """Raise `MissingExtraError` where torchao is not installed."""
    try:
        with quiet_loggers():
            import torchao.quantization  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "quantisation needs torchao: pip install 'kullback[quantise]'"
        ) from error


def _rounded(
    matrix: Float[Tensor, "*experts out in"], scheme: Scheme, name: str
) -> Float[Tensor, "*experts out in"]:
    """The matrix after quantising and back; those of experts row by row, as one long matrix."""
    if scheme.floating is not None and scheme.is_cast:
        return matrix.to(FLOATS[scheme.floating]).to(matrix.dtype)
    require_torchao()
    from torchao.quantization import quantize_

    scheme.check_fits(name, matrix.shape)
    rows = matrix.clone(memory_format=torch.contiguous_format).flatten(0, -2)
    if rows.dtype == torch.float64:  # which torchao does not take; scales are float32 in any case
        rows = rows.float()
    shell = nn.Linear(rows.shape[1], rows.shape[0], bias=False, device="meta", dtype=rows.dtype)
    shell.weight = nn.Parameter(rows)
    with quiet_loggers():
        quantize_(shell, scheme.torchao_config())
        rounded: Tensor = shell.weight.dequantize()
    return rounded.reshape(matrix.shape).to(matrix.dtype)
