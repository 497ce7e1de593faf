"""Input files are regular files."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from kullback.errors import InvalidValueError
from kullback.runtime.inputs import check_regular, open_regular, read_text


@pytest.fixture
def odd(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Something that is no regular file."""
    path = tmp_path / "odd"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "socket":
        monkeypatch.chdir(tmp_path)  # the path of a socket is short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("odd")
    elif request.param == "device":
        path = Path("/dev/zero")
    elif request.param == "link to a device":
        path.symlink_to("/dev/zero")
    elif request.param == "folder":
        path.mkdir()
    return path


SPECIAL = [
    ("pipe", "a named pipe"), ("socket", "a socket"), ("device", "a device"),
    ("link to a device", "a device"),
]  # fmt: skip


@pytest.mark.parametrize(("odd", "words"), SPECIAL, indirect=["odd"])
def test_special_files_are_refused_without_waiting(odd: Path, words: str) -> None:
    """Opening a pipe would wait for a writer for ever; the error says what it is."""
    with pytest.raises(InvalidValueError, match=rf"the text .* is {words}"):
        check_regular(odd, "the text")


@pytest.mark.parametrize(
    ("odd", "words"),
    [*SPECIAL, ("folder", "a folder"), ("nothing", "No such file")],
    indirect=["odd"],
)
def test_only_regular_files_are_opened(odd: Path, words: str) -> None:
    """All else is an error of the system, with the reason that a sentence needs."""
    with pytest.raises(OSError, match=words) as error:
        open_regular(odd)
    assert error.value.strerror


def test_a_name_with_nul_is_an_error_of_the_system() -> None:
    """Such a name comes from a file that somebody else wrote."""
    with pytest.raises(OSError, match="NUL"):
        open_regular(Path("a\0b"))


def test_files_folders_and_missing_ones_pass(tmp_path: Path) -> None:
    """What else is wrong with them, the caller says; of these names only a pipe is refused."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    refused = []
    for name in ("", "file", "link", "nothing", "pipe"):
        try:
            check_regular(tmp_path / name, "the text")
        except InvalidValueError:
            refused.append(name)
    assert refused == ["pipe"]


def test_files_and_links_to_them_are_read(tmp_path: Path) -> None:
    """A link is followed unless that is forbidden; line ends stay."""
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes("é\r\n".encode())
    link.symlink_to(path)
    assert read_text(path) == read_text(link) == "é\r\n"
    with open_regular(path, follow=False) as file:
        assert file.read() == "é\r\n".encode()
    with pytest.raises(OSError, match="link"):
        open_regular(link, follow=False)
