"""Checks of files that users name for reading."""

from __future__ import annotations

import os
import socket

import pytest

from kullback.errors import InvalidValueError
from kullback.runtime.inputs import check_regular


def test_a_named_pipe_is_refused_without_waiting(tmp_path):
    """Opening it would wait for a writer for ever."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidValueError, match=r"the text .*pipe is a named pipe"):
        check_regular(tmp_path / "pipe", "the text")


def test_a_socket_is_refused(tmp_path, monkeypatch):
    """It is not read."""
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(InvalidValueError, match="socket"):
            check_regular(tmp_path / "socket", "the model")


def test_files_folders_and_missing_ones_pass(tmp_path):
    """What else is wrong with them, the caller says."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    for path in (tmp_path, tmp_path / "file", tmp_path / "link", tmp_path / "nothing"):
        check_regular(path, "the text")
