"""Tests of kullback.scoring.divergence against a float64 brute force."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from block_arithmetic import block_sums_by
from kullback.errors import InvalidValueError
from kullback.predictions.base import (
    ComputedPredictions,
    DensePredictions,
    FactoredPredictions,
    Head,
)
from kullback.scoring.divergence import (
    DivergenceStatistics,
    divergence_statistics,
    start_divergences,
)
from kullback.scoring.pair_sums import PairSums
from kullback.scoring.token_statistics import token_statistics


@pytest.fixture(autouse=True, params=["compiled", "torch"])
def arithmetic(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test holds for the sums in C and for those in torch."""
    with block_sums_by(request.param):
        yield


NAMES = ("kl", "reverse_kl", "jensen_shannon", "total_variation")


def brute_force(p_logits: Tensor, q_logits: Tensor) -> tuple[np.ndarray, ...]:
    """KL(p‖q), KL(q‖p), Jensen-Shannon and total variation from whole softmaxes in float64."""
    log_p, log_q = (torch.log_softmax(x.double(), dim=1) for x in (p_logits, q_logits))
    p, q = log_p.exp(), log_q.exp()
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)

    def kl(p: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
        return torch.where(log_p == -torch.inf, 0, p * (log_p - log_q)).sum(dim=1)

    js = (kl(p, log_p, log_m) + kl(q, log_q, log_m)) / 2
    variation = (p - q).abs().sum(dim=1) / 2
    return kl(p, log_p, log_q).numpy(), kl(q, log_q, log_p).numpy(), js.numpy(), variation.numpy()


def noise(rows: int, V: int, seed: int) -> Tensor:
    """Standard normal numbers, always the same."""
    return torch.randn(rows, V, generator=torch.Generator().manual_seed(seed))


def compare(
    p_logits: Tensor, q_logits: Tensor, targets: Tensor | None = None
) -> DivergenceStatistics:
    """The statistics of two arrays of logits."""
    if targets is None:
        targets = torch.zeros(len(p_logits), dtype=torch.int64)
    return divergence_statistics(DensePredictions(p_logits), DensePredictions(q_logits), targets)


@pytest.mark.parametrize("scale", [1.5e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0])
@pytest.mark.parametrize(("V", "tolerance"), [(2, 3e-5), (50, 1e-5), (512, 1e-5), (5000, 1e-5)])
def test_divergences_of_any_size_keep_five_digits(scale: float, V: int, tolerance: float) -> None:
    """For KL >= 1e-6 all four are within 1e-5 of float64's, or 3e-5 where one token is all."""
    p_logits = 3 * noise(300, V, 1)
    q_logits = p_logits + scale * noise(300, V, 2)
    statistics = compare(p_logits, q_logits)
    for name, expected in zip(NAMES, brute_force(p_logits, q_logits), strict=True):
        rows = expected >= (2.5e-7 if name == "jensen_shannon" else 1e-6)
        np.testing.assert_allclose(
            getattr(statistics, name)[rows], expected[rows], tolerance, err_msg=name
        )


def test_nearly_equal_models_have_a_tiny_kl_and_not_a_negative_one() -> None:
    """A KL of 1e-9 and less is exact to three digits, and none is below zero."""
    p_logits = 4 * noise(200, 3000, 3)
    q_logits = p_logits + 3e-5 * noise(200, 3000, 4)
    statistics = compare(p_logits, q_logits)
    expected = brute_force(p_logits, q_logits)[0]
    assert expected.mean() < 1e-9
    assert statistics.kl.min() >= 0
    assert statistics.reverse_kl.min() >= 0
    np.testing.assert_allclose(statistics.kl.mean(), expected.mean(), 1e-3)


@pytest.mark.parametrize("late", [0.0, 10.0])
def test_total_variation_of_nearly_equal_models(late: float) -> None:
    """Where the KL is 1e-8, each row is within 2e-5 of float64's and the mean within 1e-6."""
    p_logits = 3 * noise(100, 6000, 33)
    p_logits[:, 5500] += late
    q_logits = p_logits + 1.4e-4 * noise(100, 6000, 34) + 20
    statistics = compare(p_logits, q_logits)
    expected = brute_force(p_logits.double(), q_logits.double())
    assert 3e-9 < expected[0].mean() < 3e-8
    np.testing.assert_allclose(statistics.total_variation, expected[3], 2e-5)
    np.testing.assert_allclose(statistics.total_variation.mean(), expected[3].mean(), 1e-6)


@settings(max_examples=20, deadline=None)
@given(
    st.floats(0, 12), st.floats(0, 6), st.integers(0, 1000),
    st.sampled_from([1, 2, 30, 1100, 2300]),
)  # fmt: skip
def test_pinskers_inequality(spread: float, distance: float, seed: int, V: int) -> None:
    """In every row 0 <= TV <= 1 and TV² <= KL / 2, up to rounding."""
    p_logits = spread * noise(20, V, seed)
    statistics = compare(p_logits, p_logits + distance * noise(20, V, seed + 1))
    variation = statistics.total_variation
    assert variation.min() >= 0
    assert variation.max() <= 1
    for kl in (statistics.kl, statistics.reverse_kl):
        assert np.all(variation**2 <= kl / 2 * (1 + 1e-4) + 1e-12)


def test_a_constant_added_to_the_logits_is_no_difference() -> None:
    """Logits that differ by 10 in every token give a KL of rounding squared."""
    p_logits = 3 * noise(50, 2000, 5)
    assert compare(p_logits, p_logits + 10).kl.max() < 1e-12
    q_logits = p_logits + 10 + 0.01 * noise(50, 2000, 6)
    np.testing.assert_allclose(
        compare(p_logits, q_logits).kl, brute_force(p_logits, q_logits)[0], 1e-5
    )


@pytest.mark.parametrize("V", [1, 511, 512, 513, 1300])
def test_equal_logits_have_exactly_no_divergence(V: int) -> None:
    """A model against itself gives exactly zero, and full agreement."""
    logits = 5 * noise(20, V, 7)
    logits[:, 1::3] = -torch.inf
    statistics = compare(logits, logits.clone())
    for name in NAMES:
        assert np.array_equal(getattr(statistics, name), np.zeros(20)), name
    assert statistics.top1_agreement.all()
    assert np.all(statistics.top5_overlap == min(5, math.ceil(V / 3) if V < 3 else 5))
    assert np.array_equal(statistics.candidate.nll, statistics.reference.nll)


def test_equal_factored_models_have_exactly_no_divergence() -> None:
    """Two copies of hidden states and head give exactly zero in every row."""
    hidden, head = noise(300, 32, 8), noise(2000, 32, 9)
    targets = torch.arange(300)
    statistics = divergence_statistics(
        FactoredPredictions(hidden, Head(head)),
        FactoredPredictions(hidden.clone(), Head(head.clone())),
        targets,
    )
    assert np.array_equal(statistics.kl, np.zeros(300))
    assert np.array_equal(statistics.jensen_shannon, np.zeros(300))
    assert np.array_equal(statistics.total_variation, np.zeros(300))


@pytest.mark.parametrize(
    "types", [("float32", "float32"), ("float64", "float64"), ("float32", "float64")]
)
@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_each_models_own_statistics_are_those_of_the_single_pass(
    types: tuple[str, str], offset: float
) -> None:
    """nll, entropy, rank and most probable tokens equal `token_statistics` of either model.

    Normalisers far apart are compared in float64, which once overwrote logits in that type.
    """
    p_logits, q_logits = (
        (3 * noise(70, 1500, seed)).to(getattr(torch, dtype))
        for seed, dtype in zip((10, 11), types, strict=True)
    )
    q_logits += offset
    targets = torch.arange(70) * 20
    statistics = compare(p_logits, q_logits, targets)
    for own, logits in ((statistics.reference, p_logits), (statistics.candidate, q_logits)):
        alone = token_statistics(DensePredictions(logits), targets, top_k=5)
        for name in vars(alone):
            assert_equal = np.testing.assert_array_equal
            if types[0] != types[1]:  # the float32 model is then summed by torch, not in C
                assert_equal = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
            assert_equal(getattr(own, name), getattr(alone, name), err_msg=name)


def test_agreement_and_probabilities_of_top_tokens() -> None:
    """Top-5 overlap and the probability of the reference's top-1 equal brute force."""
    p_logits = 3 * noise(90, 1200, 12)
    q_logits = p_logits + noise(90, 1200, 13)
    targets = torch.arange(90)
    statistics = compare(p_logits, q_logits, targets)
    p, q = (x.double().softmax(dim=1) for x in (p_logits, q_logits))
    for i in range(90):
        shared = set(p[i].topk(5).indices.tolist()) & set(q[i].topk(5).indices.tolist())
        assert statistics.top5_overlap[i] == len(shared)
    top1 = p.argmax(dim=1)
    np.testing.assert_allclose(
        statistics.candidate_at_reference_top1, q.gather(1, top1[:, None])[:, 0].numpy(), 1e-5
    )
    np.testing.assert_array_equal(statistics.top1_agreement, (top1 == q.argmax(dim=1)).numpy())


def test_tokens_that_one_model_excludes() -> None:
    """KL is inf exactly where its second model excludes what the first does not; JS is not."""
    p_logits, q_logits = noise(4, 1100, 14), noise(4, 1100, 15)
    q_logits[1, 700] = -torch.inf
    p_logits[2, 30:90] = -torch.inf
    p_logits[3, ::2] = q_logits[3, 1::2] = -torch.inf
    statistics = compare(p_logits, q_logits, torch.full((4,), 5))
    expected = brute_force(p_logits, q_logits)
    assert statistics.kl.tolist()[1::2] == [math.inf] * 2
    assert statistics.reverse_kl.tolist()[2:] == [math.inf] * 2
    for name, values in zip(NAMES, expected, strict=True):
        np.testing.assert_allclose(getattr(statistics, name), values, 1e-5, err_msg=name)
    assert statistics.jensen_shannon[3] == pytest.approx(math.log(2), rel=1e-6)


def test_a_token_too_improbable_for_float32_still_makes_the_kl_infinite() -> None:
    """Excluding a token of probability 1e-100 is an infinite KL, not zero times infinity."""
    p_logits = torch.tensor([[0.0, -230.0]])
    q_logits = torch.tensor([[0.0, -torch.inf]])
    statistics = compare(p_logits, q_logits)
    assert statistics.kl[0] == math.inf
    assert statistics.reverse_kl[0] == 0.0


@pytest.mark.parametrize("size", [200.0, 1e4, 1e30])
def test_huge_logits(size: float) -> None:
    """Logits far beyond the exponent's range give what float64 gives."""
    p_logits, q_logits = noise(10, 900, 16), noise(10, 900, 17)
    p_logits[:, ::2] += size
    q_logits[:5, ::3] += size
    statistics = compare(p_logits, q_logits)
    for name, expected in zip(NAMES, brute_force(p_logits, q_logits), strict=True):
        np.testing.assert_allclose(getattr(statistics, name), expected, 1e-5, err_msg=name)


def test_no_rows_and_one_row() -> None:
    """Zero rows give empty statistics, and a row does not depend on its neighbours."""
    empty = compare(torch.zeros(0, 9), torch.zeros(0, 9))
    assert len(empty) == 0
    p_logits, q_logits = noise(600, 700, 18), noise(600, 700, 19)
    alone = compare(p_logits[599:], q_logits[599:])
    assert alone.kl[0] == compare(p_logits, q_logits).kl[599]


def test_a_padded_vocabulary_is_aligned() -> None:
    """The tokens that both have are compared, renormalised; the rest is reported as padding."""
    p_logits, q_logits = noise(30, 1000, 20), noise(30, 1064, 21)
    statistics = compare(p_logits, q_logits)
    np.testing.assert_allclose(statistics.kl, brute_force(p_logits, q_logits[:, :1000])[0], 1e-5)
    outside = q_logits.double().softmax(dim=1)[:, 1000:].sum(dim=1).numpy()
    np.testing.assert_allclose(statistics.candidate_padding, outside, 1e-5)
    assert np.all(statistics.reference_padding == 0)


def test_a_smaller_vocabulary_on_request() -> None:
    """`vocabulary_size` leaves out the tokens beyond it in both models."""
    p_logits, q_logits = noise(30, 1000, 22), noise(30, 1000, 23)
    statistics = divergence_statistics(
        DensePredictions(p_logits),
        DensePredictions(q_logits),
        torch.zeros(30, dtype=torch.int64),
        vocabulary_size=600,
    )
    expected = brute_force(p_logits[:, :600], q_logits[:, :600])
    np.testing.assert_allclose(statistics.kl, expected[0], 1e-5)
    assert np.all(statistics.reference_padding > 0)


def test_rows_apart_and_threads_change_nothing() -> None:
    """The result does not depend on the rows read at once, nor on another thread's work."""
    first = FactoredPredictions(noise(600, 16, 24), Head(noise(1400, 16, 25)))
    second = FactoredPredictions(noise(600, 16, 26), Head(noise(1400, 16, 27)))
    targets = torch.arange(600)
    whole = divergence_statistics(first, second, targets)
    some = torch.arange(250, 350)
    part = divergence_statistics(first.select(some), second.select(some), targets[some])
    np.testing.assert_allclose(part.kl, whole.kl[250:350], 1e-5)
    np.testing.assert_allclose(part.jensen_shannon, whole.jensen_shannon[250:350], 1e-5)
    np.testing.assert_allclose(part.total_variation, whole.total_variation[250:350], 1e-5)
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: divergence_statistics(first, second, targets), range(2)))
    for statistics in both:
        np.testing.assert_array_equal(statistics.kl, whole.kl)


