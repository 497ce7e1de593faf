"""Products of bfloat16 matrices with float32 results, on a CPU that multiplies bfloat16.

oneDNN has them, and torch's own attention and compiled code call them, but no public function of
torch does: ``torch.mm(..., out_dtype=torch.float32)`` does not exist on a CPU, and with
``torch.backends.mkldnn.matmul.fp32_precision = "bf16"`` float32 matmuls of all threads of the
process would be rounded.  So the function of libtorch that compiled code calls
(``at::native::cpublas::brgemm``) is called here, after a check that it exists and gives the right
numbers; where it does not, the numbers are to be widened to float32.

One core (Sapphire Rapids, AMX), 512 rows, D = 576, 1,024 columns: 0.85 ms with the packing of the
weight, 4.4 ms in float32.

Axes: B rows, D width, W columns.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from kullback.runtime.processor import multiplies_bfloat16

__all__ = ["Bfloat16Products", "bfloat16_products"]

# Names of at::native::cpublas::brgemm of bfloat16 numbers, could_pack and brgemm_release in the C++
# ABI of Linux.
BRGEMM = "_ZN2at6native7cpublas6brgemmEllllllbPKN3c108BFloat16ES5_Pfb"
COULD_PACK = "_ZN2at6native7cpublas10could_packEN3c1010ScalarTypeE"
RELEASE = "_ZN2at6native7cpublas14brgemm_releaseEb"
BFLOAT16 = 15  # c10::ScalarType::BFloat16
# oneDNN compiles a kernel for each number of rows, 2 ms for 64 rows and 19 ms for 512.  So 64 rows
# are multiplied at a time, filled up with zeros: 0.70 ms for 512 rows, 0.61 ms all at once.
ROWS = 64


@dataclass(frozen=True, eq=False)
class Bfloat16Products:
    """The functions of libtorch."""

    brgemm: Callable[..., None]
    release: Callable[[bool], None]
    packs: bool
    """Whether the processor wants pairs of neighbouring rows of the second factor side by side, as
    AMX does."""
    is_able: Callable[[], bool] = lambda: True
    """Whether packed numbers are multiplied now: not inside
    ``torch.backends.mkldnn.flags(enabled=False)``, where libtorch would end the process."""

    def product(
        self, hidden_BD: Float[Tensor, "B D"], weight_WD: Float[Tensor, "W D"]
    ) -> Float[Tensor, "B W"]:
        """``hidden @ weight.T`` in float32 of bfloat16 numbers; D is even.

        `hidden_BD` may have another type, if its numbers are those of bfloat16.  The rows of the
        result are views of more rows in memory.
        """
        (B, D), W = hidden_BD.shape, len(weight_WD)
        if not W or (self.packs and not self.is_able()):
            return hidden_BD.float() @ weight_WD.float().T
        rows = -(-B // ROWS) * ROWS
        left_BD = torch.zeros(rows, D, dtype=torch.bfloat16)
        left_BD[:B] = hidden_BD
        right = weight_WD.contiguous()
        if right.storage_offset() % 2:  # of a view into other weights
            right = right.clone()
        # Two bfloat16 numbers are moved as one integer of 32 bits.
        right = (right.view(torch.int32) if self.packs else right).T.contiguous()
        out_BW = torch.empty(rows, W)
        for row in range(0, rows, ROWS):
            self.brgemm(
                ROWS, W, D, D, W, W, False, left_BD[row].data_ptr(), right.data_ptr(),
                out_BW[row].data_ptr(), self.packs,
            )  # fmt: skip
        self.release(self.packs)
        return out_BW[:B]


@cache
def bfloat16_products() -> Bfloat16Products | None:
    """The products, where this processor has them and this version of torch gives them."""
    if not multiplies_bfloat16():
        return None
    products = _from_torch()
    return products if products is not None and _is_right(products) else None


def _from_torch() -> Bfloat16Products | None:
    """The functions of libtorch, unchecked; None where they are not there."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        library = ctypes.CDLL(str(path))
        brgemm, could_pack, release = (library[name] for name in (BRGEMM, COULD_PACK, RELEASE))
    except (OSError, AttributeError):
        return None
    pointer, flag = ctypes.c_void_p, ctypes.c_bool
    brgemm.argtypes = [*[ctypes.c_int64] * 6, flag, pointer, pointer, pointer, flag]
    could_pack.argtypes, release.argtypes = [ctypes.c_int8], [flag]
    brgemm.restype, could_pack.restype, release.restype = None, flag, None
    # Packed numbers are refused by an exception where they are not supported, which would end the
    # process; where could_pack says yes, AMX multiplies them.
    packs = partial(could_pack, BFLOAT16)
    return Bfloat16Products(brgemm, release, packs(), packs)


def _is_right(products: Bfloat16Products) -> bool:
    """Whether a small product is that of float64 within float32 rounding."""
    draw = torch.Generator().manual_seed(0)
    hidden_BD, weight_WD = (
        torch.randn(shape, generator=draw).bfloat16() for shape in ((5, 96), (7, 96))
    )
    product_BW = products.product(hidden_BD, weight_WD)
    return torch.allclose(
        product_BW.double(), hidden_BD.double() @ weight_WD.double().T, rtol=0, atol=1e-4
    )
