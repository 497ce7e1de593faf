"""The fast linear layer: torch's numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kullback.runtime import fast_linear
from kullback.runtime.fast_linear import fast_forwards, linear


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (4,), (0, 4)])
def test_linear_is_torchs_linear(shape: tuple[int, ...], bias: bool) -> None:
    """The faster layer gives torch's numbers for any shape, strided weights, bias and gradients."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(shape, generator=generator), torch.randn(10, 4, generator=generator)
    b = torch.randn(5, generator=generator) if bias else None
    expected = nn.functional.linear(x, weight[::2], b)
    with torch.inference_mode():
        assert torch.allclose(linear(x, weight[::2], b), expected, atol=1e-6)
    weight.requires_grad_(True)
    linear(x, weight[::2], b).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_processor_without_16_bit_products_rounds_as_one_with_them(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 a layer gives the exact sums of 16-bit products, rounded once to 16 bits."""
    monkeypatch.setattr(fast_linear, "multiplies", lambda dtype: dtype == torch.float32)
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(shape, generator=generator).to(dtype) for shape in ((30, 40), (20, 40), (20,))
    )
    exact = nn.functional.linear(x.double(), weight.double(), bias.double())
    with torch.inference_mode():
        out = linear(x, weight, bias)
    assert out.dtype == dtype
    # Half a unit in the last place, and the rounding of float32.
    unit = torch.finfo(dtype).eps * exact.abs()
    assert ((out.double() - exact).abs() <= unit / 2 + 1e-5).all()


def test_onednn_is_used_only_where_it_gives_the_numbers_of_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With AVX-512 its operator is checked first; one that is missing or wrong is not used."""
    check = fast_linear._onednn_is_faster.__wrapped__
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(fast_linear, "_onednn_linear", nn.functional.linear)
    assert check()
    monkeypatch.setattr(fast_linear, "_onednn_linear", lambda x, w, b: x @ w.T)
    assert not check()

    def missing(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        raise AttributeError("no such operator")

    monkeypatch.setattr(fast_linear, "_onednn_linear", missing)
    assert not check()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not check()


@pytest.mark.parametrize("dynamic", [False, True])
def test_weights_of_torchao_are_dequantised_where_activations_are_not_quantised(dynamic: bool):
    """Then the product is that of `linear` with the dequantised weight, to the last bit."""
    from torchao.quantization import (
        Int8DynamicActivationIntxWeightConfig,
        IntxWeightOnlyConfig,
        quantize_,
    )

    layer = nn.Linear(32, 8)
    quantize_(layer, Int8DynamicActivationIntxWeightConfig() if dynamic else IntxWeightOnlyConfig())
    forwards = fast_forwards(layer)
    assert len(forwards) == (not dynamic)
    x = torch.randn(3, 32)
    with torch.inference_mode():
        for _, forward in forwards:
            assert torch.equal(forward(x), linear(x, layer.weight.dequantize(), layer.bias))


def test_weights_that_are_no_floats_are_left_to_their_library():
    """A layer whose weight is of integers, or of 8-bit floats, keeps its own `forward`."""
    layers = [nn.Linear(4, 4, bias=False) for _ in range(3)]
    for layer, dtype in zip(layers[1:], (torch.int8, torch.float8_e4m3fn), strict=True):
        layer.weight = nn.Parameter(layer.weight.detach().to(dtype), requires_grad=False)
    replaced = [module for module, _ in fast_forwards(nn.Sequential(*layers))]
    assert replaced == layers[:1]
