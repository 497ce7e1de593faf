"""Values that threads compute."""

from __future__ import annotations

from threading import Event, current_thread, main_thread

import pytest

from kullback.runtime.background import in_background


def test_the_caller_goes_on_before_the_value_is_there() -> None:
    """The value is computed in another thread; only asking for it waits."""
    may_end, threads = Event(), []

    def compute() -> str:
        threads.append(current_thread())
        assert may_end.wait(60)
        return "value"

    value = in_background(compute)
    may_end.set()
    assert value() == value() == "value"
    assert threads != [main_thread()]
    assert len(threads) == 1


def test_an_error_reaches_whoever_asks() -> None:
    """What the thread raises is raised where the value is asked for."""

    def fail() -> None:
        raise ValueError("no value")

    with pytest.raises(ValueError, match="no value"):
        in_background(fail)()
