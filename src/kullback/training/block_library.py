"""The functions of a block between its matrix products, in C: one sweep over memory each.

``block_functions.c`` computes what :mod:`kullback.training.block_functions`,
:mod:`kullback.training.packed_attention` and :mod:`kullback.training.linear_cross_entropy` compute
with torch, whose operations on a small model are limited by memory and by the GIL.
The system's C compiler compiles it at the first use (a few seconds) into a cache
(`kullback.runtime.compiled_library`).  Calls release the lock, and each uses one thread.

Operands are all float32 or all bfloat16, contiguous, on a CPU; what is said to be float32 is always
that.

Axes: M tokens, N sequences, D width, H heads, P rotated pairs of a head, C rows of a matrix, F
width of the MLP, B rows, V vocabulary.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kullback.errors import InvalidValueError
from kullback.runtime.compiled_library import FLAGS, FLOAT, INT, LONG, POINTER, load_compiled
from kullback.runtime.processor import vector_flags
from kullback.training.torch_block import BlockWeights

__all__ = ["BlockFunctions", "BlockShape", "Kept", "Positions", "block_functions"]

SOURCE = Path(__file__).with_name("block_functions.c")
SIGNATURES = {
    "normalise": (LONG, LONG, POINTER, POINTER, FLOAT, *[POINTER] * 3, INT),
    "normalise_backward": (LONG, LONG, *[POINTER] * 6, INT),
    "add": (LONG, *[POINTER] * 3),
    "scale": (LONG, LONG, *[POINTER] * 3, INT),
    "scale_backward": (LONG, LONG, *[POINTER] * 5, INT),
    "swiglu": (LONG, LONG, *[POINTER] * 2, INT),
    "swiglu_backward": (LONG, LONG, *[POINTER] * 4, INT),
    "attention": (LONG, POINTER, LONG, LONG, *[POINTER] * 5, INT),
    "attention_backward": (LONG, POINTER, LONG, LONG, *[POINTER] * 7, INT),
    "block": (POINTER, POINTER, FLOAT, POINTER),
    "block_backward": (POINTER, POINTER, POINTER),
    "cross_entropy": (LONG, LONG, *[POINTER] * 5),
}
RESULTS = dict.fromkeys(("attention", "attention_backward", "block", "block_backward"), INT)


@dataclass(frozen=True, eq=False)
class Positions:
    """Where sequences begin and end among the tokens, and the rotation of each position."""

    bounds_N: Int[Tensor, "N+1"]
    """Sequence n is in the rows from the n-th bound until before the next."""
    cosine_TP: Float[Tensor, "T P"]
    sine_TP: Float[Tensor, "T P"]

    @property
    def tokens(self) -> int:
        """Of all sequences."""
        return int(self.bounds_N[-1])

    def arguments(self, heads: int, head_width: int) -> tuple[int, ...]:
        """What the C functions take first."""
        bounds, cosine, sine = self.bounds_N, self.cosine_TP, self.sine_TP
        return (
            len(bounds) - 1, bounds.data_ptr(), heads, head_width, cosine.data_ptr(),
            sine.data_ptr(),
        )  # fmt: skip


class Kept(NamedTuple):
    """What a block keeps for the backward pass; operands of products in their type."""

    unit_MD: Float[Tensor, "M D"]
    qkv_MC: Float[Tensor, "M 3*D"]
    mixed_MD: Float[Tensor, "M D"]
    mlp_unit_MD: Float[Tensor, "M D"]
    gate_up: Float[Tensor, "M 2*F"]
    inverse_M: Float[Tensor, "M"]
    normaliser_HM: Float[Tensor, "H M"]
    mlp_inverse_M: Float[Tensor, "M"]
    qkv_CD: Float[Tensor, "3*D D"]
    gate_up_CD: Float[Tensor, "2*F D"]
    o_DD: Float[Tensor, "D D"]
    down_DF: Float[Tensor, "D F"]

    @classmethod
    def empty(
        cls, x_MD: Float[Tensor, "M D"], heads: int, weights: BlockWeights, dtype: torch.dtype
    ) -> Kept:
        """Memory for it; in float32 the last two are the weights themselves."""
        (M, D), F = x_MD.shape, len(weights.gate)
        rows = [x_MD.new_empty(M, width, dtype=dtype) for width in (D, 3 * D, D, D, 2 * F)]
        of_tokens = x_MD.new_empty(M), x_MD.new_empty(heads, M), x_MD.new_empty(M)
        scaled = [x_MD.new_empty(count, D, dtype=dtype) for count in (3 * D, 2 * F)]
        others = weights.o, weights.down
        if dtype != torch.float32:
            others = weights.o.new_empty(D, D, dtype=dtype), weights.o.new_empty(D, F, dtype=dtype)
        return cls._make((*rows, *of_tokens, *scaled, *others))


@dataclass(frozen=True, eq=False)
class BlockShape:
    """What the C functions of a whole block take, but for tensors."""

    gemm: int
    """The address of the function for products of `dtype` (`kullback.runtime.mkl_products`)."""
    dtype: torch.dtype
    positions: Positions
    heads: int
    eps: float

    def arguments(self, weights: BlockWeights, kept: Kept) -> ctypes.Array[ctypes.c_int64]:
        """The structure ``Block`` of the C functions."""
        (M, D), F = kept.unit_MD.shape, len(weights.gate)
        sequences, bounds, heads, _, *rotation = self.positions.arguments(self.heads, D)
        bf16 = _is_bfloat16(kept.unit_MD)
        pointers = (tensor.data_ptr() for tensor in (*weights, *kept))
        numbers = self.gemm, bf16, M, D, heads, F, sequences, bounds, *rotation, *pointers
        return (LONG * len(numbers))(*numbers)


@dataclass(frozen=True, eq=False)
class BlockFunctions:
    """The C functions, called with tensors."""

    library: ctypes.CDLL

    def __deepcopy__(self, memo: object) -> BlockFunctions:
        """Itself: a copy of a model calls the same functions."""
        return self

    def normalise(
        self,
        x_MD: Float[Tensor, "M D"],
        y_MD: Float[Tensor, "M D"] | None,
        eps: float,
        dtype: torch.dtype,
    ) -> tuple[Float[Tensor, "M D"], Float[Tensor, "M D"], Float[Tensor, "M"]]:
        """``x + y`` in float32, it over its root mean square in `dtype`, and 1 over that."""
        M, D = x_MD.shape
        total_MD = x_MD if y_MD is None else torch.empty_like(x_MD)
        unit_MD, inverse_M = torch.empty_like(x_MD, dtype=dtype), x_MD.new_empty(M)
        self.library.kullback_normalise(
            M, D, x_MD.data_ptr(), None if y_MD is None else y_MD.data_ptr(), eps,
            total_MD.data_ptr(), unit_MD.data_ptr(), inverse_M.data_ptr(), _is_bfloat16(unit_MD),
        )  # fmt: skip
        return total_MD, unit_MD, inverse_M

    def normalise_backward(
        self,
        grad_unit_MD: Float[Tensor, "M D"],
        unit_MD: Float[Tensor, "M D"],
        inverse_M: Float[Tensor, "M"],
        grad_MD: Float[Tensor, "M D"],
    ) -> tuple[Float[Tensor, "M D"], Float[Tensor, "M D"]]:
        """The float32 gradient of what was normalised, added to `grad_MD`; and rounded as units."""
        M, D = unit_MD.shape
        out_MD = torch.empty_like(grad_MD)
        bf16 = _is_bfloat16(unit_MD)
        rounded_MD = torch.empty_like(unit_MD) if bf16 else out_MD
        self.library.kullback_normalise_backward(
            M, D, grad_unit_MD.data_ptr(), unit_MD.data_ptr(), inverse_M.data_ptr(),
            grad_MD.data_ptr(), out_MD.data_ptr(), rounded_MD.data_ptr(), bf16,
        )  # fmt: skip
        return out_MD, rounded_MD

    def add(self, x: Float[Tensor, "..."], y: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The sum of float32 and bfloat16 in float32."""
        out = torch.empty_like(x)
        self.library.kullback_add(x.numel(), x.data_ptr(), y.data_ptr(), out.data_ptr())
        return out

    def scale(
        self, matrix_CD: Float[Tensor, "C D"], weight_D: Float[Tensor, "D"], out_CD: Tensor
    ) -> None:
        """Write each column times its weight."""
        C, D = matrix_CD.shape
        self.library.kullback_scale(
            C, D, matrix_CD.data_ptr(), weight_D.data_ptr(), out_CD.data_ptr(), _is_bfloat16(out_CD)
        )

    def scale_backward(
        self,
        grad_CD: Float[Tensor, "C D"],
        matrix_CD: Float[Tensor, "C D"],
        weight_D: Float[Tensor, "D"],
        grad_weight_D: Float[Tensor, "D"],
    ) -> Float[Tensor, "C D"]:
        """The float32 gradient of the matrix; that of the weight is added to `grad_weight_D`."""
        C, D = matrix_CD.shape
        out_CD = torch.empty_like(matrix_CD)
        self.library.kullback_scale_backward(
            C, D, grad_CD.data_ptr(), matrix_CD.data_ptr(), weight_D.data_ptr(),
            out_CD.data_ptr(), grad_weight_D.data_ptr(), _is_bfloat16(grad_CD),
        )  # fmt: skip
        return out_CD

    def swiglu(self, gate_up: Float[Tensor, "M 2*F"]) -> Float[Tensor, "M F"]:
        """silu(gate) × up of the two halves."""
        M, F = len(gate_up), gate_up.shape[1] // 2
        out_MF = gate_up.new_empty(M, F)
        self.library.kullback_swiglu(
            M, F, gate_up.data_ptr(), out_MF.data_ptr(), _is_bfloat16(gate_up)
        )
        return out_MF

    def swiglu_backward(
        self, gate_up: Float[Tensor, "M 2*F"], grad_MF: Float[Tensor, "M F"]
    ) -> tuple[Float[Tensor, "M 2*F"], Float[Tensor, "M F"]]:
        """The gradient of the two halves, and what `swiglu` gave."""
        grads, out_MF = torch.empty_like(gate_up), torch.empty_like(grad_MF)
        self.library.kullback_swiglu_backward(
            *grad_MF.shape, gate_up.data_ptr(), grad_MF.data_ptr(), out_MF.data_ptr(),
            grads.data_ptr(), _is_bfloat16(gate_up),
        )  # fmt: skip
        return grads, out_MF

    def attention(
        self, qkv_MC: Float[Tensor, "M 3*D"], positions: Positions, heads: int
    ) -> tuple[Float[Tensor, "M D"], Float[Tensor, "H M"]]:
        """Causal attention with rotary positions, and the normaliser of each token, for backward.

        Coordinate i of a head of queries and keys is turned with coordinate i + P.  Rows after the
        last sequence give zeros.
        """
        M, D = len(qkv_MC), qkv_MC.shape[1] // 3
        out_MD = qkv_MC.new_empty(M, D)
        normaliser_HM = qkv_MC.new_empty(heads, M, dtype=torch.float32)
        failed = self.library.kullback_attention(
            *positions.arguments(heads, D // heads), qkv_MC.data_ptr(), out_MD.data_ptr(),
            normaliser_HM.data_ptr(), _is_bfloat16(qkv_MC),
        )  # fmt: skip
        _check_memory(failed)
        out_MD[positions.tokens :] = 0.0
        return out_MD, normaliser_HM

    def attention_backward(
        self,
        qkv_MC: Float[Tensor, "M 3*D"],
        positions: Positions,
        heads: int,
        forward: tuple[Float[Tensor, "M D"], Float[Tensor, "H M"]],
        grad_MD: Float[Tensor, "M D"],
    ) -> Float[Tensor, "M 3*D"]:
        """The gradient of `qkv_MC`, where `attention` gave `forward`."""
        out_MD, normaliser_HM = forward
        grads_MC = torch.empty_like(qkv_MC)
        failed = self.library.kullback_attention_backward(
            *positions.arguments(heads, out_MD.shape[1] // heads), qkv_MC.data_ptr(),
            out_MD.data_ptr(), normaliser_HM.data_ptr(), grad_MD.data_ptr(), grads_MC.data_ptr(),
            _is_bfloat16(qkv_MC),
        )  # fmt: skip
        _check_memory(failed)
        grads_MC[positions.tokens :] = 0.0
        return grads_MC

    def block(
        self, x_MD: Float[Tensor, "M D"], shape: BlockShape, weights: BlockWeights
    ) -> tuple[Float[Tensor, "M D"], Kept]:
        """The residual stream after a block, and what is kept for the backward pass."""
        out_MD, kept = torch.empty_like(x_MD), Kept.empty(x_MD, shape.heads, weights, shape.dtype)
        arguments = shape.arguments(weights, kept)
        _check_memory(
            self.library.kullback_block(arguments, x_MD.data_ptr(), shape.eps, out_MD.data_ptr())
        )
        return out_MD, kept

    def block_backward(
        self, grad_MD: Float[Tensor, "M D"], shape: BlockShape, weights: BlockWeights, kept: Kept
    ) -> tuple[Float[Tensor, "M D"], BlockWeights]:
        """The gradients of what went in and of the weights, from that of what came out."""
        F, D = weights.gate.shape
        sizes = (D,), (3 * D, D), (D, D), (D,), (2 * F, D), (D, F)
        grad_x_MD, of_weights = torch.empty_like(grad_MD), [grad_MD.new_empty(s) for s in sizes]
        pointers = [tensor.data_ptr() for tensor in (grad_x_MD, *of_weights)]
        _check_memory(
            self.library.kullback_block_backward(
                shape.arguments(weights, kept),
                grad_MD.data_ptr(),
                (LONG * len(pointers))(*pointers),
            )
        )
        norm, qkv, o, mlp_norm, gate_up, down = of_weights
        gradients = norm, *qkv.chunk(3), o, mlp_norm, *gate_up.chunk(2), down
        return grad_x_MD, BlockWeights._make(gradients)

    def cross_entropy(
        self,
        logits_BV: Float[Tensor, "B V"],
        target_B: Int[Tensor, "B"],
        weight_B: Float[Tensor, "B"] | None,
        nll_B: Float[Tensor, "B"],
        rounded_BV: Float[Tensor, "B V"] | None = None,
    ) -> None:
        """Write the nll of each row of float32 logits; with weights, turn these into gradients.

        In place, or in bfloat16 into `rounded_BV`, when the logits are undefined.  Raises
        `InvalidValueError` for a target outside the vocabulary, of damaged data.
        """
        V = logits_BV.shape[1]
        if bool(((target_B < 0) | (target_B >= V)).any()):
            raise InvalidValueError(
                f"a target is outside the vocabulary of {V}: the data is damaged"
            )
        self.library.kullback_cross_entropy(
            *logits_BV.shape, logits_BV.data_ptr(), target_B.data_ptr(),
            None if weight_B is None else weight_B.data_ptr(), nll_B.data_ptr(),
            None if rounded_BV is None else rounded_BV.data_ptr(),
        )  # fmt: skip


def _is_bfloat16(x: Tensor) -> bool:
    return x.dtype == torch.bfloat16


def _check_memory(failed: int) -> None:
    if failed:
        raise MemoryError("there is no memory for the rows of a sequence")


@cache
def block_functions() -> BlockFunctions | None:
    """The functions, compiled where they are not cached; None where disabled or not to be made."""
    library = load_compiled(SOURCE, (*FLAGS, *vector_flags()))
    if library is None:
        return None
    for name, signature in SIGNATURES.items():
        function = getattr(library, f"kullback_{name}")
        function.argtypes, function.restype = signature, RESULTS.get(name)
    return BlockFunctions(library)
