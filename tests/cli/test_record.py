"""``kullback record``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cli_errors import exit_code, the_error
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
        "notes": said["notes"],
    }
    assert any("bytes are not scored" in note for note in said["notes"])


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
        ("-o {out}/a.rec --distributions top-k -k 0", ["-k", "'0'", "at least 1"]),
        ("-o {out}/a.parquet --window 99", ["window is 99", "64"]),
    ],
)
def test_bad_input_is_one_sentence(options, words, on_text, tmp_path, capsys):
    """What does not fit exits with 2 and one line that says which to use; nothing is written."""
    assert exit_code(["record", *on_text, *options.format(out=tmp_path).split()]) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    sentence = the_error(streams.err)
    assert all(word in sentence for word in words), streams.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("a.rec", "record --distributions exact -o"),
        ("a.rec", "record --distributions top-k -o"),
        ("a.parquet", "record -o"),
        ("a.parquet", "evaluate --records"),
        ("a.html", "evaluate --report"),
    ],
)
def test_outputs_keep_links_and_modes_and_leave_nothing(name, command, on_text, tmp_path) -> None:
    """A link is followed, 0600 stays, and what a killed run left beside the file is removed."""
    command, *options = command.split()
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / name, tmp_path / f"link to {name}"
    link.symlink_to(target)
    if name == "a.parquet":
        link = link.rename(tmp_path / "link.parquet")
    arguments = [command, *on_text, *options, str(link)]
    assert main(arguments) == 0
    assert target.stat().st_mode & 0o777 == 0o666 & ~current_umask()
    target.chmod(0o600)
    earlier = target.stat().st_ino
    for leftover in (f".{name}.1234abcd.part", f".{name}.99.part", f".{name}.lock"):
        (target.parent / leftover).write_text("x")
    # Another window: finished records of the same fingerprint would be read, not written.
    assert main([*arguments, "--window", "16"]) == 0
    assert link.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o600
    assert target.stat().st_ino != earlier
    names = {path.name for path in target.parent.iterdir()} - {f".{name}.lock"}
    assert names == {name}
    assert {path.name for path in tmp_path.iterdir()} == {"there", link.name}


@pytest.mark.parametrize("name", ["a.rec", "a.parquet", "a.kld"])
def test_force_replaces_a_file_of_another_kind(name, on_text, tmp_path) -> None:
    """Without --force a letter stays, with it a recording takes its place."""
    file = tmp_path / name
    file.write_text("my letter")
    kinds = {"a.rec": ["--distributions", "exact"], "a.kld": ["--format", "llama.cpp"]}
    kind = [*kinds.get(name, []), "--window", "32"]
    arguments = ["record", *on_text, *kind, "-o", str(file)]
    assert main(arguments) == 2
    assert file.read_text() == "my letter"
    assert main([*arguments, "--force"]) == 0
    assert file.stat().st_size > 10_000
    assert main(arguments) == 0


def current_umask() -> int:
    """Return the umask of this process."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
