"""Products of bfloat16 matrices with float32 results: float64's numbers, rounded once a sum."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kullback.predictions import base
from kullback.predictions.base import FactoredPredictions, Head
from kullback.runtime import bfloat16_products as module
from kullback.runtime.bfloat16_products import Bfloat16Products, bfloat16_products

SHAPES = [(1, 2, 1), (5, 96, 3), (64, 64, 7), (65, 66, 33), (130, 576, 1024)]  # B, D, W


def ways() -> list[Bfloat16Products]:
    """The products that torch has here, with packed numbers where the processor wants them."""
    found = module._from_torch()
    if found is None:
        pytest.skip("this build of torch has no such products")
    # Unpacked, torch has them on any processor.
    return [replace(found, packs=False)] + [found] * found.packs


def factors(B: int, D: int, W: int) -> tuple[Tensor, Tensor]:
    """Hidden states and a weight of bfloat16 numbers."""
    draw = torch.Generator().manual_seed(B + D + W)
    return (
        torch.randn(B, D, generator=draw).bfloat16(),
        torch.randn(W, D, generator=draw).bfloat16(),
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_those_of_float64(shape: tuple[int, int, int]) -> None:
    """Within the rounding of float32 sums, of bfloat16 numbers in either type, strided or not."""
    hidden, weight = factors(*shape)
    exact = hidden.double() @ weight.double().T
    # Of D sums, each rounded to 24 bits.
    bound = hidden.double().abs() @ weight.double().abs().T * shape[1] * 2**-24
    for way in ways():
        for left in (hidden, hidden.float()):
            product = way.product(left, weight)
            assert product.dtype == torch.float32
            assert product.shape == exact.shape
            assert ((product - exact).abs() <= bound).all()
        strided = torch.stack([weight, weight], dim=1)[:, 0]
        assert torch.equal(way.product(hidden, strided), way.product(hidden, weight))


def test_what_would_end_the_process_is_widened() -> None:
    """oneDNN that was turned off, no columns; and a weight that begins within another's word."""
    hidden, weight = factors(3, 4, 9)
    exact = hidden.float() @ weight.float().T
    shifted = torch.cat([torch.zeros(1).bfloat16(), weight.flatten()])[1:].view(9, 4)
    for way in ways():
        with torch.backends.mkldnn.flags(enabled=False):
            assert torch.allclose(way.product(hidden, weight), exact, atol=1e-5)
        assert way.product(hidden, weight[:0]).shape == (3, 0)
        assert way.product(hidden[:0], weight).shape == (0, 9)
        assert torch.equal(way.product(hidden, shifted), way.product(hidden, weight))


def test_a_row_does_not_depend_on_the_others() -> None:
    """The same bits whatever rows are multiplied with it, in several threads, too."""
    hidden, weight = factors(130, 66, 300)
    for way in ways():
        whole = way.product(hidden, weight)
        assert torch.equal(way.product(hidden[77:79], weight), whole[77:79])
        assert torch.equal(way.product(hidden, weight[:150]), whole[:, :150])
        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(lambda _, way=way: way.product(hidden, weight), range(8)))
        assert all(torch.equal(result, whole) for result in results)


def test_products_are_used_only_where_they_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor without them, a torch without them, and one whose numbers differ have none."""
    found = ways()[-1]
    able, given = True, found
    monkeypatch.setattr(module, "multiplies_bfloat16", lambda: able)
    monkeypatch.setattr(module, "_from_torch", lambda: given)
    ask = bfloat16_products.__wrapped__
    assert ask() is found
    able = False
    assert ask() is None
    able, given = True, None
    assert ask() is None
    given = replace(found, brgemm=lambda M, N, K, *rest: found.brgemm(M, N, K // 2, *rest))
    assert ask() is None


def test_another_library_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """No libtorch, one without these functions, and another system: None, not an error."""
    monkeypatch.setattr(module.torch, "__file__", str(tmp_path / "__init__.py"))
    assert module._from_torch() is None
    monkeypatch.undo()
    monkeypatch.setattr(module, "BRGEMM", "no_such_function")
    assert module._from_torch() is None
    monkeypatch.undo()
    monkeypatch.setattr(module.sys, "platform", "darwin")
    assert module._from_torch() is None


def test_a_head_multiplies_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the bias, scale and cap of float32's; an odd width and other types are widened."""
    way = ways()[0]
    calls: list[torch.Size] = []

    def product(hidden: Tensor, weight: Tensor) -> Tensor:
        calls.append(weight.shape)
        return Bfloat16Products.product(way, hidden, weight)

    stand_in = replace(way)
    object.__setattr__(stand_in, "product", product)
    monkeypatch.setattr(base, "bfloat16_products", lambda: stand_in)
    hidden, weight = factors(9, 96, 40)
    bias = torch.linspace(-1, 1, 40)
    head = Head(weight, bias, scale=0.5, softcap=3.0, product_dtype=torch.bfloat16)
    wide = replace(head, product_dtype=None)
    rows, columns = slice(2, 8), slice(5, 33)
    made = FactoredPredictions(hidden.float(), head).logits(rows, columns)
    expected = FactoredPredictions(hidden.float(), wide).logits(rows, columns)
    assert calls == [(28, 96)]
    assert torch.allclose(made, expected, rtol=0, atol=1e-5)
    odd = Head(weight[:, :95], product_dtype=torch.bfloat16)
    float32 = Head(weight.float(), product_dtype=torch.bfloat16)
    for other in (wide, odd, float32):
        assert not other.multiplies_16_bits(torch.device("cpu"))
        other.logits(hidden[:, : other.weight_VD.shape[1]].float())
    assert len(calls) == 1
