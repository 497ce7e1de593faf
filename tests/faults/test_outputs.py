"""Every command and every option that writes, against every place where it must not write.

The model is a folder of damaged files: a command that read anything before it refused its output
would complain about that instead.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import kullback
from cli_errors import the_error
from kullback.cli import main, make_parser
from kullback.cli.parsing import output_name
from kullback.runtime.locks import locked_output

FILES = {
    "report": "evaluate {model} --text {text} --report {out}",
    "records": "evaluate {model} --text {text} --records {out}",
    "temperature": "evaluate {model} --text {text} --temperature --report {out}",
    "comparison": "compare {model} {model}@int8 --text {text} --report {out}",
    "schemes": "compare {model} --schemes int8 --text {text} --report {out}",
    "recordings": "compare a.rec b.rec --report {out}",
    "record": "record {model} --text {text} -o {out}",
    "exact": "record {model} --text {text} --distributions exact -o {out}",
    "ladder": "scaling --text {text} -o ladder --report {out}",
    "top-k": "record {model} --text {text} --distributions top-k --output {out}",
}
FOLDERS = {
    "quantise": "quantise {model} --scheme bf16 -o {out}",
    "quantize": "quantize {model} --scheme int8 -o {out}",
    "export": "source export conjugation --tokens 100 -o {out}",
    "train": "train --source conjugation -o {out}",
    "train on a text": "train --text {text} -o {out}",
    "lab": "lab -o {out}",
    "scaling": "scaling -o {out}",
    "doctor": "doctor -o {out} -- true",
}
READS_THE_TEXT = set(FILES) - {"recordings"}
FORCED = {name: f"{command} --force" for name, command in FILES.items()}


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, a run, texts, and names that must not be written."""
    monkeypatch.chdir(tmp_path)
    for name, files in {
        "model": ("config.json", "model.safetensors", "tokenizer.json"),
        "run": ("training.json", "tokenizer.json", "metrics.jsonl"),
        "hub/models--a--b": ("snapshots/1/config.json", "blobs/1"),
        "texts": ("a.txt", "sub/b.txt"),
        "mine": ("thesis.txt", "report.html", "a.parquet", "a.rec", "results.json"),
        "empty": (),
    }.items():
        for file in files:
            Path(name, file).parent.mkdir(parents=True, exist_ok=True)
            Path(name, file).write_text(f"damaged {file}")
    Path("empty").mkdir()
    os.mkfifo("fifo")
    Path("link to fifo").symlink_to("fifo")
    Path("link to text").symlink_to("texts/a.txt")
    Path("hard link to text").hardlink_to("texts/a.txt")
    Path("link to model").symlink_to("model/model.safetensors")
    Path("loop").symlink_to("loop")
    Path("secret").write_text("mine")
    Path("secret").chmod(0o600)
    return tmp_path


