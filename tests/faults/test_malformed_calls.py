"""Malformed calls of every command: each one is refused in one sentence."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli_errors import exit_code, the_error
from malformed_calls import CALLS
from mistaken_files import mistaken_files
from tiny_runs import contents


@pytest.fixture(scope="module")
def folder(weather_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the calls name; in the end everything in it is as it was."""
    place = tmp_path_factory.mktemp("calls")
    mistaken_files(place, weather_run)
    before = contents(place)
    yield place
    assert contents(place) == before


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is no path is looked for in the cache of the hub only."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("call", CALLS)
def test_a_malformed_call_is_one_sentence(
    call: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, one line that holds the value and what is to be done, nothing written."""
    monkeypatch.chdir(folder)
    before = sorted(os.listdir(folder))
    assert exit_code(shlex.split(call)) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    sentence = the_error(streams.err)
    assert all(word in sentence for word in CALLS[call]), sentence
    assert sorted(os.listdir(folder)) == before
