"""`kullback sample`."""

from __future__ import annotations

import re

import pytest

from kullback.cli import main


def test_sentences_begin_with_the_prompt(weather_run, capsys):
    """A prompt is kept, and a word that is not in the vocabulary is named."""
    assert main(["sample", str(weather_run), "--prompt", "today it", "-n", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("today it") for line in lines)
    assert main(["sample", str(weather_run), "--prompt", "today xyzzy"]) == 2
    error = capsys.readouterr().err
    assert "the prompt's word 'xyzzy'" in error
    assert re.search(r"\(\d+ tokens\)", error)


@pytest.mark.parametrize(
    "options", [["-n", "-1"], ["--temperature", "-1"], ["--temperature", "nan"]]
)
def test_impossible_samples_are_refused(options, weather_run, capsys):
    """A negative number of sentences, or a temperature below zero, is named."""
    with pytest.raises(SystemExit) as stop:
        main(["sample", str(weather_run), *options])
    streams = capsys.readouterr()
    assert (stop.value.code, streams.out) == (2, "")
    assert len(streams.err.splitlines()) == 1
    assert all(word in streams.err for word in (options[0], repr(options[1]), "at most"))
