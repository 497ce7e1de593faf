"""Which windows are read together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kullback.evaluation.batches import TOKENS_A_GROUP, Batch, cut, plan_batches
from kullback.text.windows import Stream, Window

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=80).map(np.array)


@given(
    LENGTHS, st.sampled_from([1, 64, 512]), st.sampled_from(["padded", "equal lengths", "alone"])
)
def test_every_window_is_in_one_batch_of_the_budget(lengths_W, budget, sharing):
    """Each window once; a batch of several has at most the budget, padding counted."""
    plan = plan_batches(lengths_W, budget, lambda longest: sharing)
    numbers = np.concatenate([batch.numbers_N for batch in plan.batches])
    assert sorted(numbers.tolist()) == list(range(len(lengths_W)))
    for batch in plan.batches:
        lengths = lengths_W[batch.numbers_N]
        assert len(lengths) == 1 or len(lengths) * lengths.max() <= budget
        assert sharing == "padded" or len(set(lengths.tolist())) == 1
        assert sharing != "alone" or len(lengths) == 1
        assert batch.group.start <= batch.numbers_N.min()
        assert batch.numbers_N.max() < batch.group.stop


@given(LENGTHS, st.integers(0, 79))
def test_batches_do_not_depend_on_where_a_run_resumes(lengths_W, first):
    """What is left to do are the same batches, those before the first window left out."""
    plan = plan_batches(lengths_W, 64, lambda longest: "padded")
    first = min(first, len(lengths_W) - 1)
    left = plan.from_window(first)
    assert all(batch in plan.batches for batch in left)
    needed = {number for batch in left for number in batch.numbers_N.tolist()}
    assert set(range(first, len(lengths_W))) <= needed


def test_long_windows_are_read_one_at_a_time_in_order():
    """Windows of a budget each are batches of one, in the order of the text."""
    plan = plan_batches(np.array([64, 64, 10, 64]), 64, lambda longest: "padded")
    assert [batch.numbers_N.tolist() for batch in plan.batches] == [[0], [1], [2], [3]]


def test_a_long_window_is_not_padding_for_a_short_one():
    """Lengths that differ much are read apart, ones that differ little together."""
    parts = cut(np.arange(4), np.array([3, 100, 110, 120]), 1024)
    assert [part.tolist() for part in parts] == [[0], [1, 2, 3]]


def test_sharing_is_asked_for_the_longest_padded_length():
    """Not for windows that are alone in their batch, or with others of their length."""
    asked = []

    def sharing(longest):
        asked.append(longest)
        return "padded"

    plan_batches(np.array([9, 10, 10, 500]), 64, sharing)
    plan_batches(np.array([64, 64]), 64, sharing)
    plan_batches(np.array([8, 8]), 64, sharing)
    assert asked == [10, 1]


def test_groups_have_a_bounded_number_of_tokens():
    """However large the budget is."""
    plan = plan_batches(np.full(3000, 100), 16_384, lambda longest: "padded")
    sizes = {batch.group.stop - batch.group.start for batch in plan.batches}
    assert max(sizes) * 100 <= TOKENS_A_GROUP + 100


@pytest.mark.parametrize("leading", [None, 7])
def test_inputs_are_padded_on_the_right(leading):
    """Each row begins with its window's tokens; the scored positions are those of the windows."""
    stream = Stream(np.arange(20, 40))
    windows = (Window(0, stream, leading, 0, 2, 6), Window(0, stream, leading, 3, 5, 6))
    batch = Batch(windows, (slice(0, 4), slice(4, 5)))
    T = windows[0].n_inputs
    for row_T, window in zip(batch.inputs, windows, strict=True):
        ids = window.inputs
        np.testing.assert_array_equal(row_T[: len(ids)], ids)
        assert set(row_T[len(ids) :].tolist()) <= {ids[-1]}
    scored = batch.inputs.reshape(-1)[batch.positions]
    np.testing.assert_array_equal(scored + 1, batch.targets)
    assert batch.positions.max() < 2 * T
    assert [len(alone.windows) for alone in batch.alone()] == [1, 1]
