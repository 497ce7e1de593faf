"""How a model computes while it trains: where, with which functions, and the type of its products.

Weights, the residual stream, normalisations, the loss and all statistics are float32.  With
bfloat16, the operands of matrix products are rounded to it, on an accelerator attention and the
product inside SwiGLU, too; products are summed in float32.

On a CPU the functions of a block are our own (:mod:`kullback.training.block_functions`,
:mod:`kullback.training.packed_attention`), which make few passes over memory.  An accelerator is
given torch's operations (:mod:`kullback.training.torch_block`), which `torch.compile` can fuse.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from kullback.runtime.compiled_library import source_digest
from kullback.runtime.mkl_products import mkl_products
from kullback.runtime.processor import (
    VECTOR_FLAGS,
    arithmetic_of_processor,
    multiplies,
    multiplies_bfloat16,
    vector_flags,
)
from kullback.runtime.progress import Progress
from kullback.training import block_library, muon_library
from kullback.training.block_library import BlockFunctions, block_functions
from kullback.training.config import TrainingConfig
from kullback.training.muon_library import SMALL_SIDE, muon_functions

__all__ = [
    "CPU",
    "Arithmetic",
    "arithmetic_of_run",
    "muon_steps",
    "note_other_bits",
    "product",
    "with_native",
]

CPU = torch.device("cpu")
# Tests set it, to run on a CPU what an accelerator runs.
ACCELERATED_ON_CPU = False
# What the version of the functions in C follows.
VERSION = "functions in C "


@dataclass(frozen=True)
class Arithmetic:
    """What a model's blocks, the loss and the training loop choose their functions by."""

    device: torch.device = CPU
    bfloat16: bool = False
    """Whether the operands of products are rounded to bfloat16."""
    accelerated: bool = False
    """Whether torch's operations are used, and the host does not wait for a step to end."""
    compiled: bool = False
    """Whether `torch.compile` fuses the operations of a block."""
    functions: BlockFunctions | None = None
    """Those between the products of a block, in C."""

    @classmethod
    def of(cls, config: TrainingConfig, device: torch.device) -> Arithmetic:
        """That of a run on this device."""
        accelerated = device.type != "cpu" or ACCELERATED_ON_CPU
        native = config.native and not accelerated and not config.fsdp
        functions = block_functions() if native else None
        return cls(device, config.dtype == "bfloat16", accelerated, config.compiled, functions)


def with_native(config: TrainingConfig, device: torch.device) -> TrainingConfig:
    """The configuration of a new run, in C where that is possible: on a CPU with a C compiler.

    A sharded run, whose process computes a piece in several threads, is given torch's functions.
    Muon's steps are the fewest that are as good here.
    """
    possible = device.type == "cpu" and not ACCELERATED_ON_CPU and not config.fsdp
    native = possible and block_functions() is not None
    return replace(config, native=native, muon_steps=muon_steps(device))


def muon_steps(device: torch.device) -> int:
    """In how many steps Muon of a new run orthogonalises large matrices.

    Three where a CPU has neither AVX-512 nor products of bfloat16, so that Muon takes much of the
    time of a step; else Jordan's five.
    """
    fast = vector_flags() == VECTOR_FLAGS["AVX512"] or multiplies_bfloat16()
    return 5 if device.type != "cpu" or fast else 3


def product(a: Tensor, b: Tensor, bfloat16: bool) -> Tensor:
    """``a @ b`` in float32; with `bfloat16`, of rounded operands and itself rounded.

    A processor that does not multiply bfloat16 multiplies the rounded operands in float32.

    >>> product(torch.full((1, 1), 1.001), torch.ones(1, 1), bfloat16=True)
    tensor([[1.]])
    """
    if not bfloat16:
        return a @ b
    if a.device.type != "cpu" or multiplies(torch.bfloat16):
        return (a.bfloat16() @ b.bfloat16()).float()
    return (a.bfloat16().float() @ b.bfloat16().float()).bfloat16().float()


def arithmetic_of_run(config: TrainingConfig) -> str:
    """What the rounding of a run on a CPU depends on: its processor, and what is computed in C."""
    parts = [arithmetic_of_processor()]
    if config.native and block_functions() is not None:
        has_products = mkl_products() is not None
        # Earlier versions left large blocks to torch, and said "Muon in C".
        is_small = 0 < config.muon_rows <= SMALL_SIDE
        muon = "Muon in C" if is_small or not has_products else "Muon of all matrices in C"
        if muon != "Muon in C" and vector_flags() == VECTOR_FLAGS["AVX2"]:
            muon = "Muon of all matrices by triangles in C"
        parts += ["products of MKL"] * has_products
        parts += [muon] * (muon_functions() is not None)
        parts.append(f"{VERSION}{_version_of_functions()}")
    return ", ".join(parts)


@cache
def _version_of_functions() -> str:
    digests = [source_digest(source) for source in (block_library.SOURCE, muon_library.SOURCE)]
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:8]


def _is_other_arithmetic(began: str, now: str) -> bool:
    """Whether they differ, as far as it is known: earlier versions did not name their functions."""
    if VERSION not in began:
        now = now.partition(f", {VERSION}")[0]
    return began not in ("", now)


def note_other_bits(
    config: TrainingConfig,
    device: torch.device,
    progress: Progress,
    began: tuple[str, str] = ("", ""),
) -> None:
    """Note where a run that is resumed on a device may end with other bits.

    `began` are the version of torch and the arithmetic (`arithmetic_of_run`) that it began with,
    empty where these are unknown.
    """
    version, processor = began
    changes = []
    if version not in ("", torch.__version__):
        changes.append(f"torch {version}, not {torch.__version__}")
    if device.type == "cpu" and config.native and Arithmetic.of(config, device).functions is None:
        changes.append("functions in C, which are not compiled here")
    elif device.type == config.device == "cpu":
        now = arithmetic_of_run(config)
        if _is_other_arithmetic(processor, now):
            changes.append(f"other arithmetic ({processor}; now {now})")
    if changes:
        progress.note(
            f"the run began with {' and '.join(changes)}: the last bits of the weights may differ "
            "from those of an uninterrupted run"
        )
    if device.type != config.device:
        progress.note(
            f"the run began on {config.device} and is resumed on {device.type}, which rounds "
            "differently: the last bits of the weights may differ"
        )
    elif device.type != "cpu":
        progress.note(
            f"sums of attention's gradients have no fixed order on {device.type}: the last bits "
            "of the weights may differ from those of an uninterrupted run"
        )
