"""Recordings of distributions that are interrupted, killed, or run out of space, and resumed."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

import kullback
from kullback.errors import RunError
from kullback.evaluation.record import record_text
from kullback.models.interface import TextModel
from kullback.models.load import load_text_model
from kullback.predictions import kept_columns
from kullback.predictions.recording import Kind
from kullback.results.evaluation import NonZeroRank
from kullback.runtime.progress import Progress
from kullback.runtime.workers import ProcessGroup
from kullback.text.documents import Document
from kullback.text.protocol import Protocol
from tiny_models import TEXT

FOLDER = ".r.rec.rows"
WINDOWS = 13
TOKENS = len(TEXT.encode()) - 1


class Stopping(Progress):
    """Stops after some windows, and counts them."""

    def __init__(self, windows: int = 1_000, error: BaseException | None = None) -> None:
        self.windows, self.left = 0, windows
        self.error = error or KeyboardInterrupt()

    def tokens(self, done: int, total: int) -> None:
        """A window is done."""
        self.windows += 1
        self.left -= 1
        if self.left == 0:
            raise self.error


def record(
    model: TextModel,
    folder: Path,
    kind: Kind,
    progress: Progress | None = None,
    window: int = 64,
    k: int = 5,
) -> bytes:
    """The recording of the text in windows of 64 tokens, half of which are scored."""
    path = folder / "r.rec"
    protocol = Protocol("sliding", window)
    tokens = record_text(model, [Document("text", TEXT)], protocol, path, kind, k, progress)
    assert len(tokens) == TOKENS
    assert [file.name for file in folder.iterdir()] == ["r.rec"]
    return path.read_bytes()


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A folder for a recording that nothing interrupts."""
    folder = tmp_path / "whole"
    folder.mkdir()
    return folder


@pytest.fixture
def part(tmp_path: Path) -> Path:
    """A folder for one that is interrupted."""
    folder = tmp_path / "part"
    folder.mkdir()
    return folder


def interrupted(
    model: TextModel, folder: Path, kind: Kind, windows: int, **options: object
) -> list[str]:
    """What an interruption after some windows says."""
    with pytest.raises(KeyboardInterrupt) as interruption:
        record(model, folder, kind, Stopping(windows), **options)
    assert [file.name for file in folder.iterdir()] == [FOLDER]
    return getattr(interruption.value, "__notes__", [])


@pytest.mark.parametrize("kind", ["exact", "top-k"])
def test_an_interrupted_recording_resumes(kind, tiny_llama, whole, part):
    """It reads only the windows that are left, and the file is the same to the last bit."""
    expected = record(tiny_llama, whole, kind)
    for _ in range(2):
        said = interrupted(tiny_llama, part, kind, 5)
    assert said == [f"352 of {TOKENS} tokens are kept beside {part}/r.rec"]
    rest = Stopping()
    assert record(tiny_llama, part, kind, rest) == expected
    assert rest.windows == WINDOWS - 10


def test_the_last_window_is_kept_too(tiny_llama, whole, part):
    """Where all was recorded, but not yet the head, no row is written twice."""
    expected = record(tiny_llama, whole, "exact")
    interrupted(tiny_llama, part, "exact", WINDOWS)
    rest = Stopping()
    assert record(tiny_llama, part, "exact", rest) == expected
    assert rest.windows == 0


@pytest.mark.parametrize(
    ("kind", "options"),
    [("exact", {"window": 32}), ("top-k", {"k": 3})],
)
def test_what_differs_starts_afresh(kind, options, tiny_llama, whole, part):
    """Another protocol or k: the rows are those of another recording."""
    expected = record(tiny_llama, whole, kind, **options)
    interrupted(tiny_llama, part, kind, 5)
    assert record(tiny_llama, part, kind, **options) == expected


def test_another_model_starts_afresh(tiny_llama, other_tiny_llama_folder, whole, part):
    """The weights are part of what the rows are of."""
    other = load_text_model(str(other_tiny_llama_folder))
    expected = record(other, whole, "exact")
    interrupted(tiny_llama, part, "exact", 5)
    assert record(other, part, "exact") == expected


