"""Products of MKL, called from C, against those of float64; absence and wrong numbers."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch

from kullback.runtime import mkl_products as module
from kullback.runtime.mkl_products import mkl_products


def has_mkl() -> bool:
    """Whether torch has its products, as this module does not look for them."""
    try:
        library = ctypes.CDLL(f"{torch.__path__[0]}/lib/libtorch_cpu.so")
    except OSError:
        return False
    return torch.backends.mkl.is_available() and hasattr(library, "sgemm_")


needs_mkl = pytest.mark.skipif(not has_mkl(), reason="torch has no MKL")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Look for the products anew, and forget what a test has found."""
    mkl_products.cache_clear()
    yield
    mkl_products.cache_clear()


@needs_mkl
def test_float32_is_multiplied_where_torch_has_mkl() -> None:
    """There is a function for float32, and none for a type that it does not know."""
    products = mkl_products()
    assert products is not None
    assert products.of(torch.float32) == products.float32 > 0
    assert products.of(torch.float64) is None


@needs_mkl
@pytest.mark.parametrize("has_amx", [True, False])
def test_bfloat16_is_left_to_torch_without_amx(
    has_amx: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the processor has AMX decides on bfloat16, and not on float32."""
    monkeypatch.setattr(module, "has_amx", lambda: has_amx)
    products = mkl_products()
    assert products is not None
    assert (products.of(torch.bfloat16) is not None) == has_amx


@needs_mkl
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_wrong_numbers_are_noticed(dtype: torch.dtype) -> None:
    """A function that leaves its result as it is, as one of another signature may, is not used."""
    library = ctypes.CDLL(f"{torch.__path__[0]}/lib/libtorch_cpu.so")
    name = {torch.float32: module.FLOAT32, torch.bfloat16: module.BFLOAT16}[dtype]
    assert module._is_right(library[name], dtype)
    assert not module._is_right(_nothing(), dtype)


def _nothing() -> Callable[..., None]:
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 13)
    return kind(lambda *arguments: None)


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setattr(module.sys, "platform", "darwin"),
        lambda patch: patch.setattr(module.platform, "machine", lambda: "aarch64"),
        lambda patch: patch.setattr(torch.backends.mkl, "is_available", lambda: False),
        lambda patch: patch.setattr(module, "FLOAT32", "no_such_product_"),
        lambda patch: patch.setattr(module, "ctypes", SimpleNamespace(CDLL=_missing)),
    ],
    ids=["system", "processor", "MKL", "function", "library"],
)
def test_there_are_none_where_torch_has_none(
    change: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other systems, processors and builds of torch are left to torch's own products."""
    change(monkeypatch)
    assert mkl_products() is None


def _missing(path: str) -> ctypes.CDLL:
    raise OSError(path)
