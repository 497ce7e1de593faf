"""The matrix products of MKL that torch brings with it, as addresses that C functions call.

In float32 torch's own products of small matrices are as fast, but each needs Python, the
GIL and a tensor; a C function calls many in turn.  MKL also sums products of bfloat16 numbers in
float32 and gives that, which on a CPU no public function of torch does.

GFLOP/s of one core (Sapphire Rapids):

============================================  ============  ============
product                                       torch         MKL
============================================  ============  ============
float32                                       150 to 200    160 to 197
bfloat16, 384 rows, widths of 128 to 704      289 to 1,038  608 to 1,019
bfloat16, 3,072 rows, widths of 384 to 2,048  482 to 1,777  820 to 1,154
============================================  ============  ============
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from kullback.runtime.processor import has_amx

__all__ = ["MKLProducts", "mkl_products"]

FLOAT32, BFLOAT16 = "sgemm_", "gemm_bf16bf16f32_"
"""Names of Fortran's interface."""


@dataclass(frozen=True)
class MKLProducts:
    """Addresses of the functions for operands of each type; None where there is none."""

    float32: int
    bfloat16: int | None

    def of(self, dtype: torch.dtype) -> int | None:
        """The address of the function for operands of that type."""
        return {torch.float32: self.float32, torch.bfloat16: self.bfloat16}.get(dtype)


@cache
def mkl_products() -> MKLProducts | None:
    """The products where torch has MKL's; those of bfloat16 where the processor has AMX, too.

    Without AMX, oneDNN's products of bfloat16 are not known to be slower.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None
    if not torch.backends.mkl.is_available():  # type: ignore[no-untyped-call] # theirs
        return None
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    except OSError:
        return None
    float32 = _address(library, FLOAT32, torch.float32)
    if float32 is None:
        return None
    bfloat16 = _address(library, BFLOAT16, torch.bfloat16) if has_amx() else None
    return MKLProducts(float32, bfloat16)


def _address(library: ctypes.CDLL, name: str, dtype: torch.dtype) -> int | None:
    """Where a function is, if it is there and a small product is that of float64."""
    try:
        function = library[name]
    except AttributeError:
        return None
    function.restype = None
    if not _is_right(function, dtype):
        return None
    return ctypes.cast(function, ctypes.c_void_p).value


def _is_right(function: Callable[..., None], dtype: torch.dtype) -> bool:
    """Whether 1 + a b is that of float64 within float32 rounding, for a of 5×96 and b of 96×7."""
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=draw).to(dtype) for shape in ((5, 96), (96, 7)))
    out = torch.ones(5, 7)
    # Fortran's matrices are by columns, so that it sees the transposes: out^T = b^T a^T.
    _gemm(function, b, a, out)
    expected = 1 + a.double() @ b.double()
    return torch.allclose(out.double(), expected, rtol=0, atol=1e-4)


def _gemm(function: Callable[..., None], first: Tensor, second: Tensor, out: Tensor) -> None:
    (k, m), n = first.shape, len(second)
    # Of which a library with integers of 32 bits reads the lower half.
    sizes = [ctypes.byref(ctypes.c_int64(size)) for size in (m, n, k)]
    one, rows_of_k = ctypes.byref(ctypes.c_float(1)), sizes[2]
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (first, second, out)]
    function(
        b"N", b"N", *sizes, one, pointers[0], sizes[0], pointers[1], rows_of_k, one, pointers[2],
        sizes[0],
    )  # fmt: skip
