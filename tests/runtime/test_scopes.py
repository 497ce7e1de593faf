"""Scopes that threads share."""

from __future__ import annotations

import threading

import pytest

from kullback.runtime.scopes import shared_scope


def test_the_change_holds_while_a_thread_is_inside() -> None:
    """The first of two threads makes the change, the last one undoes it, whichever leaves first."""
    state: list[str] = []

    def apply():
        state.append("changed")
        return state.clear

    first_is_inside, first_may_leave = threading.Event(), threading.Event()

    def first() -> None:
        with shared_scope("test", apply):
            first_is_inside.set()
            first_may_leave.wait(30)

    thread = threading.Thread(target=first)
    thread.start()
    assert first_is_inside.wait(30)
    with shared_scope("test", apply):
        first_may_leave.set()
        thread.join()
        assert state == ["changed"]
    assert state == []


def test_an_error_inside_undoes_the_change() -> None:
    """An exception leaves nothing behind, and the scope can be entered again."""
    state: list[str] = []

    def apply():
        state.append("changed")
        return state.clear

    def fail() -> None:
        assert state == ["changed"]
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError), shared_scope("test", apply):
            fail()
        assert state == []
