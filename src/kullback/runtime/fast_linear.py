"""Linear layers on a CPU, with the library that multiplies fastest on the processor.

Which one that is depends on the processor.  One core, 1,024 rows, the widths of SmolLM2-135M:

==================  ===========================================  ================================
processor           float32, GFLOP/s                             16 bits
==================  ===========================================  ================================
AVX-512 (Zen 4)     oneDNN 105, MKL (what torch calls) 94        oneDNN, which torch calls itself
AVX2 (Zen 3)        MKL 72 to 81, oneDNN 62 to 73                torch 9, widened to float32 65
==================  ===========================================  ================================

So with AVX-512 float32 is multiplied by oneDNN, which every CPU build of torch contains.  torch has
no public function for that (`torch.nn.functional.linear` calls MKL), so the operator that
`torch.compile` generates is called, after a check that it exists and gives torch's numbers.

On a processor that cannot multiply 16-bit numbers they are converted to float32 and the result is
rounded to 16 bits: the same products, summed in float32, as on a processor that can.  The order of
the sums is not torch's: results differ by float32 rounding before they are stored.

Axes: M rows, D width in, E width out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that everyone uses

from kullback.runtime.processor import multiplies

__all__ = ["fast_forwards", "linear"]

# 8-bit floats and packed integers are the weights of other libraries' layers.
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def linear(
    x: Float[Tensor, "*M D"], weight_ED: Float[Tensor, "E D"], bias_E: Float[Tensor, "E"] | None
) -> Float[Tensor, "*M E"]:
    """``x @ weight.T + bias``, by the fastest library where no gradient is needed.

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
        float_bias_E = None if bias_E is None else bias_E.float()
        return F.linear(x.float(), weight_ED.float(), float_bias_E).to(x.dtype)
    if x.dtype == torch.float32 and _onednn_is_faster():
        return _onednn_linear(x, weight_ED, bias_E)
    return F.linear(x, weight_ED, bias_E)


def fast_forwards(model: nn.Module) -> list[tuple[nn.Module, Callable[[Tensor], Tensor]]]:
    """The `nn.Linear` layers of `model`, and GPT-2's `Conv1D`, with a `forward` that uses `linear`.

    torchao's weights, where they are all that is quantised, are dequantised at each call, as
    torchao itself does: so a saved model gives the numbers of the one that it was saved from.
    Left out are subclasses, layers whose weight is a tensor of another kind or not of floats, and
    layers whose `forward` another library has replaced (accelerate's hooks).
    """
    forwards: list[tuple[nn.Module, Callable[[Tensor], Tensor]]] = []
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if weight is None or _has_hook(module):
            continue
        if type(module) is nn.Linear and _is_weight_only(weight):
            forwards.append((module, partial(_forward_dequantised, module)))
        if type(weight) is not nn.Parameter or weight.dtype not in FLOATS:
            continue
        if type(module) is nn.Linear:
            forwards.append((module, partial(_forward, module)))
        elif type(module).__name__ == "Conv1D":
            forwards.append((module, partial(_forward_transposed, module)))
    return forwards


def _has_hook(module: nn.Module) -> bool:
    """Whether another library has replaced `forward` of this instance."""
    forward = vars(module).get("forward")
    own = (_forward, _forward_transposed, _forward_dequantised)
    return forward is not None and getattr(forward, "func", None) not in own


def _is_weight_only(weight: Any) -> bool:
    """Whether it is a tensor of torchao that leaves activations as they are."""
    # The names that torchao's classes give the quantisation of activations.
    settings = {"IntxUnpackedToInt8Tensor": "activation_quantization",
                "Float8Tensor": "act_quant_kwargs"}  # fmt: skip
    setting = settings.get(type(weight).__name__)
    return setting is not None and getattr(weight, setting, ...) is None


def _onednn_linear(x: Tensor, weight_ED: Tensor, bias_E: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight_ED, bias_E, "none", [], "")
    return out


@cache
def _onednn_is_faster() -> bool:
    """Whether the processor has AVX-512 and oneDNN's operator gives the numbers of torch."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    draw = torch.Generator().manual_seed(0)
    x, weight_ED, bias_E = (torch.randn(s, generator=draw) for s in ((3, 5), (4, 5), (4,)))
    try:
        with torch.inference_mode():
            out = _onednn_linear(x, weight_ED, bias_E)
    # Another version of torch: no such operator, or one with other arguments.
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.allclose(out, F.linear(x, weight_ED, bias_E), atol=1e-5)


def _forward(module: nn.Linear, x: Tensor) -> Tensor:
    # The weight is looked up at each call, so that it may be moved or replaced.
    return linear(x, module.weight, module.bias)


def _forward_dequantised(module: Any, x: Tensor) -> Tensor:
    return linear(x, module.weight.dequantize(), module.bias)


def _forward_transposed(module: Any, x: Tensor) -> Tensor:
    return linear(x, module.weight.T, module.bias)
