"""Hidden states and logits that are kept in a temporary file."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from rank_threads import in_ranks

from kullback.comparison import kept_predictions, window_rows
from kullback.comparison.kept_predictions import KeptPredictions, is_wide, logits_fit
from kullback.errors import RunError
from kullback.evaluation import batched_rows, predictors
from kullback.evaluation.passes import Batch, TokenizedText, divergence_rows, token_rows
from kullback.evaluation.text_ahead import PassText
from kullback.models.interface import Sharing
from kullback.predictions.base import FactoredPredictions, Head, Predictions
from kullback.runtime.workers import ProcessGroup
from kullback.scoring.divergence import concatenate_divergences
from kullback.scoring.token_statistics import TokenStatistics, concatenate_statistics
from kullback.text.documents import Document
from kullback.text.plan import plan
from kullback.text.protocol import Protocol
from kullback.text.tokenizer import Encoding, TextTokenizer
from tiny_tokenizers import trained

V, WIDTH = 700, 256


@dataclass(eq=False)
class Counted:
    """A predictor with a wide head, which counts the windows that it reads."""

    head: Head
    windows: int = 0
    name: str = "counted"

    @property
    def device(self) -> torch.device:
        """Where its predictions are."""
        return self.head.weight_VD.device

    def sharing(self, longest: int) -> Sharing:
        """Rows do not depend on each other."""
        return "padded"

    def predictions(self, batch: Batch) -> Predictions:
        """Hidden states that depend on the row of the text alone."""
        self.windows += len(batch.windows)
        row_M1 = torch.from_numpy(batch.row_numbers).float()[:, None]
        return FactoredPredictions(torch.sin(row_M1 * torch.arange(1, WIDTH + 1)), self.head)


def head(dtype: torch.dtype = torch.float32) -> Head:
    """A head of random weights."""
    generator = torch.Generator().manual_seed(1)
    return Head((torch.randn(V, WIDTH, generator=generator) / 4).to(dtype))


@pytest.fixture(scope="module")
def text() -> TokenizedText:
    """Documents of 3 to 40 tokens, many of which share a batch."""
    rng = np.random.default_rng(2)
    lengths = rng.integers(3, 41, 60).tolist()
    encodings = [
        Encoding(rng.integers(0, V, n), np.stack([np.arange(n), np.arange(n) + 1], axis=1))
        for n in lengths
    ]
    tokenizer = TextTokenizer(trained())
    protocol = Protocol(window=32, bos="never").resolve(None)
    documents = [Document(str(i), "x" * n) for i, n in enumerate(lengths)]
    windows = plan(encodings, protocol, tokenizer, None)
    return TokenizedText(documents, encodings, protocol, windows)


@pytest.mark.parametrize("on_disk", [None, V])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_kept_gives_the_same_bits(
    text: TokenizedText, on_disk: int | None, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first pass and later ones, as hidden states or logits; windows are read once."""
    monkeypatch.setattr(window_rows, "IN_MEMORY", 0)
    expected = concatenate_statistics(list(token_rows(Counted(head(dtype)), text)))
    counted = Counted(head(dtype))
    kept = KeptPredictions(counted, text, on_disk=on_disk)
    assert kept.disk_bytes == (4 * V * len(text) if on_disk else 0)
    for _ in range(2):
        actual = concatenate_statistics(list(token_rows(kept, text)))
        for name in ("nll", "entropy", "rank", "top1", "sum_of_squares"):
            assert np.array_equal(getattr(actual, name), getattr(expected, name)), name
    assert counted.windows == len(text.windows)
    itself = concatenate_divergences(list(divergence_rows(kept, Counted(head(dtype)), text)))
    assert not itself.kl.any()


@pytest.mark.parametrize("on_disk", [None, V])
def test_a_process_has_space_for_its_share(
    text: TokenizedText, on_disk: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ranks together keep the rows once, beside a batch each, and have the bits of one."""
    monkeypatch.setattr(predictors, "CPU_TOKENS", 64)
    # Of encodings that are stored, which these are not.
    monkeypatch.setattr(batched_rows, "check_same_reading", lambda *parts: None)
    taken: list[int] = []
    buffer = window_rows._buffer

    def counted(shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
        taken.append(shape[0])
        return buffer(shape, dtype)

    monkeypatch.setattr(window_rows, "_buffer", counted)
    expected = concatenate_statistics(list(token_rows(Counted(head()), text)))

    def twice(processes: ProcessGroup) -> tuple[int, list[TokenStatistics]]:
        model = Counted(head())
        kept = KeptPredictions(model, text, on_disk=on_disk, processes=2)
        passes = [list(token_rows(kept, text, processes)) for _ in range(2)]
        return model.windows, [concatenate_statistics(rows) for rows in passes if rows]

    first, second = in_ranks(twice, local=2)
    assert not isinstance(first, Exception)
    assert not isinstance(second, Exception)
    assert first[0] + second[0] == len(text.windows)
    assert sum(taken) <= len(text) + 2 * (64 + 1)
    for rows in first[1]:
        assert np.array_equal(rows.nll, expected.nll)


def test_logits_are_kept_of_wide_heads_on_a_cpu() -> None:
    """Narrow heads multiply faster than a file is read; float64 logits do not fit float32."""
    assert is_wide(head())
    assert not is_wide(Head(torch.zeros(V, 64)))
    assert not is_wide(head(torch.float64))
    assert not is_wide(Head(torch.zeros(V, WIDTH, device="meta")))
    assert not is_wide(None)


def test_logits_that_do_not_fit_are_not_kept(
    text: TokenizedText, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the memory that is available may be taken."""
    monkeypatch.setattr(kept_predictions, "available_memory", lambda: 8 * V * len(text) - 1)
    assert KeptPredictions(Counted(head()), text, on_disk=V).disk_bytes == 0
    monkeypatch.setattr(kept_predictions, "available_memory", lambda: 16 * V * len(text))
    assert logits_fit(len(text), V, processes=2)
    assert not logits_fit(len(text), V, processes=3)

    def refuse(shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
        raise RunError("a quota")

    monkeypatch.undo()
    monkeypatch.setattr(window_rows, "_buffer", refuse)
    assert KeptPredictions(Counted(head()), text, on_disk=V).disk_bytes == 0


def test_rows_that_are_fewer_than_expected_need_no_more_space(
    text: TokenizedText, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where those do not fit that a dense beginning let expect, those of the whole text may."""
    buffer = window_rows._buffer
    most = len(text)

    def limited(shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
        if shape[0] > most:
            raise RunError("a small disk")
        return buffer(shape, dtype)

    monkeypatch.setattr(window_rows, "_buffer", limited)
    counted = Counted(head())
    ahead = cast("PassText", SimpleNamespace(total=3 * len(text), whole=text))
    kept = KeptPredictions(counted, ahead)
    for _ in range(2):
        assert sum(map(len, token_rows(kept, text))) == len(text)
    assert counted.windows == len(text.windows)
    most -= 1
    with pytest.raises(RunError, match="a small disk"):
        list(token_rows(KeptPredictions(Counted(head()), ahead), text))
