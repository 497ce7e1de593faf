"""Weights as quantised checkpoints store them, back as the numbers that they stand for.

Every form here is a float or an integer, a scale, and sometimes a zero point: the weight is
``scale × (integer - zero)``, which float32 holds exactly but for the rounding of the product, and
of the scale ``SCB / 127`` of bitsandbytes.

========================  ========================================================================
fp8, mxfp8                ``W`` in 8-bit floats, ``W_scale_inv`` (``W_scale`` in files of AutoFP8):
                          one for each block, row or matrix
compressed-tensors        ``W`` (8 bits) or ``W_packed``, ``W_scale``, ``W_zero_point``
gptq                      ``qweight``, ``qzeros``, ``scales``, ``g_idx``, packed along the inputs
awq                       ``qweight``, ``qzeros``, ``scales``, packed along the outputs, reordered
bitsandbytes, 8 bits      ``W``, ``SCB``: the largest number of each row, which 127 stands for
mxfp4                     ``W_blocks``: pairs of 4-bit floats, ``W_scales``: an exponent for 32
========================  ========================================================================

Axes: E width out, D width in, G groups of inputs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kullback.errors import InvalidValueError

__all__ = ["DEQUANTISERS", "scaled"]

Weights: TypeAlias = dict[str, Tensor]
# The output column of each of the eight 4-bit numbers of a word of AWQ, the lowest bits first.
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
# The numbers of the 16 codes of a 4-bit float, E2M1 (OCP Microscaling Formats 1.0, table 5).
FP4_VALUES = (
    0.0,
    0.5,
    1.0,
    1.5,
    2.0,
    3.0,
    4.0,
    6.0,
    -0.0,
    -0.5,
    -1.0,
    -1.5,
    -2.0,
    -3.0,
    -4.0,
    -6.0,
)


def scaled(
    numbers: Tensor, scale: Tensor, zero: Tensor | None = None, block: tuple[int, int] | None = None
) -> Float[Tensor, "*experts E D"]:
    """``scale × (numbers - zero)`` in float32; `scale` is one for each block, row, group or matrix.

    A block at an edge may be smaller than `block`.  Raises `InvalidValueError` where the shapes do
    not fit.

    >>> scaled(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.5, 2.0]]), block=(2, 2))
    tensor([[0.5000, 1.0000, 6.0000]])
    """
    values = numbers.float()
    if scale.dtype == torch.uint8:  # exponents of two
        scale = torch.exp2(scale.float() - 127)
    E, D = values.shape[-2:]
    scale_ED = _spread(scale.float(), E, D, block)
    if zero is None:
        return values * scale_ED
    return (values - _spread(zero.float(), E, D, block)) * scale_ED


def _spread(values: Tensor, E: int, D: int, block: tuple[int, int] | None) -> Tensor:
    """The values of blocks, rows, groups or of the matrix, one for each number or to broadcast."""
    if values.numel() == 1:
        return values.reshape(())
    if values.ndim == 1:
        values = values[:, None]
    rows, columns = values.shape[-2:]
    if block is not None and (rows, columns) == (-(-E // block[0]), -(-D // block[1])):
        high, wide = block
    elif E % rows == 0 and D % columns == 0 and (rows in (1, E)):
        high, wide = E // rows, D // columns
    else:
        raise InvalidValueError(f"{rows} × {columns} scales do not fit a matrix of {E} × {D}")
    spread: Tensor = values.repeat_interleave(high, -2).repeat_interleave(wide, -1)
    cut: Tensor = spread[..., :E, :D]
    return cut


def unpacked(words: Int[Tensor, "*M W"], bits: int) -> Int[Tensor, "*M N"]:
    """The unsigned numbers of `bits` bits in 32-bit words, the lowest bits first.

    >>> unpacked(torch.tensor([0x21]), 4)
    tensor([1, 2, 0, 0, 0, 0, 0, 0], dtype=torch.int32)
    """
    if bits not in (2, 4, 8):
        raise InvalidValueError(f"its integers have {bits} bits: 2, 4 and 8 can be read")
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    numbers: Tensor = (words.int()[..., None] >> shifts) & (2**bits - 1)
    return numbers.flatten(-2)


def from_fp8(stored: Weights, settings: Mapping[str, object]) -> Weights:
    """Of blocks, rows or whole matrices of 8-bit floats."""
    size = settings.get("weight_block_size")
    block = (int(size[0]), int(size[1])) if isinstance(size, list) else None
    weights: Weights = {}
    for key, value in stored.items():
        if key.endswith(("_scale_inv", ".weight_scale", ".activation_scale", ".input_scale")):
            continue  # the first two are read below; the others are of activations
        scale = stored.get(f"{key}_scale_inv", stored.get(f"{key}_scale"))
        if scale is not None and value.dtype == torch.int8:
            raise InvalidValueError(f"{key} has packed 4-bit floats")
        weights[key] = value if scale is None else scaled(value, scale, block=block)
    return weights


def from_compressed_tensors(stored: Weights, settings: Mapping[str, object]) -> Weights:
    """Of 8-bit floats, 8-bit integers, or packed integers."""
    groups = settings.get("config_groups")
    kinds = list(groups.values()) if isinstance(groups, dict) else []
    parts = [kind.get("weights") for kind in kinds if isinstance(kind, dict)]
    bits = {int(part["num_bits"]) for part in parts if isinstance(part, dict)}
    # A list of two sizes, or "128x128" in older files.
    blocks = {
        tuple(int(size) for size in re.findall(r"\d+", str(part.get("block_structure"))))
        for part in parts
        if isinstance(part, dict)
    }
    height, width, *_ = (*blocks.pop(), 0, 0) if len(blocks) == 1 else (0, 0)
    block = (height, width) if height and width else None
    read = ("_scale", "_zero_point", "_shape", "_g_idx", "_packed")
    weights: Weights = {}
    for key, value in stored.items():
        if key.endswith((".input_scale", ".input_zero_point", ".output_scale")):
            continue  # of activations
        base = next((key.removesuffix(end) for end in read if key.endswith(f"weight{end}")), None)
        if base is not None and not key.endswith("_packed"):
            continue
        name = base or key
        scale, zero = stored.get(f"{name}_scale"), stored.get(f"{name}_zero_point")
        if base is not None:
            if len(bits) != 1 or scale is None:
                raise InvalidValueError(f"{key} has no scale, or integers of several widths")
            value, zero = _of_packed(stored, name, next(iter(bits)), zero)
        if scale is None:
            weights[name] = value
            continue
        order = stored.get(f"{name}_g_idx")
        if order is not None and bool((order >= 0).all()):
            index = order.long()
            zero_ED = None if zero is None else zero[:, index]
            weights[name] = scaled(value, scale[:, index], zero_ED)
        else:
            weights[name] = scaled(value, scale, zero, block)
    return weights


def _of_packed(
    stored: Weights, name: str, bits: int, zero: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The integers of ``NAME_packed``, and their zero points, which may be packed by rows."""
    shape, offset = stored.get(f"{name}_shape"), 2 ** (bits - 1)
    if shape is None:
        raise InvalidValueError(f"{name}_packed has no shape")
    E, D = (int(size) for size in shape)
    values = unpacked(stored[f"{name}_packed"], bits)[:E, :D] - offset
    if zero is not None and zero.dtype == torch.int32:
        zero = unpacked(zero.T, bits).T[:E] - offset
    return values, zero


