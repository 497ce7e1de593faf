"""Answers to signals."""

from __future__ import annotations

import os
import signal

import pytest

from kullback.runtime import interruption


def test_a_second_signal_is_answered_before_the_process_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first is left to the main thread; at the second a sentence is said."""
    said: list[str] = []

    def end(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", end)
    reader, writer = os.pipe()
    os.write(writer, bytes([signal.SIGINT, signal.SIGTERM]))
    interruption._noticed.set()
    try:
        with pytest.raises(SystemExit) as ended:
            interruption._watch(reader, said.append)
    finally:
        interruption._noticed.clear()
        os.close(reader)
        os.close(writer)
    assert ended.value.code == 128 + signal.SIGTERM
    (sentence,) = said
    assert "kept" in sentence