def test_rows_of_a_chunk_are_shared_by_threads() -> None:
    """As many threads as are asked for give the rows of one, to the bit, and name a damaged row."""
    p_logits, q_logits, targets = noise(1030, 700, 31), noise(1030, 700, 32), torch.arange(1030) % 9
    model, other = DensePredictions(p_logits), ComputedPredictions(
        torch.arange(1030), 700, lambda rows_B: q_logits[rows_B]
    )  # fmt: skip
    alone = start_divergences(model, other, targets)()
    threads = set()
    with monitored(threads):
        shared = start_divergences(model, other, targets, threads=3)()
    assert len(threads) == 3
    for name in NAMES:
        np.testing.assert_array_equal(getattr(shared, name), getattr(alone, name))
    np.testing.assert_array_equal(shared.candidate.nll, alone.candidate.nll)
    q_logits[1013, 650] = torch.nan
    with pytest.raises(InvalidValueError, match=r"row 1013 of the candidate.*NaN"):
        start_divergences(model, other, targets, threads=3)


def test_parts_of_a_chunk_may_differ_in_their_far_and_excluded_tokens() -> None:
    """Rows that are summed by another thread are those of one thread, all of their columns."""
    p_logits = noise(90, 2100, 41)
    q_logits = p_logits + 0.01 * noise(90, 2100, 42)
    q_logits[5, 1500] += 4
    q_logits[50, 700] = p_logits[70, 900] = -torch.inf
    models = DensePredictions(p_logits), DensePredictions(q_logits)
    targets = torch.arange(90)
    alone, shared = (start_divergences(*models, targets, threads=threads)() for threads in (1, 3))
    for field in dataclasses.fields(alone):
        ours, theirs = getattr(shared, field.name), getattr(alone, field.name)
        of_model = dataclasses.is_dataclass(ours)
        for column in [column.name for column in dataclasses.fields(ours)] if of_model else [""]:
            pair = (getattr(ours, column), getattr(theirs, column)) if of_model else (ours, theirs)
            np.testing.assert_array_equal(*pair, err_msg=f"{field.name} {column}")
    assert alone.kl[50] == alone.reverse_kl[70] == math.inf