def from_gptq(stored: Weights, settings: Mapping[str, object]) -> Weights:
    """Of integers that are packed along the inputs; ``dynamic`` gives layers bits of their own."""
    declared, group = _integer(settings, "bits"), _integer(settings, "group_size")
    is_dynamic = bool(settings.get("dynamic"))
    # The first form of the files stores each zero point less one.
    less = 0 if settings.get("checkpoint_format") == "gptq_v2" else 1

    def weight(name: str) -> Tensor:
        # Each column has a scale, and a zero point of so many bits.
        width = 32 * stored[f"{name}.qzeros"].shape[-1] / stored[f"{name}.scales"].shape[-1]
        bits = int(width) if is_dynamic and width.is_integer() else declared
        if width != bits:
            raise InvalidValueError(
                f"its configuration says {declared} bits, and {name} has {width:g}"
            )
        numbers_DE = unpacked(stored[f"{name}.qweight"].T, bits).T
        zeros_GE, scales_GE = unpacked(stored[f"{name}.qzeros"], bits), stored[f"{name}.scales"]
        if less and bool((zeros_GE == 2**bits - 1).any()):
            raise InvalidValueError(
                f"{name} has zero points of {2**bits - 1}, which some programs read as {2**bits} "
                "and others as 0"
            )
        D = len(numbers_DE)
        size = D if group < 1 else group
        if is_dynamic and D % len(scales_GE) == 0:
            size = D // len(scales_GE)
        index = stored.get(f"{name}.g_idx", torch.arange(D) // size).long()
        if int(index.max()) + 1 != len(scales_GE):
            raise InvalidValueError(f"{name} has {len(scales_GE)} groups of inputs, not of {size}")
        zeros_DE = (zeros_GE + less)[index]
        return ((numbers_DE - zeros_DE).float() * scales_GE.float()[index]).T.contiguous()

    return _of_packed_layers(stored, weight)


def from_awq(stored: Weights, settings: Mapping[str, object]) -> Weights:
    """Of 4-bit integers that are packed along the outputs, in an order of their own."""
    version = str(settings.get("version", "gemm")).lower()
    if version != "gemm" or _integer(settings, "bits") != 4:
        raise InvalidValueError(f"its version is {version}: gemm with 4 bits can be read")
    if any(key.endswith("act.scales") for key in stored):
        raise InvalidValueError("it scales activations, too")

    def ordered(words: Tensor) -> Tensor:
        numbers = unpacked(words, 4).reshape(len(words), -1, 8)
        # Position i of a word has column AWQ_ORDER[i].
        columns = torch.empty_like(numbers)
        columns[..., list(AWQ_ORDER)] = numbers
        return columns.flatten(1)

    def weight(name: str) -> Tensor:
        numbers_DE = ordered(stored[f"{name}.qweight"])
        zeros_GE, scales_GE = ordered(stored[f"{name}.qzeros"]), stored[f"{name}.scales"].float()
        size = len(numbers_DE) // len(scales_GE)
        zeros_DE, scales_DE = (x.repeat_interleave(size, 0) for x in (zeros_GE, scales_GE))
        return ((numbers_DE - zeros_DE).float() * scales_DE).T.contiguous()

    return _of_packed_layers(stored, weight)


def from_bitsandbytes(stored: Weights, settings: Mapping[str, object]) -> Weights:
    """Of 8-bit integers, with the largest number of each row."""
    weights: Weights = {}
    for key, value in stored.items():
        name, _, part = key.rpartition(".")
        scale_E = stored.get(f"{name}.SCB")
        if part == "weight_format" and int(value) != 0:
            raise InvalidValueError(f"{name} has its integers in the order of a GPU")
        if scale_E is None:
            weights[key] = value
        elif part == "weight":
            weights[key] = scaled(value, scale_E.float() / 127)
        elif part not in ("SCB", "weight_format"):
            weights[key] = value
    return weights


def from_mxfp4(stored: Weights, settings: Mapping[str, object]) -> Weights:
    """Of experts in blocks of 32 4-bit floats with an exponent of two; inputs come first then."""
    weights: Weights = {}
    for key, value in stored.items():
        name = key.removesuffix("_blocks")
        scales = stored.get(f"{name}_scales")
        if name == key or scales is None:
            if not (key.endswith("_scales") and f"{key[: -len('scales')]}blocks" in stored):
                weights[key] = value
            continue
        # [experts, E, G, 16] bytes, the lower half of each first.
        codes = torch.stack([value & 15, value >> 4], dim=-1).flatten(-2).long()
        exponents = torch.exp2(scales.float() - 127)[..., None]
        weights[name] = (
            (torch.tensor(FP4_VALUES)[codes] * exponents).flatten(-2).transpose(-1, -2).contiguous()
        )
    return weights


def _of_packed_layers(stored: Weights, weight: Callable[[str], Tensor]) -> Weights:
    """Of layers that have a ``qweight``."""
    parts = ("qweight", "qzeros", "scales", "g_idx")
    weights: Weights = {}
    for key, value in stored.items():
        name, _, part = key.rpartition(".")
        if part == "qweight":
            weights[f"{name}.weight"] = weight(name)
        elif part not in parts or f"{name}.qweight" not in stored:
            weights[key] = value
    return weights


def _integer(settings: Mapping[str, object], key: str) -> int:
    value = settings.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidValueError(f"its configuration has no {key}")
    return value


#: By the name of the form in a ``quantization_config``.
DEQUANTISERS: dict[str, Callable[[Weights, Mapping[str, object]], Weights]] = {
    "fp8": from_fp8,
    "mxfp8": from_fp8,
    "compressed-tensors": from_compressed_tensors,
    "gptq": from_gptq,
    "awq": from_awq,
    "bitsandbytes": from_bitsandbytes,
    "mxfp4": from_mxfp4,
}
