"""Quantisation by name: fewer bits a weight, by torchao.

Weight-only schemes replace each row of a matrix, or each group of neighbours in it, by integers and
a scale; the layer computes with ``scale × integer``.  So a quantised model *is* the model whose
weights are those products, and that is what is measured here: the arithmetic stays float32, and
the KL is that of the weights alone.

The embedding, which is the head too, is quantised with the rest; normalisation weights are not.
"""

from __future__ import annotations

import copy
import logging
import re
from dataclasses import dataclass

import torch
from torch import nn

from kullback.errors import InvalidValueError, MissingExtraError
from kullback.gpt import GPT

__all__ = ["QuantisedGPT", "Scheme", "quantise", "size_in_bytes"]

PATTERN = re.compile(r"int([1-8])(?:-g(\d+))?")


@dataclass(frozen=True)
class Scheme:
    """Symmetric integers of `bits` bits, one scale for each row or each `group` of weights."""

    bits: int
    group: int | None

    @classmethod
    def parse(cls, name: str) -> Scheme:
        """The scheme of a name like ``int8`` or ``int4-g32``.

        >>> Scheme.parse("int4-g32")
        Scheme(bits=4, group=32)
        """
        match = PATTERN.fullmatch(name)
        if not match:
            raise InvalidValueError(
                f"the scheme {name!r} is unknown: write int8, int4-g32, int2-g32 and the like "
                "(intBITS for one scale a row, intBITS-gSIZE for one scale every SIZE weights)"
            )
        return cls(int(match[1]), int(match[2]) if match[2] else None)

    @property
    def name(self) -> str:
        """The name that `parse` reads."""
        return f"int{self.bits}" + (f"-g{self.group}" if self.group else "")


@dataclass(frozen=True, eq=False)
class QuantisedGPT:
    """A model whose matrices hold only values of the scheme, and its size."""

    gpt: GPT
    scheme: str
    size_bytes: int
    """Integers packed to their bits, float32 scales, and float32 for what is not quantised."""


def size_in_bytes(gpt: GPT) -> int:
    """The size of a model in float32."""
    return sum(4 * weight.numel() for weight in gpt.parameters())


def quantise(gpt: GPT, scheme: Scheme) -> QuantisedGPT:
    """A quantised copy of `gpt`; the original is not touched.

    Raises `MissingExtraError` without torchao, `InvalidValueError` where a matrix has a width that
    the group size does not divide.
    """
    try:
        # At import, torchao says that its CUDA libraries do not load on a CPU, and torch that
        # torchao registers its enums the old way: neither is for our user to mend.
        logging.getLogger("torchao").setLevel(logging.ERROR)
        logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
        from torchao.quantization import IntxWeightOnlyConfig, quantize_
        from torchao.quantization.granularity import PerAxis, PerGroup
    except ImportError as error:
        raise MissingExtraError(
            "quantisation needs torchao: pip install 'kullback[quantise]'"
        ) from error
    config = IntxWeightOnlyConfig(
        weight_dtype=getattr(torch, f"int{scheme.bits}"),
        granularity=PerGroup(scheme.group) if scheme.group else PerAxis(0),
        scale_dtype=torch.float32,
    )
    quantised, size = copy.deepcopy(gpt), 0
    for name, weight in quantised.named_parameters():
        if weight.ndim != 2:
            size += 4 * weight.numel()
            continue
        rows, columns = weight.shape
        if scheme.group and columns % scheme.group:
            raise InvalidValueError(
                f"the scheme {scheme.name} does not fit {name}: its {columns} columns are not a "
                f"multiple of {scheme.group}; choose another group size"
            )
        shell = nn.Linear(columns, rows, bias=False, device="meta")
        shell.weight = nn.Parameter(weight.detach().clone())
        quantize_(shell, config)
        weight.data.copy_(shell.weight.dequantize())
        scales = rows * (columns // scheme.group if scheme.group else 1)
        size += -(-weight.numel() * scheme.bits // 8) + 4 * scales
    return QuantisedGPT(quantised, scheme.name, size)
