"""The sums in C are those of torch, and where they cannot be compiled torch's are used."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from block_arithmetic import block_sums_by
from kullback.predictions.base import DensePredictions
from kullback.scoring.compiled import block_library
from kullback.scoring.divergence import divergence_statistics
from kullback.scoring.divergence_terms import block_jensen_shannon
from kullback.scoring.token_statistics import token_statistics
from kullback.scoring.variation_sums import block_variation

HAS_COMPILER = any(shutil.which(name) for name in ("cc", "gcc", "clang"))
# Multiples of a vector, one more or less, and several blocks.
VOCABULARIES = [1, 7, 8, 9, 16, 1023, 1024, 1025, 2500]


def logits(rows: int, V: int, seed: int) -> Tensor:
    """Logits of standard deviation 3, a tenth of the tokens excluded, always the same."""
    generator = torch.Generator().manual_seed(seed)
    values = 3 * torch.randn(rows, V, generator=generator)
    excluded = torch.rand(rows, V, generator=generator) < 0.1
    excluded[:, 0] = False
    return values.masked_fill(excluded, -torch.inf)


def test_there_is_a_library_where_there_is_a_compiler() -> None:
    """The library is used wherever it can be made, so that the other tests here mean something."""
    with block_sums_by("compiled"):
        assert (block_library() is not None) == HAS_COMPILER


@pytest.mark.parametrize("V", VOCABULARIES)
def test_statistics_are_those_of_torch(V: int) -> None:
    """Every statistic is the same in both arithmetics, the integers exactly."""
    predictions, targets = DensePredictions(logits(40, V, 1)), torch.arange(40) % V
    by = {}
    for name in ("compiled", "torch"):
        with block_sums_by(name):
            by[name] = token_statistics(predictions, targets, top_k=5)
    for name, ours in vars(by["compiled"]).items():
        theirs = getattr(by["torch"], name)
        if name in ("rank", "top1", "top_tokens"):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)
        else:
            np.testing.assert_allclose(ours, theirs, 1e-6, 1e-6, err_msg=name)


@pytest.mark.skipif(not HAS_COMPILER, reason="there is no C compiler")
@pytest.mark.parametrize("size", [0.0, 1e4])
@pytest.mark.parametrize("distance", [1e-3, 0.1, 1.0, 30.0])
def test_exact_terms_are_those_of_float64(distance: float, size: float) -> None:
    """The terms in JS and TV of a block whose normalisers are known, excluded tokens among them."""
    x_BW = logits(30, 1001, 5)
    y_BW = x_BW + distance * logits(30, 1001, 6).nan_to_num(neginf=0.0)
    y_BW[:, 3::50] = -torch.inf
    x_BW[:10, ::2] += size
    scales, log_probabilities = [], []
    for logits_BW in (x_BW.double(), y_BW.double()):
        largest_B = logits_BW.amax(dim=1)
        log_z_B = (logits_BW - largest_B[:, None]).exp().sum(dim=1).log() + 0.3  # of other blocks
        scales += [largest_B, log_z_B]
        log_probabilities.append(logits_BW - largest_B[:, None] - log_z_B[:, None])
    with block_sums_by("compiled"):
        library = block_library()
    assert library is not None
    ours_5B = library.exact_terms((x_BW, y_BW), torch.stack(scales))
    expected = [block_jensen_shannon(*log_probabilities), *block_variation(*log_probabilities)]
    for ours_B, expected_B in zip(ours_5B[:3], expected, strict=False):
        torch.testing.assert_close(ours_B, expected_B, rtol=2e-6, atol=1e-12)
    # A token may have p and q that differ by less than their rounding.
    for ours_B, expected_B in zip(ours_5B[3:], expected[3:], strict=True):
        torch.testing.assert_close(ours_B, expected_B, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("V", VOCABULARIES)
@pytest.mark.parametrize("distance", [0.01, 1.0])
def test_divergences_are_those_of_torch(V: int, distance: float) -> None:
    """KL both ways, JS and all else agree, tokens that one or both models exclude among them."""
    p_logits = logits(40, V, 2)
    q_logits = p_logits + distance * logits(40, V, 3).nan_to_num(neginf=0.0)
    q_logits[20:, :: V // 3 + 1] = -torch.inf
    q_logits[:, -1] = 1.0
    targets = torch.arange(40) % V
    by = {}
    for name in ("compiled", "torch"):
        with block_sums_by(name):
            pair = DensePredictions(p_logits), DensePredictions(q_logits)
            by[name] = divergence_statistics(*pair, targets)
    names = (
        "kl", "reverse_kl", "jensen_shannon", "total_variation", "candidate_at_reference_top1",
    )  # fmt: skip
    for name in names:
        ours, theirs = (getattr(by[way], name) for way in ("compiled", "torch"))
        np.testing.assert_allclose(ours, theirs, 1e-5, 1e-9, err_msg=name)
    np.testing.assert_array_equal(by["compiled"].top5_overlap, by["torch"].top5_overlap)


def test_the_first_of_equal_tokens_precedes() -> None:
    """Equal logits are ranked in the order of the vocabulary, across blocks too."""
    with block_sums_by("compiled"):
        equal = DensePredictions(torch.zeros(2, 3000))
        statistics = token_statistics(equal, torch.tensor([0, 2999]), top_k=4)
    assert statistics.top1.tolist() == [0, 0]
    if HAS_COMPILER:
        assert statistics.top_tokens.tolist() == [[0, 1, 2, 3]] * 2


def test_without_a_compiler_the_sums_are_torchs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A machine that has no compiler gets numbers all the same, and nothing is written."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with block_sums_by("compiled"):
        assert block_library() is None
        statistics = token_statistics(DensePredictions(torch.zeros(1, 8)), torch.tensor([3]))
    assert statistics.nll[0] == pytest.approx(np.log(8), abs=1e-6)
    assert not (tmp_path / "cache").exists()
