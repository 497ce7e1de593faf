"""Quantisation by name: fewer bits a weight, by torchao.

Weight-only schemes replace each row of a matrix, or each group of neighbours in it, by integers (or
8-bit floats) and a scale; the layer computes with ``scale × integer``.  So a quantised model *is*
the model whose weights are those products, and that is what is measured here: the arithmetic stays
that of the original, and the KL is that of the weights alone.

`quantise_layers` quantises the linear layers and leaves embedding and head, as `transformers` does
when it quantises with torchao; so ``FOLDER@int8`` is the model that ``kullback quantise FOLDER
--scheme int8`` saves.  `quantise` takes a mini-GPT's embedding, which is its head too, with the
rest: most of so small a model's weights are there.  Normalisation weights and biases stay.
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kullback.errors import InvalidValueError, MissingExtraError
from kullback.training.gpt import GPT

if TYPE_CHECKING:
    from torchao.core.config import AOBaseConfig

__all__ = [
    "QuantisedGPT",
    "Scheme",
    "linear_weights",
    "quantise",
    "quantise_layers",
    "size_in_bytes",
]

PATTERN = re.compile(r"int([1-8])(?:-g(\d+))?")
# One 8-bit float with a scale a row; the 16-bit ones need none.
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

        >>> Scheme.parse("int4-g32")
        Scheme(bits=4, group=32, floating=None)
        """
        if name in FLOATS:
            return cls(8 * FLOATS[name].itemsize, None, name)
        match = PATTERN.fullmatch(name)
        if not match or match[2] == "0":
            raise InvalidValueError(
                f"the scheme {name!r} is unknown: write int8, int4-g32, int2-g32 and the like "
                "(intBITS for one scale a row, intBITS-gSIZE for one scale every SIZE weights), "
                f"or one of {', '.join(FLOATS)}"
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

    def size_in_bytes(self, shape: torch.Size) -> int:
        """The size of a matrix: its numbers packed to their bits, and float32 scales."""
        rows, columns = shape
        scales = (
            0 if self.floating in ("bf16", "fp16") else rows * (columns // (self.group or columns))
        )
        return -(-rows * columns * self.bits // 8) + 4 * scales

    def check_fits(self, name: str, shape: torch.Size) -> None:
        """Raise `InvalidValueError` where the columns of layer `name` are no whole groups."""
        if self.group and shape[1] % self.group:
            raise InvalidValueError(
                f"the scheme {self.name} does not fit {name}: its {shape[1]} columns are not a "
                f"multiple of {self.group}; choose another group size"
            )

    def torchao_config(self) -> AOBaseConfig:
        """The scheme in torchao's words; not for the 16-bit floats, which need none."""
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


def size_in_bytes(model: nn.Module) -> int:
    """The size of a model's parameters as they are kept, each shared one once."""
    return sum(_kept_bytes(weight) for weight in model.parameters())


def _kept_bytes(weight: Tensor) -> int:
    """The bytes of a tensor; of one that wraps others (torchao's), theirs."""
    if hasattr(weight, "__tensor_flatten__"):
        inner, _ = weight.__tensor_flatten__()
        return sum(_kept_bytes(getattr(weight, name)) for name in inner)
    return weight.element_size() * weight.numel()


def quantise(gpt: GPT, scheme: Scheme) -> QuantisedGPT:
    """A quantised copy of `gpt`, embedding and all; the original is not touched.

    Raises `MissingExtraError` without torchao, `InvalidValueError` where a matrix has a width that
    the group size does not divide.
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
    model: nn.Module, scheme: Scheme, wanted: Callable[[str], bool] = lambda name: True
) -> int:
    """Quantise the linear layers of `model` in place, but the head; the model's new size in bytes.

    `wanted` chooses among them by name.  Raises as `quantise` does.
    """
    saved = 0
    for name, matrix in linear_weights(model):
        if wanted(name):
            matrix.copy_(_rounded(matrix, scheme, name))
            saved += matrix.element_size() * matrix.numel() - scheme.size_in_bytes(matrix.shape)
    return size_in_bytes(model) - saved


def linear_weights(model: nn.Module) -> list[tuple[str, Float[Tensor, "out in"]]]:
    """The matrices of the linear layers but the head, each as (out, in), by layer name.

    They are views into the model: GPT-2's layers keep (in, out), and are shown transposed.
    """
    head = getattr(model, "get_output_embeddings", lambda: None)()
    found = []
    for name, layer in model.named_modules():
        weight = getattr(layer, "weight", None)
        if layer is head or not isinstance(weight, nn.Parameter) or weight.ndim != 2:
            continue
        if isinstance(layer, nn.Linear):
            found.append((name, weight.detach()))
        elif type(layer).__name__ == "Conv1D":
            found.append((name, weight.detach().T))
    return found


def _rounded(matrix: Float[Tensor, "out in"], scheme: Scheme, name: str) -> Float[Tensor, "out in"]:
    """The matrix after quantising and back."""
    if scheme.floating in ("bf16", "fp16"):
        return matrix.to(FLOATS[scheme.floating]).to(matrix.dtype)
    try:
        # At import, torchao says that its CUDA libraries do not load on a CPU, and torch that
        # torchao registers its enums the old way: neither is for our user to mend.
        logging.getLogger("torchao").setLevel(logging.ERROR)
        logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
        from torchao.quantization import quantize_
    except ImportError as error:
        raise MissingExtraError(
            "quantisation needs torchao: pip install 'kullback[quantise]'"
        ) from error
    scheme.check_fits(name, matrix.shape)
    rows, columns = matrix.shape
    shell = nn.Linear(columns, rows, bias=False, device="meta", dtype=matrix.dtype)
    shell.weight = nn.Parameter(matrix.clone(memory_format=torch.contiguous_format))
    quantize_(shell, scheme.torchao_config())
    rounded: Tensor = shell.weight.dequantize()
    return rounded
