"""`kullback quantise`: both sizes are shown, and the American spelling is accepted."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from kullback.cli import main


def test_json_has_both_sizes(
    tiny_llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four bits packed are fewer bytes than what the folder takes."""
    out = tmp_path / "saved"
    assert (
        main(["quantise", str(tiny_llama_folder), "--scheme", "int4", "-o", str(out), "--json"])
        == 0
    )
    streams = capsys.readouterr()
    results = json.loads(streams.out)
    assert results["folder"] == str(out)
    assert results["scheme"] == "int4"
    assert results["bytes_packed"] < results["bytes_saved"]
    assert results["bytes_saved"] == sum(file.stat().st_size for file in out.iterdir())
    assert results["bytes_weights"] == (out / "model.safetensors").stat().st_size
    assert results["bytes_packed"] < results["bytes_weights"] < results["bytes_saved"]
    stages = streams.err.splitlines()
    assert [stage.partition(":")[0] for stage in stages] == ["stage 1 of 2", "stage 2 of 2"]
    assert "loading" in stages[0]
    assert "quantising" in stages[1]


def test_the_american_spelling_is_accepted_and_not_listed(
    tiny_llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`quantize` does the same; the list of commands has one spelling."""
    out = tmp_path / "saved"
    assert main(["quantize", str(tiny_llama_folder), "--scheme", "bf16", "-o", str(out)]) == 0
    written, following = capsys.readouterr().out.splitlines()
    assert str(out) in written
    weights = (out / "model.safetensors").stat().st_size
    others = sum(file.stat().st_size for file in out.iterdir()) - weights
    assert all(word in written for word in (f"{weights:,} bytes as saved", "packed"))
    assert f"tokenizer and configuration take {others:,} more" in written
    assert f"kullback compare {tiny_llama_folder} {out}" in following
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert "quantise" in text
    assert "quantize" not in text


def test_a_misspelt_scheme_is_one_line(
    tiny_llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, with the most similar scheme."""
    assert (
        main(["quantise", str(tiny_llama_folder), "--scheme", "int4g32", "-o", str(tmp_path / "x")])
        == 2
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert "int4g32" in line
    assert "did you mean int4-g32" in line


def test_what_comes_next_can_be_pasted(
    tiny_llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder with a space is quoted."""
    out = tmp_path / "two words"
    assert main(["quantise", str(tiny_llama_folder), "--scheme", "bf16", "-o", str(out)]) == 0
    following = capsys.readouterr().out.splitlines()[-1]
    assert shlex.split(following)[1:] == [
        "kullback", "compare", str(tiny_llama_folder), str(out), "--text", "FILE",
    ]  # fmt: skip
