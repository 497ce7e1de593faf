"""Linear layers at the speed of the machine, in float32 on a CPU.

`torch.nn.functional.linear` calls MKL there, which on AMD's Zen 4 reaches 94 of 112 GFLOP/s a core
at the sizes of a small language model (1,024 rows, widths of 576 and 1,536); oneDNN, which is part
of every CPU build of torch, reaches 105.  Both sum the same products, in another order: results
differ by float32 rounding.  For 16-bit numbers torch calls oneDNN by itself.

Axes: M rows, D width in, E width out.
"""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that everyone uses

__all__ = ["linear", "use_fast_linear"]


def linear(
    x: Float[Tensor, "*M D"], weight_ED: Float[Tensor, "E D"], bias_E: Float[Tensor, "E"] | None
) -> Float[Tensor, "*M E"]:
    """``x @ weight.T + bias``, by the faster library where nobody asks for a gradient.

    >>> linear(torch.ones(2, 3), torch.ones(1, 3), None)
    tensor([[3.],
            [3.]])
    """
    if (
        x.dtype == weight_ED.dtype == torch.float32
        and x.device.type == weight_ED.device.type == "cpu"
        and not torch.is_grad_enabled()
        and x.numel() > 0
        and _has_onednn()
    ):
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight_ED, bias_E, "none", [], "")
        return out
    return F.linear(x, weight_ED, bias_E)


def use_fast_linear(model: nn.Module) -> None:
    """Let every plain `nn.Linear` in `model` compute with `linear`.

    Subclasses, and layers whose weight is a tensor of another kind (quantised ones), stay as they
    are.  Hooks go on working: they are called around `forward`, which alone is replaced.
    """
    for module in model.modules():
        if type(module) is nn.Linear and type(module.weight) is nn.Parameter:
            module.forward = partial(_forward, module)  # type: ignore[method-assign] # one instance


def _forward(module: nn.Linear, x: Tensor) -> Tensor:
    # The weight is looked up at each call, so that it may be moved or replaced.
    return linear(x, module.weight, module.bias)


def _has_onednn() -> bool:
    return torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")
