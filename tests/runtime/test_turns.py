"""Threads that take turns."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from kullback.runtime.turns import Turns

SECONDS = 20.0


def test_who_is_alone_waits_for_the_others_and_they_for_it() -> None:
    """Nothing else runs meanwhile, whoever came first."""
    turns, begun, go_on = Turns(), threading.Event(), threading.Event()
    order: list[str] = []

    def shared(name: str) -> None:
        with turns.shared():
            if name == "first":
                begun.set()
                assert go_on.wait(SECONDS)
            order.append(name)

    def alone() -> None:
        with turns.alone():
            order.append("alone")

    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(shared, "first")]
        assert begun.wait(SECONDS)
        waiting.append(pool.submit(alone))
        while not turns._alone:
            time.sleep(0.001)
        waiting.append(pool.submit(shared, "second"))
        go_on.set()
        for future in waiting:
            future.result(SECONDS)
    assert order == ["first", "alone", "second"]


def test_at_most_so_many_run() -> None:
    """The number is lowered, and never raised; so many do run at the same time."""
    turns, pairs, most = Turns(), threading.Barrier(2), []
    turns.lower(2)
    turns.lower(3)

    def shared(_: int) -> None:
        with turns.shared() as turn:
            pairs.wait(SECONDS)
            time.sleep(0.001)
            most.append(turn.most)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(shared, range(30)))
    assert max(most) == 2


def test_a_failure_ends_its_turn() -> None:
    """Those that wait go on."""
    turns = Turns()
    for turn in (turns.shared(), turns.alone()):
        try:
            with turn:
                raise MemoryError
        except MemoryError:
            pass
    with turns.alone():
        pass
    with turns.shared() as turn:
        assert turn.most == 1


def test_a_turn_knows_how_many_ran_beside_it() -> None:
    """Those that began after it, too."""
    turns = Turns()
    with turns.shared() as first:
        assert first.most == 1
        with turns.shared() as second:
            pass
        assert (first.most, second.most) == (2, 2)
    with turns.shared() as third:
        assert third.most == 1


def test_nobody_joins_who_is_alone() -> None:
    """A turn that is asked for while another is alone begins after it."""
    turns, order, asked = Turns(), [], threading.Event()

    def shared() -> None:
        asked.set()
        with turns.shared():
            order.append("shared")

    with ThreadPoolExecutor(1) as pool:
        with turns.alone():
            waiting = pool.submit(shared)
            assert asked.wait(SECONDS)
            time.sleep(0.02)
            order.append("alone")
        waiting.result(SECONDS)
    assert order == ["alone", "shared"]
