"""The attention written as matmuls: torch's numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from kullback.models.huggingface import HuggingFaceModel
from kullback.models.load import load_text_model
from kullback.runtime import fast_attention
from kullback.runtime.fast_attention import causal_attention


@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("length", [1, 63, 64, 65, 200])
def test_causal_attention_is_torchs_attention(length: int, heads: int, key_heads: int) -> None:
    """Blocks of queries give what the fused kernel gives, for any length and grouping of heads."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, heads, length, 8, generator=generator)
    k = torch.randn(2, key_heads, length, 8, generator=generator)
    v = torch.randn(2, key_heads, length, 6, generator=generator)
    expected = nn.functional.scaled_dot_product_attention(
        q, k, v, is_causal=True, scale=0.3, enable_gqa=True
    )
    ours = causal_attention(q, k, v, 0.3)
    assert torch.allclose(ours, expected.transpose(1, 2), atol=1e-5)


@pytest.mark.parametrize("amx", [False, True])
def test_the_fused_kernel_is_kept_with_amx(
    amx: bool, tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There it is faster; elsewhere a bfloat16 model attends by matmuls."""
    monkeypatch.setattr(fast_attention, "has_amx", lambda: amx)
    model = load_text_model(str(tiny_llama_folder), torch.bfloat16)
    assert isinstance(model, HuggingFaceModel)
    assert model.layers.has_attention != amx