def tree(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return inode, mode and content of everything in the folder."""
    entries = {}
    for path in sorted(folder.rglob("*")):
        state = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(state.st_mode) else b""
        entries[str(path)] = state.st_ino, state.st_mode, content
    return entries


def refused(command: str, out: str, capsys, text: str = "texts/a.txt") -> str:
    """Run the command, assert that it refuses and changes nothing, and return its sentence."""
    before = tree(Path.cwd())
    parts = [
        part.format(model="model", text=text, out=out) if "{" in part else part
        for part in command.split()
    ]
    try:
        code = main(parts)
    except SystemExit as stop:  # of the parser
        code = stop.code
    streams = capsys.readouterr()
    sentence = the_error(streams.err)
    assert code == 2, sentence
    assert streams.out == ""
    assert len(streams.err.splitlines()) == 1, streams.err
    assert tree(Path.cwd()) == before
    return sentence


ANYWHERE = [
    ("", ["-", "empty"]),
    ("-", ["standard output"]),
    ("/dev/null", ["/dev/null", "no place"]),
    ("/dev/stdout", ["/dev/stdout", "no place"]),
    ("/dev/stderr", ["no place"]),
    ("/dev/fd/1", ["no place"]),
    ("/dev/full", ["no place"]),
    ("/dev/a/new/one", ["no place"]),
    ("/proc/self/environ", ["no place"]),
    ("/sys/kernel/new", ["no place"]),
    ("fifo", ["FIFO"]),
    ("link to fifo", ["FIFO"]),
    ("loop", ["symbolic links"]),
    ("x" * 256, ["name too long"]),
    ("x" * 245, ["245 bytes", "shorter"]),
    ("new/" + "y" * 245 + "/z", ["245 bytes", "shorter"]),
    ("mine/thesis.txt/new", ["thesis.txt is not a writable folder"]),
    ("model/new", ["inside", "model"]),
    ("model/new/sub/x", ["inside", "model"]),
    ("run/new", ["inside the folder of a model"]),
    ("hub/models--a--b/snapshots/1/new", ["inside the folder of a model"]),
]


@pytest.mark.parametrize(("out", "words"), ANYWHERE, ids=[out[:30] for out, _ in ANYWHERE])
@pytest.mark.parametrize("command", [*FILES, *FOLDERS])
def test_no_command_writes_there(command, out, words, places, capsys) -> None:
    """Exit code 2, one sentence with the option, the name and why, and nothing is changed."""
    sentence = refused({**FILES, **FOLDERS}[command], out, capsys).lower()
    assert all(word.lower() in sentence for word in words), sentence
    assert any(option in sentence for option in ("-o", "--report", "--records")), sentence


ONLY_FILES = [
    (".", ["a folder", "name of a file"]),
    ("mine", ["a folder", "name of a file"]),
    ("model/model.safetensors", ["model/model.safetensors"]),
    ("link to model", ["model"]),
    ("run/tokenizer.json", ["inside the folder of a model"]),
    ("run/metrics.jsonl", ["inside the folder of a model"]),
    ("hub/models--a--b/blobs/1", ["inside the folder of a model"]),
]


@pytest.mark.parametrize(("out", "words"), ONLY_FILES, ids=[out for out, _ in ONLY_FILES])
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("command", FILES)
def test_force_permits_none_of_these(command, force, out, words, places, capsys) -> None:
    """Folders, models and runs stay, whatever is asked for."""
    sentence = refused((FORCED if force else FILES)[command], out, capsys)
    assert all(word in sentence for word in words), sentence
    assert any(reason in sentence for reason in ("inside", "overwritten", "a folder")), sentence
    assert "--force" not in sentence


@pytest.mark.parametrize("out", ["texts/a.txt", "link to text", "hard link to text"])
@pytest.mark.parametrize("command", sorted(READS_THE_TEXT))
def test_an_input_is_not_an_output(command, out, places, capsys) -> None:
    """The text stays under all its names, with and without --force."""
    for commands in (FILES, FORCED):
        sentence = refused(commands[command], out, capsys)
        assert "texts/a.txt" in sentence
        assert "overwritten" in sentence


@pytest.mark.parametrize("out", ["texts/a.txt", "texts/new", "texts/sub/b.txt", "texts/x/y"])
@pytest.mark.parametrize("command", [*sorted(READS_THE_TEXT), "train on a text"])
def test_nothing_is_written_into_a_folder_of_texts(command, out, places, capsys) -> None:
    """A folder that is given as --text is closed."""
    sentence = refused({**FILES, **FOLDERS}[command], out, capsys, text="texts")
    assert "texts" in sentence
    assert "overwritten" in sentence or "inside" in sentence


@pytest.mark.parametrize(
    "out", ["mine/thesis.txt", "mine/report.html", "mine/a.parquet", "mine/a.rec", "secret"]
)
@pytest.mark.parametrize("command", FILES)
def test_a_file_of_another_kind_stays(command, out, places, capsys) -> None:
    """Only --force would replace a file that is not what its name says."""
    sentence = refused(FILES[command], out, capsys)
    assert "would be lost" in sentence
    assert "--force" in sentence


@pytest.mark.parametrize("out", ["mine", "model", "run", ".", "mine/thesis.txt", "link to text"])
@pytest.mark.parametrize("command", ["quantise", "quantize", "export"])
def test_only_a_new_or_empty_folder(command, out, places, capsys) -> None:
    """What is in a folder, or is a file, stays."""
    sentence = refused(FOLDERS[command], out, capsys)
    assert any(word in sentence for word in ("new or empty", "name of a folder", "inside"))


@pytest.mark.parametrize("out", ["mine/thesis.txt", "link to text", "mine/a.rec"])
@pytest.mark.parametrize("command", ["train", "train on a text", "lab"])
def test_a_run_is_a_folder(command, out, places, capsys) -> None:
    """A file is named, and stays."""
    sentence = refused(FOLDERS[command], out, capsys)
    assert "folder" in sentence or "overwritten" in sentence


@pytest.mark.parametrize("name", ["report.html", "results.json", "figures/slots.svg"])
def test_a_lab_replaces_only_its_own(name, places, capsys) -> None:
    """A file of somebody else at the place of one of its files is named."""
    path = Path("lab", name)
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    sentence = refused("lab -o lab", "lab", capsys)
    assert name in sentence
    assert "--force" in sentence


@pytest.mark.parametrize("command", ["evaluate {model} --text {text}", "compare a b --text {text}"])
def test_force_without_an_output_is_refused(command, places, capsys) -> None:
    """An option that cannot apply is an error."""
    assert "--force: there is no --report" in refused(f"{command} --force", "", capsys)


BUSY = {
    **{name: command for name, command in FILES.items() if name not in ("record", "records")},
    "quantise": FOLDERS["quantise"],
    "export": FOLDERS["export"],
    "lab": FOLDERS["lab"],
    "scaling": FOLDERS["scaling"],
    "doctor": FOLDERS["doctor"],
}
#: Their files appear one by one in a folder that is made for the lock.
MADE = ("lab", "scaling", "doctor")


@pytest.mark.parametrize("command", BUSY)
def test_an_output_has_one_writer(command, places, capsys) -> None:
    """While a process writes an output, a second one is refused with its number."""
    with locked_output(Path("new"), make=command in MADE):
        assert main(BUSY[command].format(model="model", text="texts/a.txt", out="new").split()) == 2
        sentence = the_error(capsys.readouterr().err)
        assert f"new is being written by process {os.getpid()}" in sentence
    assert not Path("new").exists()


REFUSED_EARLY = """
import json, sys
from kullback.cli import main
codes = [main(command.split()) for command in json.loads(sys.argv[1])]
heavy = [name for name in ("torch", "transformers", "scipy", "matplotlib") if name in sys.modules]
print(json.dumps([codes, heavy]))
"""


def test_an_output_is_refused_before_anything_heavy_is_imported(places) -> None:
    """Of each command that writes: a device, and what would be lost."""
    Path("lab").mkdir()
    Path("lab/report.html").write_text("mine")
    commands = [
        command.format(model="model", text="texts/a.txt", out=out)
        for command in (*FILES.values(), *FOLDERS.values())
        for out in ("/dev/null", "secret")
    ]
    commands += ["lab -o lab", "train --source conjugation -o run"]
    done = subprocess.run(
        [sys.executable, "-c", REFUSED_EARLY, json.dumps(commands)],
        capture_output=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(kullback.__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    codes, heavy = json.loads(done.stdout)
    assert codes == [2] * len(commands)
    assert heavy == []


def test_the_table_is_complete() -> None:
    """Every option with a file or folder to write, of every command, is in the table."""

    def options(parser: argparse.ArgumentParser, name: str) -> list[tuple[str, str]]:
        listed = []
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for command, inner in action.choices.items():
                    listed += options(inner, f"{name} {command}".strip())
            elif action.type is output_name:
                listed.append((name, action.option_strings[0]))
        return listed

    in_table = {
        (command.split(" {")[0].split(" conj")[0].split(" --")[0].split(" -o")[0], option)
        for command in (*FILES.values(), *FOLDERS.values())
        for option in ("--report", "--records", "-o")
        if f" {option} " in command
    }
    listed = set(options(make_parser(), ""))
    assert listed <= in_table, listed - in_table
    assert len(listed) >= 8
