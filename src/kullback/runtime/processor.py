"""Which types of numbers the processor, and torch on it, multiplies.

Two questions are asked of 16-bit numbers: whether torch has matrix products of that type that are
as fast as those of float32 (`multiplies`), and whether the processor itself has such products,
so that they may be faster (`multiplies_bfloat16`).
"""

from __future__ import annotations

import platform
from functools import cache

import torch

__all__ = [
    "VECTOR_FLAGS",
    "arithmetic_of_processor",
    "has_amx",
    "multiplies",
    "multiplies_bfloat16",
    "vector_flags",
]

VECTOR_FLAGS = {"AVX2": ("-mavx2", "-mfma"), "AVX512": ("-mavx512f", "-mfma")}
"""Of a C compiler, by torch's name of the vector instructions that it uses."""


@cache
def multiplies(dtype: torch.dtype) -> bool:
    """Whether this processor (and torch on it) multiplies matrices of that type at full speed.

    >>> multiplies(torch.float32)
    True
    """
    checks = {
        torch.bfloat16: "_is_mkldnn_bf16_supported",
        torch.float16: "_is_mkldnn_fp16_supported",
    }
    if dtype not in checks:
        return True
    check = getattr(torch.ops.mkldnn, checks[dtype], None)
    return check is not None and bool(check())


def multiplies_bfloat16() -> bool:
    """Whether the processor has products of bfloat16, which torch may emulate otherwise."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        return _has_avx512_bf16() or has_amx()
    return multiplies(torch.bfloat16)


def has_amx() -> bool:
    """Whether the processor has AMX, which multiplies tiles of bfloat16 numbers."""
    return _uses_avx512() and bool(torch.cpu._is_amx_tile_supported())


def _has_avx512_bf16() -> bool:
    return _uses_avx512() and bool(torch.cpu._is_avx512_bf16_supported())


def _uses_avx512() -> bool:
    """Whether torch uses AVX-512: with ``ATEN_CPU_CAPABILITY=avx2`` it has no bfloat16 either."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def arithmetic_of_processor() -> str:
    """What the rounding of sums and products depends on: vector instructions, 16-bit products.

    >>> arithmetic_of_processor().startswith(torch.backends.cpu.get_cpu_capability())
    True
    """
    parts = [torch.backends.cpu.get_cpu_capability()]
    if platform.machine().lower() in ("x86_64", "amd64"):
        if _has_avx512_bf16():
            parts.append("AVX512-BF16")
        if has_amx():
            parts.append("AMX")
    elif multiplies_bfloat16():
        parts.append("bfloat16")
    return ", ".join(parts)


def vector_flags() -> tuple[str, ...]:
    """A C compiler's flags for the vector instructions that torch uses; others might crash."""
    return VECTOR_FLAGS.get(torch.backends.cpu.get_cpu_capability(), ())
