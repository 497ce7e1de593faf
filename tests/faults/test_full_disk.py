"""Every command on a disk that is full: a limit on the size of files is one, for any user."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli_errors import the_error
from kullback.cli import main


@contextmanager
def limit_of_files(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


COMMANDS = {
    "report": "evaluate {model} --text {text} --report {out}/r.html",
    "records": "evaluate {model} --text {text} --records {out}/r.parquet",
    "comparison": "compare {model} {model}@int8 --text {text} --report {out}/r.html",
    "record": "record {model} --text {text} -o {out}/r.parquet",
    "exact": "record {model} --text {text} --distributions exact -o {out}/r.rec",
    "top-k": "record {model} --text {text} --distributions top-k -o {out}/r.rec",
    "quantise to int8": "quantise {model} --scheme int8 -o {out}/q",
    "quantise to bf16": "quantise {model} --scheme bf16 -o {out}/q",
    "export": "source export conjugation --tokens 5000 -o {out}/data",
    "train": "train --source {source} --steps 2 -o {out}/run",
    "lab": "lab --steps 1 -o {out}/lab",
    "scaling": "scaling --source {source} --steps 1 --width 8 --rungs 4 -o {out}/ladder",
    "doctor": "doctor --tokens 200 -o {out}/checked -- true",
}


@pytest.mark.parametrize("size", [0, 3000])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_is_one_sentence(
    command: str,
    size: int,
    tiny_llama_folder: Path,
    text_file: Path,
    weather_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 2, the sentence names the file and the remedy, and nothing is left half-written."""
    grammar = weather_run.parent / "weather.toml"
    arguments = COMMANDS[command].format(
        model=tiny_llama_folder, text=text_file, source=grammar, out=tmp_path
    )
    with limit_of_files(size):
        code = main(arguments.split())
    sentence = the_error(capsys.readouterr().err)
    assert code == 2, sentence
    assert "File too large" in sentence
    assert str(tmp_path) in sentence
    assert "free some space" in sentence.lower()
    left = {path.name for path in tmp_path.rglob("*") if not path.is_dir()}
    # A run that has begun is complete so far: it can be resumed.  So can a ladder; a diagnosis that
    # failed is replaced.
    begun = {
        "tokenizer.json", "training.json", "metrics.jsonl",
        "ladder.json", "seconds.json", "unfinished.txt",
    }  # fmt: skip
    assert left <= (begun if size else set())


@pytest.mark.parametrize("command", ["report", "records", "exact", "top-k"])
def test_an_earlier_file_is_kept(
    command: str, tiny_llama_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    """What was there before is there afterwards, to the last byte, and nothing beside it."""
    arguments = COMMANDS[command].format(model=tiny_llama_folder, text=text_file, out=tmp_path)
    assert main(arguments.split()) == 0
    (file,) = tmp_path.iterdir()
    before = file.read_bytes()
    other = [*arguments.split(), "--window", "16"]  # finished records of the same would be read
    with limit_of_files(4096):
        assert main(other) == 2
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert file.read_bytes() == before
    assert main(other) == 0