@pytest.mark.parametrize("damage", ["bit", "shorter", "state", "missing", "longer"])
def test_damaged_rows_are_not_taken_over(damage, tiny_llama, whole, part):
    """A bit, an end and a state that are lost: it starts afresh; what is too much is cut off."""
    expected = record(tiny_llama, whole, "exact")
    interrupted(tiny_llama, part, "exact", 5)
    first, second, state = (part / FOLDER / name for name in ("0.column", "1.column", "state.json"))
    content = bytearray(first.read_bytes())
    if damage == "bit":
        content[-5] ^= 4
        first.write_bytes(content)
    elif damage == "shorter":
        second.write_bytes(second.read_bytes()[:-1])
    elif damage == "state":
        state.write_text(state.read_text()[:-2])
    elif damage == "missing":
        second.unlink()
    else:
        first.write_bytes(content + b"more")
    counted = Stopping()
    assert record(tiny_llama, part, "exact", counted) == expected
    assert (counted.windows == WINDOWS - 5) == (damage == "longer")


def test_a_killed_recording_loses_what_was_not_yet_saved(tiny_llama, whole, part, monkeypatch):
    """Rows are saved now and then; what came after is cut off and computed again."""
    expected = record(tiny_llama, whole, "exact")
    monkeypatch.setattr(kept_columns, "SECONDS_PER_SAVE", 0.0)
    monkeypatch.setattr(kept_columns.KeptColumns, "close", lambda self, keep: None)
    with pytest.raises(KeyboardInterrupt):
        record(tiny_llama, part, "exact", Stopping(5))
    monkeypatch.undo()
    with (part / FOLDER / "0.column").open("ab") as file:
        file.write(b"half a row")
    rest = Stopping()
    assert record(tiny_llama, part, "exact", rest) == expected
    assert rest.windows == WINDOWS - 5


def test_a_full_disk_says_what_is_kept(tiny_llama, whole, part):
    """One sentence that names the file and the tokens, and the next run resumes."""
    expected = record(tiny_llama, whole, "exact")
    full = Stopping(5, RunError(f"{part}/r.rec cannot be written: no space"))
    with pytest.raises(RunError, match=r"no space") as error:
        record(tiny_llama, part, "exact", full)
    assert error.value.__notes__ == [f"192 of 431 tokens are kept beside {part}/r.rec"]
    assert record(tiny_llama, part, "exact") == expected


def test_a_folder_of_others_is_refused(tiny_llama, part):
    """Where others could write to the rows, and where a link is at their place."""
    (part / FOLDER).mkdir()
    (part / FOLDER).chmod(0o777)
    with pytest.raises(RunError, match=r"\.r\.rec\.rows"):
        record(tiny_llama, part, "exact")
    (part / FOLDER).rmdir()
    (part / "other").mkdir()
    (part / "other/kept").write_text("kept")
    (part / FOLDER).symlink_to(part / "other")
    with pytest.raises(RunError, match=r"\.r\.rec\.rows"):
        record(tiny_llama, part, "exact")
    assert (part / "other/kept").read_text() == "kept"


def test_the_mode_of_an_earlier_file_is_kept(tiny_llama, part):
    """0600 stays 0600; a new file gets that of the umask."""
    record(tiny_llama, part, "top-k")
    other = part / "other"
    other.touch()
    assert (part / "r.rec").stat().st_mode == other.stat().st_mode
    other.unlink()
    (part / "r.rec").chmod(0o600)
    record(tiny_llama, part, "top-k")
    assert (part / "r.rec").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kind", [{"distributions": "exact"}, {"format": "llama.cpp"}])
def test_a_process_that_would_not_use_a_model_does_not_load_it(
    kind: dict[str, Any], text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under torchrun rank 0 alone records distributions: the others return at once."""
    group = nullcontext(ProcessGroup(1, 2, 2))
    monkeypatch.setattr("kullback.evaluation.record.process_group", lambda: group)
    result = kullback.record("no model", text_file, tmp_path / "r.rec", **kind)
    assert isinstance(result, NonZeroRank)