@contextmanager
def monitored(threads: set[int]) -> Iterator[None]:
    """The threads in which blocks of a pair are added."""
    usual = PairSums.add_blocks

    def add_blocks(sums: PairSums) -> None:
        threads.add(threading.get_ident())
        usual(sums)
        time.sleep(0.01)  # so that a thread that has nothing to do takes the next part

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PairSums, "add_blocks", add_blocks)
        yield


@pytest.mark.parametrize("late", [0.0, 0.1, 1.0, 8.0, 60.0, 300.0])
@pytest.mark.parametrize("far", [0.05, 1.0])
def test_tokens_that_come_late_and_change_the_normalisers(late: float, far: float) -> None:
    """Whatever the early blocks took for the normalisers, all divergences are those of the end."""
    p_logits = 2 * noise(60, 4000, 31)
    q_logits = p_logits + far * noise(60, 4000, 32)
    p_logits[:20, 3500:] += late
    q_logits[20:40, 3500:] += late
    p_logits[40:, 3000:] += late
    q_logits[40:, 3900:] += late
    statistics = compare(p_logits, q_logits)
    for name, expected in zip(NAMES, brute_force(p_logits, q_logits), strict=True):
        np.testing.assert_allclose(getattr(statistics, name), expected, 1e-5, err_msg=name)


