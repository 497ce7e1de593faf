"""``kullback record``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli_errors import the_error
from kullback.cli import main
from kullback.evaluation.token_records import read_records
from kullback.predictions.recording import Recording


@pytest.fixture
def on_text(tiny_llama_folder: Path, text_file: Path) -> list[str]:
    """A tiny Llama and the text it reads, as arguments."""
    return [str(tiny_llama_folder), "--text", str(text_file)]


def test_token_statistics_are_those_of_an_evaluation(on_text, tmp_path, capsys):
    """Without --distributions the file is, byte for byte, that of ``evaluate --records``."""
    on_text = [*on_text, "--window", "32"]
    one, two = tmp_path / "one.parquet", tmp_path / "two.parquet"
    assert main(["record", *on_text, "-o", str(one), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert main(["evaluate", *on_text, "--records", str(two)]) == 0
    assert one.read_bytes() == two.read_bytes()
    assert said == {
        "schema": "kullback.recording/1",
        "file": str(one),
        "kind": "token records",
        "tokens": len(read_records(one)[1]),
        "bytes": one.stat().st_size,
    }


@pytest.mark.parametrize(("kind", "more"), [("exact", []), ("top-k", ["-k", "8"])])
def test_distributions_are_recorded(kind, more, on_text, tmp_path, capsys):
    """--distributions writes a recording of that kind, with the size of the model."""
    file = tmp_path / "some.rec"
    command = ["record", *on_text, "-o", str(file)]
    assert main([*command, "--distributions", kind, *more]) == 0
    streams = capsys.readouterr()
    assert f"{file}: {kind}, 431 tokens" in streams.out
    assert ("writing about" in streams.err) == (kind == "exact")
    recording = Recording.open(file)
    assert recording.kind == kind
    assert recording.metadata["size_bytes"] > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("-o {out}/a.rec", [".parquet", "--distributions", "exact", "top-k"]),
        ("-o {out}/a", ["a: token records are a Parquet file"]),
        ("-o {out}/a.parquet --distributions exact", ["not a Parquet file", "a.rec"]),
        ("-o {out}/a.parquet -k 3", ["k is 3", "-k", "--distributions top-k"]),
        ("-o {out}/a.rec --distributions exact -k 3", ["k is 3", "-k", "--distributions top-k"]),
        ("-o {out}/a.rec --distributions top-k -k 0", ["k is 0"]),
        ("-o {out}/a.parquet --window 99", ["window is 99", "64"]),
    ],
)
def test_bad_input_is_one_sentence(options, words, on_text, tmp_path, capsys):
    """What does not fit exits with 2 and one line that says which to use; nothing is written."""
    assert main(["record", *on_text, *options.format(out=tmp_path).split()]) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    sentence = the_error(streams.err)
    assert all(word in sentence for word in words), streams.err
    assert list(tmp_path.iterdir()) == []
