"""The memory of a pass on an accelerator, counted from shapes: tensors on torch's meta device.

The kernels write to tensors that are there, so kernels that do nothing take as much.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kullback.evaluation.predictors import ACTIVATION_BYTES, DEVICE_TOKENS
from kullback.predictions.base import FactoredPredictions, Head
from kullback.scoring import device_sums, divergence, token_statistics
from kullback.scoring.device_sums import start_pair_totals, start_token_totals

META = torch.device("meta")
GB = 1_000_000_000
# Of a product on an H100, in cuBLAS.
WORKSPACE = 32 << 20


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are made inside, for as long as they live."""

    def __init__(self, *known: Tensor) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


class Nothing:
    """A kernel that writes nothing."""

    def __getitem__(self, grid: tuple[int, int]) -> Callable[..., None]:
        return lambda *arguments, **sizes: None


KERNELS: Any = SimpleNamespace(
    row_sums_kernel=Nothing(), top_tokens_kernel=Nothing(), pair_sums_kernel=Nothing()
)


@pytest.fixture
def _on_meta(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors on the meta device are as on a GPU."""
    monkeypatch.setattr(device_sums, "_current", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(device_sums, "start_to_host", lambda values: lambda: values)
    monkeypatch.setattr(Head, "multiplies_16_bits", lambda head, device: True)
    with torch.inference_mode():
        yield


def predictions(M: int, D: int, V: int) -> FactoredPredictions:
    """Hidden states in float32 and a head in bfloat16."""
    head = Head(torch.empty(V, D, dtype=torch.bfloat16, device=META), product_dtype=torch.bfloat16)
    return FactoredPredictions(torch.empty(M, D, device=META), head)


def peak(*models: FactoredPredictions, columns: int | None = None) -> int:
    """What the statistics of one model or two take at most, their hidden states included."""
    hidden = sum(model.hidden_MD.nbytes for model in models)
    targets_M = torch.empty(len(models[0]), dtype=torch.int64, device=META)
    parts = [part for model in models for part in (model.hidden_MD, model.head.weight_VD)]
    with LiveBytes(targets_M, *parts) as live:
        if len(models) == 1:
            start_token_totals(KERNELS, models[0], targets_M, 10)
        else:
            V = columns or models[0].vocabulary_size
            start_pair_totals(KERNELS, (models[0], models[1]), targets_M, V)
    assert live.peak > 0
    return hidden + live.peak


def rows_of_batch(models: int, D: int, widest: int, window: int = 2048) -> int:
    """The tokens of a batch of windows of models in 16 bits, as `token_budget` chooses them."""
    a_token = 2 * (4 * D + 3 * widest)  # as `bytes_a_token` estimates
    budget = min(DEVICE_TOKENS, ACTIVATION_BYTES // (models * a_token))
    return max(1, budget // window) * window


# Width, the MLP's and the vocabulary of models of 0.1, 1.2, 8 and 70 billion parameters.
SHAPES = [(576, 1536, 49152), (2048, 8192, 128256), (4096, 14336, 128256), (8192, 28672, 128256)]


@pytest.mark.usefixtures("_on_meta")
@pytest.mark.parametrize("V", [None, 262144])
@pytest.mark.parametrize(("D", "widest", "own_V"), SHAPES)
def test_the_statistics_take_less_than_a_gigabyte(
    D: int, widest: int, own_V: int, V: int | None
) -> None:
    """Of one model and of two, in their own batches of windows of 2,048 tokens."""
    for models in (1, 2):
        M = rows_of_batch(models, D, widest)
        pair = [predictions(M, D, V or own_V) for _ in range(models)]
        assert peak(*pair) + WORKSPACE < GB


@pytest.mark.usefixtures("_on_meta")
@pytest.mark.parametrize("sizes", [(32000, 262144), (262144, 32000)])
def test_models_of_two_vocabularies_take_no_more(sizes: tuple[int, int]) -> None:
    """Whichever comes first: the columns that only one of them has count, too."""
    M = rows_of_batch(2, 2048, 8192)
    first, second = (predictions(M, 2048, V) for V in sizes)
    assert peak(first, second, columns=min(sizes)) + WORKSPACE < GB


@pytest.mark.usefixtures("_on_meta")
def test_a_long_window_is_summed_many_rows_at_a_time() -> None:
    """Its hidden states alone are half a gigabyte a model; no more than 384 MiB beside them."""
    first, second = (predictions(32768, 4096, 128256) for _ in range(2))
    hidden = first.hidden_MD.nbytes + second.hidden_MD.nbytes
    rows = device_sums._rows_at_once(2 * 4 * 128256, (first, second), ())
    assert 128 < rows < 512
    assert peak(first, second) - hidden < 384 << 20


@pytest.mark.usefixtures("_on_meta")
def test_nothing_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is started reads no number, which torch refuses of meta tensors, until it is asked."""
    monkeypatch.setattr(divergence, "device_kernels", lambda kind: KERNELS)
    monkeypatch.setattr(token_statistics, "device_kernels", lambda kind: KERNELS)
    first, second = predictions(3000, 64, 50000), predictions(3000, 64, 50000)
    targets_M = torch.arange(3000)
    assert callable(divergence.start_divergences(first, second, targets_M))
    assert callable(token_statistics.start_statistics(first, targets_M, 10))
    with pytest.raises(RuntimeError, match="meta"):
        first.hidden_MD.sum().item()


@pytest.mark.usefixtures("_on_meta")
def test_the_count_is_that_of_the_tensors() -> None:
    """A chunk of all rows: the logits, and little beside them."""
    V = 60000
    assert 4 * 1000 * V < peak(predictions(1000, 8, V)) < 4.2 * 1000 * V


def test_a_widened_head_is_never_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A 16-bit head that multiplies in float32 is converted some columns at a time."""
    monkeypatch.setattr(Head, "multiplies_16_bits", lambda head, device: False)
    model = predictions(8, 4096, 128256)
    with LiveBytes(model.hidden_MD, model.head.weight_VD) as live:
        logits = model.logits(slice(0, 8))
    assert live.peak < 80 << 20
    assert logits.shape == (8, 128256)