def test_all_forms_and_types_of_predictions_can_be_compared() -> None:
    """Dense bfloat16 against computed float64 logits gives what their numbers give."""
    p_logits, q_logits = noise(40, 800, 28).bfloat16(), noise(40, 800, 29).double()
    computed = ComputedPredictions(torch.arange(40), 800, lambda rows: q_logits[rows])
    targets = torch.zeros(40, dtype=torch.int64)
    statistics = divergence_statistics(DensePredictions(p_logits), computed, targets)
    np.testing.assert_allclose(statistics.kl, brute_force(p_logits, q_logits)[0], 1e-6)


def test_mismatches_are_refused() -> None:
    """Other rows, other targets or an impossible vocabulary size are errors that say what to do."""
    targets = torch.zeros(3, dtype=torch.int64)
    model = DensePredictions(torch.zeros(3, 9))
    with pytest.raises(InvalidValueError, match="3 rows, the candidate 2"):
        divergence_statistics(model, DensePredictions(torch.zeros(2, 9)), targets)
    with pytest.raises(InvalidValueError, match=r"vocabulary_size is 10.*\[1, 9\]"):
        divergence_statistics(model, model, targets, vocabulary_size=10)
    with pytest.raises(InvalidValueError, match=r"targets_M\[0\] is 9"):
        divergence_statistics(model, model, targets + 9)


def test_damaged_logits_say_whose_they_are() -> None:
    """A NaN is an error that names the model and the row."""
    good, bad = noise(20, 700, 30), noise(20, 700, 30)
    bad[13, 650] = torch.nan
    with pytest.raises(InvalidValueError, match=r"row 13 of the candidate.*NaN"):
        compare(good, bad)
    with pytest.raises(InvalidValueError, match=r"row 13 of the reference.*NaN"):
        compare(bad, good)
