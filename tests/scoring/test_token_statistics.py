"""Tests of kullback.scoring.token_statistics against a float64 brute force."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from block_arithmetic import block_sums_by
from kullback.errors import InvalidValueError
from kullback.predictions.base import (
    ComputedPredictions,
    DensePredictions,
    FactoredPredictions,
    Head,
    Predictions,
)
from kullback.scoring.token_statistics import TokenStatistics, start_statistics, token_statistics


@pytest.fixture(autouse=True, params=["compiled", "torch"])
def arithmetic(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test holds for the sums in C and for those in torch."""
    with block_sums_by(request.param):
        yield


@dataclass
class BruteForce:
    """Every statistic from a softmax in float64 of whole rows."""

    nll: np.ndarray
    entropy: np.ndarray
    rank: np.ndarray
    top1: np.ndarray
    top1_probability: np.ndarray
    sum_of_squares: np.ndarray
    log_q: Tensor

    @classmethod
    def of(cls, logits_MV: Tensor, targets_M: Tensor) -> BruteForce:
        """The statistics of whole rows."""
        log_q = torch.log_softmax(logits_MV.double(), dim=1)
        q = log_q.exp()
        target = logits_MV.gather(1, targets_M[:, None])
        return cls(
            nll=-log_q.gather(1, targets_M[:, None])[:, 0].numpy(),
            entropy=torch.special.entr(q).sum(dim=1).numpy(),
            rank=((logits_MV > target).sum(dim=1) + 1).numpy(),
            top1=logits_MV.argmax(dim=1).numpy(),
            top1_probability=q.amax(dim=1).numpy(),
            sum_of_squares=q.square().sum(dim=1).numpy(),
            log_q=log_q,
        )


def agree(statistics: TokenStatistics, expected: BruteForce, tolerance: float) -> None:
    """Assert that all statistics are equal up to a relative or absolute tolerance."""
    for name in ("nll", "entropy", "top1_probability", "sum_of_squares"):
        np.testing.assert_allclose(
            getattr(statistics, name), getattr(expected, name), tolerance, tolerance, err_msg=name
        )
    np.testing.assert_array_equal(statistics.rank, expected.rank)
    np.testing.assert_array_equal(statistics.top1, expected.top1)


