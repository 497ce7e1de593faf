"""Batches that are prepared ahead."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from kullback.runtime.threads import workers
from kullback.training.arithmetic import CPU, with_native
from kullback.training.batches import Shard
from kullback.training.batches_ahead import batches_ahead
from kullback.training.config import TrainingConfig
from kullback.training.loop import train
from kullback.training.replicas import ALONE, Replicas
from kullback.training.state import TrainingState
from kullback.training.steps import train_step
from tiny_runs import fingerprint, same_shards, sizes, weather


def own_threads() -> list[str]:
    """Return the threads that prepare batches."""
    return [t.name for t in threading.enumerate() if t.name.startswith("kullback-batches")]


def test_batches_come_in_order_and_none_beyond_the_end(tmp_path: Path) -> None:
    """Each is the batch of its step; what is made is asked for, and the thread ends."""
    batches, made = weather(tmp_path), list[int]()

    def make(step: int) -> list[Shard]:
        made.append(step)
        return batches.shards(step, 2)

    with batches_ahead(make, 3, 6, CPU) as following:
        for step in (3, 4, 5):
            assert same_shards(following(), batches.shards(step, 2))
    assert made == [3, 4, 5]
    assert own_threads() == []


def test_the_next_batch_is_made_while_one_is_used() -> None:
    """The batch of step 1 is made before it is asked for."""
    begun = [threading.Event(), threading.Event()]

    def make(step: int) -> list[Shard]:
        begun[step].set()
        return []

    with batches_ahead(make, 0, 2, CPU) as following:
        following()
        assert begun[1].wait(30)
        following()


def test_an_error_is_raised_where_its_batch_is_asked_for() -> None:
    """The batch before it is delivered, and nothing is left running."""

    def make(step: int) -> list[Shard]:
        if step == 1:
            raise OSError("gone")
        return []

    with batches_ahead(make, 0, 9, CPU) as following:
        assert following() == []
        with pytest.raises(OSError, match="gone"):
            following()
    assert own_threads() == []


def test_an_interruption_does_not_wait_for_a_batch() -> None:
    """Ctrl-C leaves at once, even where the next batch never comes."""
    release = threading.Event()

    def make(step: int) -> list[Shard]:
        if step == 1:
            release.wait(60)
        return []

    def interrupted() -> None:
        with batches_ahead(make, 0, 9, CPU) as following:
            following()
            raise KeyboardInterrupt

    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert own_threads() != []
    finally:
        release.set()


def test_no_step_is_left() -> None:
    """A finished run makes no batch."""

    made: list[int] = []

    def make(step: int) -> list[Shard]:
        made.append(step)
        return []

    with batches_ahead(make, 5, 5, CPU):
        pass
    assert made == []


def test_a_run_has_the_bits_of_batches_that_are_made_in_turn(tmp_path: Path) -> None:
    """Its weights are those of steps that each make their batch first."""
    batches, config = weather(tmp_path), TrainingConfig(steps=6, shards=1)
    model = train(tmp_path / "run", batches, sizes(batches), config)
    state = TrainingState.begin(sizes(batches), with_native(config, CPU))
    with workers(1) as pool:
        for step in range(6):
            train_step(state, batches.shards(step, 1), pool, Replicas(ALONE))
    assert fingerprint(state.model) == fingerprint(model)
