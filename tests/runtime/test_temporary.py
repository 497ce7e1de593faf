"""Bytes in memory and, above a limit, in a file without a name."""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path

import pytest

from kullback.errors import RunError
from kullback.runtime.temporary import TemporaryBytes, shares_files, temporary_folder


def test_nothing_is_left_in_the_folder(tmp_path, monkeypatch):
    """The file has no name, so that a killed process leaves none."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    stored = TemporaryBytes(limit=10)
    for part in (b"0123", b"45678", b"9" * 100):
        stored.append(part)
    assert stored.is_on_disk
    assert stored.read(2, 6) == b"2345"
    assert stored.read(100, 1000) == b"9" * 9
    assert list(tmp_path.iterdir()) == []


def test_the_folder_is_on_a_disk(monkeypatch):
    """/var/tmp rather than /tmp, which may be in memory, unless TMPDIR says so."""
    monkeypatch.delenv("TMPDIR", raising=False)
    if os.access("/var/tmp", os.W_OK):
        assert temporary_folder() == Path("/var/tmp")


def test_a_full_disk_is_one_sentence(monkeypatch):
    """With the folder, and what to set."""

    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(RunError, match=r"No space left on device.*TMPDIR"):
        TemporaryBytes(10).append(b"x" * 50)


def test_what_is_in_memory_is_read_after_the_disk_was_full(monkeypatch):
    """Another thread may still read it; no descriptor stays open."""
    stored = TemporaryBytes(10)
    stored.append(b"0123456789")
    open_before = os.dup(0)
    os.close(open_before)

    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    for _ in range(2):
        with pytest.raises(RunError, match="No space left on device"):
            stored.append(b"x")
    assert stored.read(2, 20) == b"23456789"
    assert not stored.is_on_disk
    open_after = os.dup(0)
    os.close(open_after)
    assert open_after == open_before


@pytest.mark.skipif(not shares_files(), reason="no /proc")
def test_a_file_is_opened_by_another():
    """In memory or not, and empty; another file under the same descriptor is refused."""
    for content in (b"", b"0123", b"9" * 100):
        stored = TemporaryBytes(limit=10)
        stored.append(content)
        shared = stored.shared()
        other = TemporaryBytes.opened(shared)
        assert other.read(0, 1000) == content == stored.read(0, 1000)
        assert len(other) == len(content)
        with pytest.raises(RunError, match="another file"):
            TemporaryBytes.opened(shared._replace(inode=shared.inode + 1))
        with pytest.raises(RunError, match="cannot be opened"):
            TemporaryBytes.opened(shared._replace(path="/proc/self/fd/99999"))


def test_no_folder_at_all_is_one_sentence(monkeypatch):
    """With the remedy."""
    monkeypatch.setenv("TMPDIR", "/nowhere")
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere"])
    with pytest.raises(RunError, match=r"temporary files .* set TMPDIR"):
        temporary_folder()


def test_a_thread_reads_what_another_appends_to() -> None:
    """In memory and across the limit: what is read is what was there."""
    stored, block = TemporaryBytes(limit=40_000), bytes(range(100))
    wrong: list[int] = []

    def read() -> None:
        while (size := len(stored)) < 80_000:
            size -= size % 100
            if stored.read(0, size) != block * (size // 100):
                wrong.append(size)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(800):
        stored.append(block)
    reader.join()
    assert not wrong
