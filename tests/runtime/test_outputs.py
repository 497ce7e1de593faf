"""The decision whether a path may be written."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from kullback.errors import InvalidValueError
from kullback.runtime.outputs import Output, OutputKind, check_outputs

REPORT = (
    b'<!DOCTYPE html>\n<head>\n<meta charset="utf-8">\n<meta name="generator" content="kullback">\n'
)


def refused(path: str | Path, *words: str, kind: OutputKind = "report", inputs=(), force=False):
    """Assert that the output is refused with these words, and that nothing is made or removed."""
    with pytest.raises(InvalidValueError) as error:
        check_outputs(Output("--report", path, kind), inputs=inputs, force=force)
    sentence = str(error.value)
    assert "\n" not in sentence
    for word in ("--report", *words):
        assert word in sentence, sentence


def check(path: str | Path, kind: OutputKind = "report", inputs=(), force=False) -> None:
    """Check one output."""
    check_outputs(Output("--report", path, kind), inputs=inputs, force=force)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with the files of a model."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).write_text("{}")
    return folder


def test_new_files_and_none_are_permitted(tmp_path: Path) -> None:
    """A new file, also in folders that are missing; an output that is not asked for is none."""
    check(tmp_path / "new.html")
    check(tmp_path / "a" / "b" / "new.html")
    check_outputs(Output("--report", None, "report"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["report", "records", "recording", "folder", "new folder"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", ["empty"]),
        ("-", ["standard output", "give the name"]),
        ("/dev/stdout", ["/dev/stdout", "choose another"]),
        ("/dev/fd/1", ["no place"]),
        ("/dev/null", ["devices"]),
        ("/dev/new", ["no place"]),
        ("/proc/self/fd/1", ["no place"]),
        ("/sys/x", ["no place"]),
        ("a\0b", ["null"]),
        ("x" * 5000, ["name too long"]),
    ],
)
def test_names_that_are_no_place_for_a_file(name: str, words: list[str], kind: OutputKind) -> None:
    """Streams, devices and names that no file can have are refused by name."""
    refused(name, *words, kind=kind)
    refused(name, *words, kind=kind, force=True)


def make_fifo(path: Path) -> None:
    """Make a FIFO."""
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    """Make a socket."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize(("make", "word"), [(make_fifo, "FIFO"), (make_socket, "socket")])
@pytest.mark.parametrize("kind", ["report", "folder", "new folder"])
def test_fifos_and_sockets_are_refused(
    make: Callable[[Path], None], word: str, kind: OutputKind, tmp_path: Path, monkeypatch
) -> None:
    """Also with force, and also through a link."""
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    make(Path("special"))
    Path("link").symlink_to("special")
    refused("special", word, kind=kind, force=True)
    refused("link", word, kind=kind, force=True)


def test_folders_and_files_are_not_confused(tmp_path: Path) -> None:
    """A folder is no file, a file is no folder, and below a file there is nothing."""
    (tmp_path / "file").write_text("mine")
    refused(tmp_path, "a folder", "name of a file", force=True)
    refused(tmp_path / "file", "a file", "name of a folder", kind="folder")
    refused(tmp_path / "file", "a file", "name of a folder", kind="new folder")
    refused(tmp_path / "file" / "b", "file is not a writable folder")


def test_an_input_is_never_replaced_under_any_name(tmp_path: Path) -> None:
    """The path itself, another spelling, a symbolic link and a hard link are the same file."""
    text = tmp_path / "text.txt"
    text.write_bytes(REPORT)
    (tmp_path / "symbolic").symlink_to(text)
    (tmp_path / "hard").hardlink_to(text)
    for name in ("text.txt", "symbolic", "hard", "../" + tmp_path.name + "/text.txt"):
        refused(tmp_path / name, "overwritten", str(text), inputs=[text], force=True)
        refused(tmp_path / name, "overwritten", inputs=[f"{text}@int8"], force=True)
        refused(tmp_path / name, "overwritten", inputs=[f"{text}@transformers@int8"], force=True)
    check(text)
    check(tmp_path / "other.html", inputs=[text, "gpt2", "conjugation", "-"])


def test_two_outputs_are_two_files(tmp_path: Path) -> None:
    """One path twice is refused with both options, also through a link."""
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for other in ("a", "link"):
        with pytest.raises(InvalidValueError, match="--records and --report are both"):
            check_outputs(
                Output("--records", tmp_path / "a", "records"),
                Output("--report", tmp_path / other, "report"),
            )