def random_logits(rows: int, V: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Logits of standard deviation 3, always the same."""
    generator = torch.Generator().manual_seed(rows * 7919 + V)
    return 3 * torch.randn(rows, V, generator=generator, dtype=dtype)


def random_targets(rows: int, V: int) -> Tensor:
    """A token for each row, always the same."""
    return torch.randint(V, (rows,), generator=torch.Generator().manual_seed(rows))


def computed(logits_MV: Tensor) -> ComputedPredictions:
    """The same logits, made when asked for."""
    rows, V = logits_MV.shape
    return ComputedPredictions(torch.arange(rows), V, lambda rows_B: logits_MV[rows_B])


@pytest.mark.parametrize("V", [1, 2, 511, 512, 513, 1500])
@pytest.mark.parametrize("rows", [1, 511, 512, 513])
def test_all_statistics_equal_a_float64_softmax(rows: int, V: int) -> None:
    """Every statistic equals the brute force whether or not rows and tokens fill their blocks."""
    logits, targets = random_logits(rows, V), random_targets(rows, V)
    agree(token_statistics(DensePredictions(logits), targets), BruteForce.of(logits, targets), 3e-6)


def test_no_rows_give_empty_statistics() -> None:
    """Zero rows give zero statistics, not an error."""
    statistics = token_statistics(
        DensePredictions(torch.zeros(0, 7)), torch.zeros(0, dtype=torch.int64)
    )
    assert len(statistics) == 0
    assert statistics.top_tokens.shape == (0, 0)


def test_float64_models_are_measured_in_float64() -> None:
    """Logits in float64 give every statistic to 1e-12."""
    logits, targets = random_logits(40, 1100, torch.float64), random_targets(40, 1100)
    agree(
        token_statistics(DensePredictions(logits), targets), BruteForce.of(logits, targets), 1e-12
    )


@pytest.mark.parametrize("make", [DensePredictions, computed])
def test_measuring_leaves_the_logits_as_they_were(make: type[DensePredictions]) -> None:
    """Blocks are overwritten, the model's logits are not, and all forms agree to the bit."""
    logits, targets = random_logits(30, 700), random_targets(30, 700)
    before = logits.clone()
    statistics = token_statistics(make(logits), targets)
    assert torch.equal(logits, before)
    np.testing.assert_array_equal(
        statistics.nll, token_statistics(DensePredictions(logits), targets).nll
    )


@pytest.mark.parametrize(
    "head",
    [
        Head(random_logits(1300, 48)),
        Head(random_logits(1300, 48), random_logits(1, 1300)[0]),
        Head(random_logits(1300, 48), scale=0.0625),
        Head(random_logits(1300, 48), random_logits(1, 1300)[0], scale=0.5, softcap=30.0),
    ],
    ids=["weight", "bias", "scale", "softcap"],
)
def test_a_factored_head_equals_its_own_whole_logits(head: Head) -> None:
    """Hidden states and a head with bias, scale and soft-cap give what their logits give."""
    predictions = FactoredPredictions(random_logits(300, 48) / 10, head)
    targets = random_targets(300, 1300)
    logits = predictions.logits(slice(None))
    expected = BruteForce.of(logits, targets)
    statistics = token_statistics(predictions, targets)
    np.testing.assert_allclose(statistics.nll, expected.nll, 0, 1e-5)
    np.testing.assert_allclose(statistics.entropy, expected.entropy, 0, 1e-5)
    np.testing.assert_allclose(statistics.sum_of_squares, expected.sum_of_squares, 1e-5)
    # Another rounding of the logits may swap tokens that are equal to the last bits.
    assert np.mean(statistics.rank != expected.rank) < 0.01
    np.testing.assert_array_equal(statistics.top1, expected.top1)


def test_nll_at_a_real_vocabulary_is_within_the_promised_error() -> None:
    """At V = 49,152 the nll is within 2e-6 nats on average and 1e-5 at worst of float64's."""
    logits, targets = random_logits(256, 49_152) + 5, random_targets(256, 49_152)
    targets[:128] = logits[:128].argmax(dim=1)
    error = token_statistics(DensePredictions(logits), targets).nll
    error = np.abs(error - BruteForce.of(logits, targets).nll)
    assert error.mean() <= 2e-6
    assert error.max() <= 1e-5


def test_rank_one_means_top1_even_where_the_head_rounds() -> None:
    """Rank 1 holds exactly where the most probable token is the target or its equal."""
    head = Head(random_logits(2000, 64))
    predictions = FactoredPredictions(random_logits(256, 64) / 20, head)
    targets = torch.from_numpy(token_statistics(predictions, random_targets(256, 2000)).top1)
    statistics = token_statistics(predictions, targets)
    np.testing.assert_array_equal(statistics.rank, 1)
    np.testing.assert_array_equal(statistics.top1, targets.numpy())
    np.testing.assert_allclose(np.exp(-statistics.nll), statistics.top1_probability, rtol=1e-12)


def test_ties_do_not_raise_the_rank() -> None:
    """Equal logits do not count as larger, and the first token of equals is the most probable."""
    logits = torch.zeros(3, 1200)
    logits[1, 1100] = logits[1, 700] = 1.0
    statistics = token_statistics(DensePredictions(logits), torch.tensor([1199, 1100, 5]))
    np.testing.assert_array_equal(statistics.rank, [1, 1, 1])
    np.testing.assert_array_equal(statistics.top1, [0, 700, 0])


def test_bfloat16_and_float16_logits_are_measured_in_float32() -> None:
    """Low-precision logits are taken as the numbers that they are."""
    for dtype in (torch.bfloat16, torch.float16):
        logits, targets = random_logits(50, 900).to(dtype), random_targets(50, 900)
        statistics = token_statistics(DensePredictions(logits), targets)
        agree(statistics, BruteForce.of(logits.float(), targets), 3e-6)


def test_excluded_tokens_have_infinite_nll_and_no_other_effect() -> None:
    """Where -inf excludes a token its nll is inf, and the others' statistics do not see it."""
    logits, targets = random_logits(20, 1400), random_targets(20, 1400)
    logits[:, 300:900] = -torch.inf  # one whole block and parts of two others
    logits[:5, :1300] = -torch.inf
    targets[0], targets[7] = 3, 512
    statistics = token_statistics(DensePredictions(logits), targets)
    expected = BruteForce.of(logits, targets)
    assert statistics.nll[0] == statistics.nll[7] == np.inf
    assert statistics.rank[0] == 101
    agree(statistics, expected, 3e-6)


def test_a_certain_prediction_costs_exactly_nothing() -> None:
    """Where all tokens but the target are excluded nll and entropy are exactly zero."""
    logits = torch.full((2, 1500), -torch.inf)
    logits[:, 1200] = torch.tensor([-1e30, 3.0])
    statistics = token_statistics(DensePredictions(logits), torch.tensor([1200, 1200]))
    assert statistics.nll.tolist() == statistics.entropy.tolist() == [0.0, 0.0]
    assert statistics.top1_probability.tolist() == statistics.sum_of_squares.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("offset", [-1e4, -300.0, 300.0, 1e4, 1e30])
def test_huge_logits_never_overflow(offset: float) -> None:
    """Logits far beyond the exponent's range give what float64 gives."""
    logits = random_logits(10, 1300)
    logits[:, ::3] += offset
    logits[:5] -= offset
    targets = random_targets(10, 1300)
    statistics, expected = (
        token_statistics(DensePredictions(logits), targets),
        BruteForce.of(logits, targets),
    )
    assert np.all(statistics.nll >= 0)
    agree(statistics, expected, 1e-5)


def test_nll_and_entropy_are_never_negative() -> None:
    """Rounding does not push the nll or the entropy of a nearly certain prediction below zero."""
    logits = random_logits(256, 3000)
    targets = random_targets(256, 3000)
    logits.scatter_(1, targets[:, None], torch.linspace(10, 40, 256)[:, None])
    statistics = token_statistics(DensePredictions(logits), targets)
    assert statistics.nll.min() >= 0
    assert statistics.entropy.min() >= 0


def test_top_k_tokens_and_their_log_probabilities() -> None:
    """The K most probable tokens come in falling order with exact log-probabilities."""
    logits, targets = random_logits(70, 1800), random_targets(70, 1800)
    statistics = token_statistics(DensePredictions(logits), targets, top_k=10)
    expected, tokens = BruteForce.of(logits, targets).log_q.topk(10, dim=1)
    np.testing.assert_array_equal(statistics.top_tokens, tokens.numpy())
    np.testing.assert_allclose(statistics.top_log_probabilities, expected.numpy(), 0, 3e-6)


def test_a_vocabulary_smaller_than_k_leaves_places_empty() -> None:
    """Places that no token can take hold -1 and probability zero."""
    statistics = token_statistics(DensePredictions(torch.zeros(1, 2)), torch.tensor([0]), top_k=3)
    assert statistics.top_tokens[0, 2] == -1
    assert statistics.top_log_probabilities[0, 2] == -np.inf


@pytest.mark.parametrize(
    ("value", "what"), [(torch.nan, "NaN"), (torch.inf, r"\+inf"), (-torch.inf, "only -inf")]
)
@pytest.mark.parametrize("factored", [False, True])
def test_damaged_logits_name_their_row(value: float, what: str, factored: bool) -> None:
    """NaN, +inf and rows that exclude every token are errors that name the row."""
    logits = random_logits(300, 600)
    predictions: Predictions = DensePredictions(logits)
    if factored:
        bias = torch.zeros(600)
        predictions = FactoredPredictions(torch.zeros(300, 2), Head(torch.zeros(600, 2), bias))
        columns = slice(None) if value == -torch.inf else slice(550, 551)
        bias[columns] = value
    else:
        logits[270, slice(None) if value == -torch.inf else 550] = value
    row = 0 if factored else 270
    with pytest.raises(InvalidValueError, match=rf"row {row} of the predictions.*{what}"):
        token_statistics(predictions, random_targets(300, 600))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([0, 1]), r"shape \(2,\)"),
        (torch.tensor([0, 1, 9]), r"targets_M\[2\] is 9.*\[0, 9\)"),
        (torch.tensor([0, -100, 1]), r"targets_M\[1\] is -100"),
    ],
)
def test_targets_that_do_not_fit_are_refused(targets: Tensor, message: str) -> None:
    """A wrong number of targets, or one outside the vocabulary, is an error that names it."""
    with pytest.raises(InvalidValueError, match=message):
        token_statistics(DensePredictions(torch.zeros(3, 9)), targets)


