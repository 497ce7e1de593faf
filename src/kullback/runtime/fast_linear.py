"""Linear layers at the speed of the machine, on a CPU.

Who multiplies fastest depends on the processor.  One core, 1,024 rows, the widths of SmolLM2-135M:

==================  ===========================================  ================================
processor           float32, GFLOP/s                             16 bits
==================  ===========================================  ================================
AVX-512 (Zen 4)     oneDNN 105, MKL (what torch calls) 94        oneDNN, which torch calls itself
AVX2 (Zen 3)        MKL 72 to 81, oneDNN 62 to 73                torch 9, widened to float32 65
==================  ===========================================  ================================

So oneDNN, which is part of every CPU build of torch, is called in float32 where there is AVX-512.
A processor that cannot multiply 16-bit numbers gets them widened to float32 and the result rounded
to 16 bits: the same products, summed in float32, as one that can.  Sums are in another order than
torch's: results differ by float32 rounding before they are stored.

Axes: M rows, D width in, E width out.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that everyone uses

__all__ = ["linear", "multiplies", "use_fast_linear"]


def linear(
    x: Float[Tensor, "*M D"], weight_ED: Float[Tensor, "E D"], bias_E: Float[Tensor, "E"] | None
) -> Float[Tensor, "*M E"]:
    """``x @ weight.T + bias``, by the fastest way where nobody asks for a gradient.

    >>> linear(torch.ones(2, 3), torch.ones(1, 3), None)
    tensor([[3.],
            [3.]])
    """
    if (
        x.dtype != weight_ED.dtype
        or x.device.type != "cpu"
        or weight_ED.device.type != "cpu"
        or torch.is_grad_enabled()
        or x.numel() == 0
    ):
        return F.linear(x, weight_ED, bias_E)
    if not multiplies(x.dtype):
        wide_E = None if bias_E is None else bias_E.float()
        return F.linear(x.float(), weight_ED.float(), wide_E).to(x.dtype)
    if x.dtype == torch.float32 and _onednn_is_faster():
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight_ED, bias_E, "none", [], "")
        return out
    return F.linear(x, weight_ED, bias_E)


@cache
def multiplies(dtype: torch.dtype) -> bool:
    """Whether this processor (and torch on it) multiplies matrices of that type at full speed.

    >>> multiplies(torch.float32)
    True
    """
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return True


@cache
def _onednn_is_faster() -> bool:
    known = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return known and torch.backends.cpu.get_cpu_capability() == "AVX512"


def use_fast_linear(model: nn.Module) -> None:
    """Let every plain `nn.Linear` in `model` compute with `linear`, and GPT-2's `Conv1D` too.

    Subclasses, and layers whose weight is a tensor of another kind (quantised ones), stay as they
    are.  Hooks go on working: they are called around `forward`, which alone is replaced.
    """
    for module in model.modules():
        if type(getattr(module, "weight", None)) is not nn.Parameter:
            continue
        if type(module) is nn.Linear:
            module.forward = partial(_forward, module)  # type: ignore[method-assign] # one instance
        elif type(module).__name__ == "Conv1D":
            module.forward = partial(_forward_transposed, module)


def _forward(module: nn.Linear, x: Tensor) -> Tensor:
    # The weight is looked up at each call, so that it may be moved or replaced.
    return linear(x, module.weight, module.bias)


def _forward_transposed(module: Any, x: Tensor) -> Tensor:
    return linear(x, module.weight.T, module.bias)