def test_nothing_is_written_into_what_is_read(tmp_path: Path, model: Path) -> None:
    """A folder of texts or of a model that is read is closed, at any depth and through links."""
    texts = tmp_path / "texts"
    (texts / "sub").mkdir(parents=True)
    (texts / "a.txt").write_text("text")
    (tmp_path / "link").symlink_to(texts)
    (tmp_path / "hard").hardlink_to(texts / "a.txt")
    for name in ("texts/new", "texts/sub/new", "texts/not/yet/new", "link/new"):
        refused(tmp_path / name, "inside", str(texts), "outside", inputs=[texts], force=True)
    refused(tmp_path / "hard", "overwritten", "a.txt", inputs=[texts], force=True)
    refused(texts / "new", "inside", kind="new folder", inputs=[texts])
    refused(texts, "inside", kind="folder", inputs=[texts])
    refused(model / "new", str(model), inputs=[model])
    refused(model / "new", str(model), inputs=[f"{model}@int8"])
    check(texts / "new")


def test_files_that_a_folder_links_to_are_inputs(tmp_path: Path, model: Path) -> None:
    """Weights, and texts in a folder, that links lead to from what is read; also around a loop."""
    weights = tmp_path / "weights"
    (model / "model.safetensors").rename(weights)
    (model / "model.safetensors").symlink_to("../weights")
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "a.txt").write_text("text")
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "linked").symlink_to(tmp_path / "blobs")
    (texts / "loop").symlink_to(texts)
    (texts / "nowhere").symlink_to("missing")
    (tmp_path / "other").write_bytes(REPORT)
    for path, name in ((weights, "model.safetensors"), (tmp_path / "blobs" / "a.txt", "a.txt")):
        refused(path, "overwritten", name, inputs=[model, texts], force=True)
    refused(weights, "overwritten", inputs=[f"{model}@int8"], force=True)
    check(tmp_path / "other", inputs=[model, texts])


@pytest.mark.parametrize(
    "files",
    [
        ("config.json", "model.safetensors"),
        ("config.json", "pytorch_model.bin"),
        ("config.json", "model.gguf"),
        ("training.json", "tokenizer.json"),
        ("../models--a--b/snapshots/1/x",),
    ],
)
def test_the_folder_of_any_model_is_closed(files: tuple[str, ...], tmp_path: Path) -> None:
    """A run, a model and the hub's cache, whether they are read or not; beside them is open."""
    folder = tmp_path / ("models--a--b" if ".." in files[0] else "model")
    folder.mkdir()
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    for name in ("model.safetensors", "report.html", "sub/report.html"):
        refused(folder / name, "folder of a model", str(folder), force=True)
    check(tmp_path / "report.html")


def test_a_folder_with_only_a_configuration_is_open(tmp_path: Path) -> None:
    """Other programs have a config.json, too; a recording is a file of safetensors."""
    (tmp_path / "config.json").touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.safetensors").touch()
    check(tmp_path / "report.html")
    check(tmp_path / "sub" / "report.html")


def test_a_file_is_replaced_only_by_its_kind(tmp_path: Path) -> None:
    """A report replaces a report and an empty file; anything else needs force."""
    path = tmp_path / "file"
    path.touch()
    check(path)
    path.write_bytes(REPORT)
    check(path)
    refused(path, "not a recording", "--force", "force=True", kind="recording")
    check(path, kind="recording", force=True)
    path.write_text("my thesis")
    refused(path, "not an HTML report", "lost", "--force")
    check(path, force=True)


def test_a_new_folder_is_new_or_empty(tmp_path: Path) -> None:
    """What a killed run left does not count; force does not help."""
    folder = tmp_path / "out"
    check(folder, kind="new folder")
    folder.mkdir()
    for name in (".out.lock", ".out.lock.pid", ".out.0a1b2c3d.part"):
        (folder / name).touch()
    check(folder, kind="new folder")
    (folder / ".hidden").touch()
    refused(folder, "contains .hidden", "new or empty", kind="new folder", force=True)
    check(folder, kind="folder")


def test_names_leave_room_for_the_temporary_file(tmp_path: Path) -> None:
    """The longest name is the system's less what the temporary file needs, in bytes."""
    longest = os.pathconf(tmp_path, "PC_NAME_MAX") - 15
    check(tmp_path / ("x" * longest))
    refused(tmp_path / ("x" * (longest + 1)), f"{longest + 1} bytes", "shorter")
    refused(tmp_path / ("é" * (longest // 2 + 1)), "bytes", "shorter")
    refused(tmp_path / ("d" * (longest + 1)) / "x.html", "shorter")
    refused(tmp_path / ("x" * 300), "name too long")


def test_what_is_read_only_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only file is protected although its folder could be written, and a folder, too."""
    path = tmp_path / "report.html"
    path.write_bytes(REPORT)
    # Tests may run as root, who may write everything.
    monkeypatch.setattr(os, "access", lambda name, mode: Path(name) != path)
    refused(path, "read-only", force=True)
    monkeypatch.setattr(os, "access", lambda name, mode: Path(name) != tmp_path)
    refused(tmp_path / "new", "not a writable folder")


def test_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    """A link that leads to itself is one sentence."""
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused(tmp_path / "loop", "symbolic links")
