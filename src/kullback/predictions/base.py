"""Predictions of the next token, in forms whose size does not depend on the vocabulary.

A language model over V tokens gives V logits at each position, and a measure needs them only once,
a block at a time.  So predictions compute logits on demand.  They have three forms:

* :class:`FactoredPredictions`: hidden states and the head; a block of logits is one matmul;
* :class:`DensePredictions`: logits (or log-probabilities, which are logits too) in memory;
* :class:`ComputedPredictions`: a function that computes the rows that it is asked for.

All yield blocks of **logits**: numbers whose softmax over V is the distribution.

Axes: M rows (positions of all sequences), B rows of a block, D width, V vocabulary, W columns of a
block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kullback.runtime.bfloat16_products import bfloat16_products
from kullback.runtime.fast_linear import linear

__all__ = [
    "ComputedPredictions",
    "DensePredictions",
    "FactoredPredictions",
    "Head",
    "Predictions",
    "StoredHead",
    "at_least_float32",
    "joined",
]

ALL = slice(None)
"""All columns of the vocabulary."""
# Tensor cores truncate their sums, by an error that grows with their length: of 4,096 products
# logits differ from float64 by 1.8e-5 (standard deviation, H100), in two parts by 8e-6.
SUMMED_AT_ONCE = 2048
# Of a head that is converted to another type at a time.
WIDENED_BYTES = 64 << 20


class Predictions(Protocol):
    """Distributions over the next token at M positions."""

    def __len__(self) -> int:
        """M."""

    @property
    def vocabulary_size(self) -> int:
        """V."""

    def logits(self, rows: slice, columns: slice = ALL) -> Float[Tensor, "B W"]:
        """The logits of some rows and columns of the vocabulary; the caller may overwrite them."""

    def select(self, rows_M: Int[Tensor, "M"]) -> Predictions:
        """The predictions at some of the positions."""


@dataclass(frozen=True)
class Head:
    """The last layer of a model: from hidden states to logits.

    ``logits = cap(scale × (hidden @ weight.T + bias))``, where
    ``cap(x) = softcap × tanh(x / softcap)`` where a soft-cap is given (Gemma 2), else x.  The
    arithmetic is that of the hidden states: a 16-bit weight is converted to their type, a block of
    columns at a time, which costs about a twentieth of the block's matmul and no memory.
    """

    weight_VD: Float[Tensor, "V D"]
    bias_V: Float[Tensor, "V"] | None = None
    scale: float = 1.0
    softcap: float | None = None
    product_dtype: torch.dtype | None = None
    """The 16-bit type that the hidden states had before they were widened, where known.  CUDA, and
    a CPU that has such products, multiply them in this type: the products are exact and summed in
    float32."""

    def multiplies_16_bits(self, device: torch.device) -> bool:
        """Whether the products on `device` are of 16-bit numbers, summed in float32."""
        if self.product_dtype != self.weight_VD.dtype:
            return False
        if device.type == "cpu":
            is_paired = self.product_dtype == torch.bfloat16 and self.weight_VD.shape[1] % 2 == 0
            return is_paired and bfloat16_products() is not None
        return device.type == "cuda"

    def on(self, device: torch.device) -> Head:
        """The head with its weights on `device`."""
        bias_V = None if self.bias_V is None else self.bias_V.to(device)
        return replace(self, weight_VD=self.weight_VD.to(device), bias_V=bias_V)

    def logits(self, hidden_BD: Float[Tensor, "B D"], columns: slice = ALL) -> Float[Tensor, "B W"]:
        """The logits of some columns: one matmul, the rest in place."""
        weight_WD = self.weight_VD[columns]
        bias_W = None if self.bias_V is None else self.bias_V[columns].to(hidden_BD.dtype)
        if self.multiplies_16_bits(hidden_BD.device):
            logits_BW = _product_of_16_bits(hidden_BD.to(weight_WD.dtype), weight_WD)
            if bias_W is not None:
                logits_BW += bias_W
        else:
            logits_BW = _widened_product(hidden_BD, weight_WD, bias_W)
        if self.scale != 1.0:
            logits_BW *= self.scale
        if self.softcap is not None:
            logits_BW.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits_BW


@dataclass(frozen=True)
class StoredHead(Head):
    """The head in a recording: its numbers never change, so it is moved to a device once."""

    _moved: dict[torch.device, Head] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def on(self, device: torch.device) -> Head:
        """The head with its weights on `device`, the same object each time."""
        if device not in self._moved:
            self._moved[device] = super().on(device)
        return self._moved[device]


def _widened_product(
    hidden_BD: Float[Tensor, "B D"],
    weight_WD: Float[Tensor, "W D"],
    bias_W: Float[Tensor, "W"] | None,
) -> Float[Tensor, "B W"]:
    """hidden @ weight.T + bias; the weight is converted to the type of the hidden states."""
    dtype, (W, D) = hidden_BD.dtype, weight_WD.shape
    most = max(1, WIDENED_BYTES // (D * dtype.itemsize))
    if weight_WD.dtype == dtype or most >= W:
        return linear(hidden_BD, weight_WD.to(dtype), bias_W)
    logits_BW = hidden_BD.new_empty(len(hidden_BD), W)
    for first in range(0, W, most):
        part = slice(first, first + most)
        bias_w = None if bias_W is None else bias_W[part]
        logits_BW[:, part] = linear(hidden_BD, weight_WD[part].to(dtype), bias_w)
    return logits_BW


def _product_of_16_bits(
    hidden_BD: Float[Tensor, "B D"], weight_WD: Float[Tensor, "W D"]
) -> Float[Tensor, "B W"]:
    """hidden @ weight.T in float32, on CUDA summed over parts of `SUMMED_AT_ONCE` first."""
    products = bfloat16_products() if hidden_BD.device.type == "cpu" else None
    if products is not None:
        return products.product(hidden_BD, weight_WD)
    D = hidden_BD.shape[1]
    parts = [slice(first, first + SUMMED_AT_ONCE) for first in range(0, D, SUMMED_AT_ONCE)]
    first, *others = ((hidden_BD[:, part], weight_WD[:, part].T) for part in parts)
    logits_BW = torch.mm(*first, out_dtype=torch.float32)
    for hidden_Bd, weight_dW in others:
        torch.addmm(logits_BW, hidden_Bd, weight_dW, out_dtype=torch.float32, out=logits_BW)
    return logits_BW


@dataclass(frozen=True)
class FactoredPredictions:
    """Hidden states and the head; logits are computed on demand."""

    hidden_MD: Float[Tensor, "M D"]
    head: Head

    def __len__(self) -> int:
        return len(self.hidden_MD)

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return len(self.head.weight_VD)

    def logits(self, rows: slice, columns: slice = ALL) -> Float[Tensor, "B W"]:
        """One matmul."""
        return self.head.logits(self.hidden_MD[rows], columns)

    def hidden_on_host(self) -> Float[Tensor, "M D"]:
        """The hidden states in host memory, in the 16 bits that they were widened from, if any."""
        return self.hidden_MD.detach().to("cpu", self.head.product_dtype or self.hidden_MD.dtype)

    def select(self, rows_M: Int[Tensor, "M"]) -> FactoredPredictions:
        """The same head and some of the hidden states."""
        return FactoredPredictions(self.hidden_MD[rows_M], self.head)


@dataclass(frozen=True)
class DensePredictions:
    """Logits in memory."""

    logits_MV: Float[Tensor, "M V"]

    def __len__(self) -> int:
        return len(self.logits_MV)

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.logits_MV.shape[1]

    def logits(self, rows: slice, columns: slice = ALL) -> Float[Tensor, "B W"]:
        """A copy of the block."""
        return self.logits_MV[rows, columns].clone()

    def select(self, rows_M: Int[Tensor, "M"]) -> DensePredictions:
        """Some of the rows."""
        return DensePredictions(self.logits_MV[rows_M])


@dataclass(frozen=True)
class ComputedPredictions:
    """Rows that a function computes from their indices."""

    rows_M: Int[Tensor, "M"]
    vocabulary_size: int
    compute: Callable[[Int[Tensor, "B"]], Float[Tensor, "B V"]]

    def __len__(self) -> int:
        return len(self.rows_M)

    def logits(self, rows: slice, columns: slice = ALL) -> Float[Tensor, "B W"]:
        """The rows that the function computes."""
        return self.compute(self.rows_M[rows])[:, columns]

    def select(self, rows_M: Int[Tensor, "M"]) -> ComputedPredictions:
        """Some of the indices."""
        return ComputedPredictions(self.rows_M[rows_M], self.vocabulary_size, self.compute)


def joined(parts: Sequence[Predictions]) -> Predictions:
    """The rows of predictions of one model, part after part.

    All must have hidden states, or all logits in memory, where there are several.
    """
    if len(parts) == 1:
        return parts[0]
    factored = [part for part in parts if isinstance(part, FactoredPredictions)]
    if len(factored) == len(parts):
        hidden_MD = torch.cat([part.hidden_MD for part in factored])
        return FactoredPredictions(hidden_MD, factored[0].head)
    dense = [part for part in parts if isinstance(part, DensePredictions)]
    assert len(dense) == len(parts), "other forms are read a window at a time"
    return DensePredictions(torch.cat([part.logits_MV for part in dense]))


def at_least_float32(values: Tensor) -> Tensor:
    """The values as float32, or as they are in float64."""
    return values if values.dtype == torch.float64 else values.float()
