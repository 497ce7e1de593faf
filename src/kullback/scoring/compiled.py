"""The sums over a block of logits in C: one sweep over a row, where torch needs fifty.

``block_sums.c`` does what :class:`kullback.scoring.token_statistics.BlockSums` and
:class:`kullback.scoring.log_ratio_sums.LogRatioSums` do with float32 on a CPU.  The system's C
compiler makes a library of it at the first use (a second), which is kept for the next time; where
there is no compiler, or `KULLBACK_COMPILE` is 0, the sums are torch's, with the same results up to
float32 rounding.  Calls leave Python's lock to other threads.

Axes: B rows, W words of a block, K most probable words.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["BlockLibrary", "RatioRoom", "block_library"]

SOURCE = Path(__file__).with_name("block_sums.c")
FLAGS = ("-O3", "-shared", "-fPIC", "-Wno-psabi")
# What torch was found to compute with; more than the processor has would end the process.
INSTRUCTIONS = {"AVX2": ("-mavx2", "-mfma"), "AVX512": ("-mavx512f", "-mfma")}
SECONDS = 60
# As in the C.
MOST_WORDS = 1024
HAS_FAR, HAS_EXCLUDED = 1, 2
POINTER, LONG, INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int

Top: TypeAlias = "tuple[Float[Tensor, 'B K'], Int[Tensor, 'B K']]"
"""The logits of the most probable words so far, falling, and the words."""


class RatioRoom(NamedTuple):
    """Where the sums over log-ratios of a block are to be written, in float32."""

    moments_KB: Float[Tensor, "9 B"]
    far_SB: Float[Tensor, "10 B"]
    excluded_SB: Float[Tensor, "4 B"]


@dataclass(frozen=True, eq=False)
class BlockLibrary:
    """The C functions; their arguments are checked here."""

    library: ctypes.CDLL

    def takes(self, *blocks_BW: Tensor) -> bool:
        """Whether all are blocks that the library can read: float32 on a CPU, rows in one piece."""
        return all(
            block_BW.dtype == torch.float32
            and block_BW.device.type == "cpu"
            and block_BW.stride(1) == 1
            and block_BW.shape[1] <= MOST_WORDS
            for block_BW in blocks_BW
        )

    def sums(
        self,
        first_column: int,
        block_BW: Float[Tensor, "B W"],
        target_logits_B: Float[Tensor, "B"],
        top: Top,
        sums_SB: Float[Tensor, "5 B"],
    ) -> None:
        """Write m, Z, S, √C and the words above the target, in float64, into `sums_SB`.

        The most probable words of `top` are brought up to date.
        """
        B, W = block_BW.shape
        targets_B, (top_logits_BK, top_tokens_BK) = target_logits_B.contiguous(), top
        self.library.kullback_block_sums(
            block_BW.data_ptr(), block_BW.stride(0), B, W, first_column, targets_B.data_ptr(),
            sums_SB.data_ptr(), top_logits_BK.data_ptr(), top_tokens_BK.data_ptr(),
            top_logits_BK.shape[1],
        )  # fmt: skip

    def pair(
        self,
        first_column: int,
        x_BW: Float[Tensor, "B W"],
        y_BW: Float[Tensor, "B W"],
        target_logits: tuple[Float[Tensor, "B"], Float[Tensor, "B"]],
        tops: tuple[Top, Top],
        state_4B: Float[Tensor, "4 B"],
        sums: tuple[Float[Tensor, "5 B"], Float[Tensor, "5 B"]],
        offset_B: Float[Tensor, "B"],
        ratios: RatioRoom,
    ) -> tuple[bool, bool]:
        """Write the sums of both models and of their log-ratios; whether far and excluded have any.

        `state_4B` holds m and Z of the words so far, of x and of y, in float64; it begins with the
        lowest float32 for m and 0 for Z.  It and the most probable words of `tops`, as many of
        either model, are brought up to date.  `sums` are written as by `sums`, and `offset_B` is
        what was taken for log Z_p - log Z_q, both Z about the m of the state, in float64.
        """
        B, W = x_BW.shape
        targets = [logits_B.contiguous() for logits_B in target_logits]
        found = self.library.kullback_pair_sums(
            x_BW.data_ptr(), x_BW.stride(0), y_BW.data_ptr(), y_BW.stride(0), B, W, first_column,
            *(each.data_ptr() for each in (*targets, state_4B, *sums, *tops[0], *tops[1])),
            tops[0][0].shape[1], offset_B.data_ptr(), *(part.data_ptr() for part in ratios),
        )  # fmt: skip
        return bool(found & HAS_FAR), bool(found & HAS_EXCLUDED)


@cache
def block_library() -> BlockLibrary | None:
    """The library, compiled if need be; None where it is not wanted or cannot be."""
    if os.environ.get("KULLBACK_COMPILE") == "0":
        return None
    try:
        library = ctypes.CDLL(str(_compiled(_cache_folder())))
    # RuntimeError: there is no home folder to keep it in.
    except (OSError, RuntimeError, subprocess.SubprocessError):
        return None
    library.kullback_block_sums.argtypes = [
        POINTER, LONG, LONG, INT, LONG, *[POINTER] * 4, INT,
    ]  # fmt: skip
    library.kullback_block_sums.restype = None
    library.kullback_pair_sums.argtypes = [
        POINTER, LONG, POINTER, LONG, LONG, INT, LONG, *[POINTER] * 9, INT, *[POINTER] * 4,
    ]  # fmt: skip
    library.kullback_pair_sums.restype = INT
    return BlockLibrary(library)


def _compiled(folder: Path) -> Path:
    """The library's file in `folder`, made by the system's compiler unless it is there.

    Raises `OSError` or `SubprocessError` where it cannot be made.
    """
    flags = (*FLAGS, *INSTRUCTIONS.get(torch.backends.cpu.get_cpu_capability(), ()))
    about = "\n".join((*flags, platform.machine(), platform.system()))
    name = hashlib.sha256(SOURCE.read_bytes() + about.encode()).hexdigest()[:16]
    library = folder / f"block_sums-{name}.so"
    if library.is_file():
        return library
    compiler = _compiler()
    folder.mkdir(parents=True, exist_ok=True)
    # Made beside its place and moved there whole: several processes may do it at once.
    with TemporaryDirectory(dir=folder, prefix=".making-") as draft:
        made = Path(draft) / library.name
        subprocess.run(
            [compiler, *flags, "-o", str(made), str(SOURCE), "-lm"],
            check=True, timeout=SECONDS, stdin=subprocess.DEVNULL, capture_output=True,
        )  # fmt: skip
        made.replace(library)
    return library


def _compiler() -> str:
    """The C compiler that there is: ``CC``, the one that built Python, or the usual names."""
    own = str(sysconfig.get_config_var("CC") or "").split()
    for name in (os.environ.get("CC"), *own[:1], "cc", "gcc", "clang"):
        path = shutil.which(name) if name else None
        if path is not None:
            return path
    raise FileNotFoundError("there is no C compiler")


def _cache_folder() -> Path:
    """Where libraries are kept: ``XDG_CACHE_HOME/kullback``, by default in ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "kullback"