def test_top_k_out_of_range_is_refused() -> None:
    """More than ten tokens are not kept."""
    with pytest.raises(InvalidValueError, match="top_k is 11"):
        token_statistics(DensePredictions(torch.zeros(1, 9)), torch.tensor([0]), top_k=11)


def test_threads_do_not_disturb_one_another() -> None:
    """Two threads on different rows give to the bit what one gives."""
    predictions = FactoredPredictions(random_logits(512, 32), Head(random_logits(3000, 32)))
    targets = random_targets(512, 3000)
    alone = token_statistics(predictions, targets)

    def part(start: int) -> TokenStatistics:
        rows = torch.arange(start, start + 256)
        return token_statistics(predictions.select(rows), targets[rows])

    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(part, [0, 256]))
    for name in ("nll", "entropy", "rank", "top1", "sum_of_squares"):
        together = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(together, getattr(alone, name))


def test_rows_of_a_chunk_are_shared_by_threads() -> None:
    """As many threads as are asked for give the rows of one, to the bit, and name a damaged row."""
    logits = random_logits(530, 900)
    targets = random_targets(530, 900)
    alone = start_statistics(computed(logits), targets, 3)()
    shared = start_statistics(computed(logits), targets, 3, threads=4)()
    for name in ("nll", "entropy", "rank", "top1", "sum_of_squares", "top_tokens"):
        np.testing.assert_array_equal(getattr(shared, name), getattr(alone, name))
    logits[527, 3] = torch.nan
    with pytest.raises(InvalidValueError, match="row 527"):
        start_statistics(computed(logits), targets, threads=4)
