"""Causal attention of bfloat16 models on a CPU, a block of queries at a time.

On a CPU without AMX torch's fused kernel is no faster in bfloat16: at 1,024 positions of
SmolLM2-135M's shape it takes 24 ms a layer, and 22 in float32 (one Zen 4 core).  As separate
matmuls it takes 17: scores and softmax in float32, as in the fused kernel, and the weighted sum of
values in 16 bits.  The noise against a float32 model is the same (mean |Δ nll| 0.027 nats/token
with either).  Where the processor cannot multiply 16-bit numbers, the rounded weights are converted
to float32 again first.  With AMX the fused kernel takes 6.0 ms, these matmuls 19, float32 16
(Sapphire Rapids), so it is kept.

Axes: N sequences, T positions, H query heads, G key heads, R = H / G, K head width, B queries of a
block, S positions up to its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kullback.runtime.processor import has_amx, multiplies

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

__all__ = ["IMPLEMENTATION", "causal_attention", "fast_attention_configs"]

IMPLEMENTATION = "kullback_causal"
"""The name of `causal_attention` in transformers' registry."""
# Blocks of 64 queries: 128 compute more masked scores, 32 make smaller matmuls.
QUERIES = 64


def causal_attention(
    q_NHTK: Float[Tensor, "N H T K"],
    k_NGTK: Float[Tensor, "N G T K"],
    v_NGTK: Float[Tensor, "N G T K"],
    scale: float,
) -> Float[Tensor, "N T H K"]:
    """softmax(scale × q kᵀ, masked to the position itself and those before) v, heads last but one.

    Query head h reads key head ``h // R``.

    >>> ones = torch.ones(1, 2, 3, 4)
    >>> causal_attention(ones, ones, ones, 0.5).shape
    torch.Size([1, 3, 2, 4])
    """
    N, H, T, K = q_NHTK.shape
    G, width = k_NGTK.shape[1], v_NGTK.shape[3]
    R = H // G
    q_NGRTK = (q_NHTK.float() * scale).view(N, G, R, T, K)
    k_NGKT = k_NGTK.float().contiguous().transpose(2, 3)
    v_NGTK = v_NGTK.contiguous()
    factor_NGTK = v_NGTK if multiplies(v_NGTK.dtype) else v_NGTK.float()
    mixed_NTHK = v_NGTK.new_empty(N, T, H, width)
    mixed_NGRTK = mixed_NTHK.view(N, T, G, R, width).permute(0, 2, 3, 1, 4)
    future_BB = torch.full((QUERIES, QUERIES), float("-inf"), device=q_NHTK.device).triu_(1)
    for start in range(0, T, QUERIES):
        S = min(start + QUERIES, T)
        B = S - start
        scores = q_NGRTK[:, :, :, start:S].reshape(N, G, R * B, K) @ k_NGKT[..., :S]
        scores.view(N, G, R, B, S)[..., start:].add_(future_BB[:B, :B])
        weights = torch.softmax(scores, dim=-1).to(v_NGTK.dtype)
        mixed = weights.to(factor_NGTK.dtype) @ factor_NGTK[:, :, :S]
        mixed_NGRTK[:, :, :, start:S] = mixed.view(N, G, R, B, width)
    return mixed_NTHK


def fast_attention_configs(model: PreTrainedModel) -> list[PreTrainedConfig]:
    """The configurations in which `IMPLEMENTATION` may be set, parents before their parts.

    None but those of a bfloat16 model of `transformers` that uses torch's fused kernel, on a CPU
    without AMX.  A layer that needs more than causal attention (a mask for its sliding window, a
    bias) uses that kernel with `IMPLEMENTATION`, too.
    """
    on_cpu = model.device.type == "cpu" and model.dtype == torch.bfloat16
    if not on_cpu or has_amx() or model.config._attn_implementation != "sdpa":
        return []
    from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(IMPLEMENTATION, _attend)
    AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
    parts = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    configs = list({id(part.config): part.config for part in parts}.values())
    # transformers knows which of its models can change their attention.
    model.set_attn_implementation(IMPLEMENTATION)
    able = [config for config in configs if config._attn_implementation == IMPLEMENTATION]
    model.set_attn_implementation("sdpa")
    return able


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: object,
) -> tuple[Tensor, Tensor | None]:
    """The function that transformers calls instead of its own `sdpa_attention_forward`."""
    # As in theirs, None means the attribute of the layer.
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    only_causal = not any(
        options.get(name) for name in ("dropout", "position_bias", "softcap", "cache")
    )
    if (
        only_causal
        and causal
        and attention_mask is None
        and query.shape[2] == key.shape[2]
        and query.shape[1] % key.shape[1] == 0
        and not torch.is_grad_enabled()
    ):
        scale = query.shape[3] ** -0.5 if scaling is None else scaling
        return causal_attention(query, key, value, scale), None
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    # The options come from a layer of transformers and go to a function of transformers.
    fused: Any = sdpa_attention_forward
    mixed: Tensor = fused(module, query, key, value, attention_mask, scaling=scaling, **options)[0]
    return mixed, None
