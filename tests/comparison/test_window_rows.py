"""Rows of windows in memory and in temporary files."""

from __future__ import annotations

import subprocess
import sys

import torch

from kullback.comparison.window_rows import WindowRows


def test_a_disk_without_room_for_the_hidden_states_is_one_sentence() -> None:
    """The space is reserved before anything is computed: writing never ends the process."""
    code = (
        "import resource, torch\n"
        "from kullback.comparison import window_rows\n"
        "from kullback.errors import RunError\n"
        "window_rows.IN_MEMORY = 0\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "window_rows._buffer((10, 10), torch.float32).fill_(1)\n"
        "try:\n    window_rows._buffer((1000, 10), torch.float32).fill_(1)\n"
        "except RunError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert "40,000 bytes" in done.stdout
    assert "TMPDIR" in done.stdout


def test_more_windows_than_expected_get_space() -> None:
    """What was written stays, whether the windows are read one by one or together."""
    rows = WindowRows(3, 2, torch.float32)
    for number, size in enumerate((2, 2, 4)):
        rows.space([number], [size]).fill_(number)
    assert rows.read([2, 0, 1])[:, 0].tolist() == [2, 2, 2, 2, 0, 0, 1, 1]
    assert rows.read([1]).tolist() == [[1, 1]] * 2
    assert rows.size_bytes == 4 * 2 * (3 + 2 + 4)


def test_neighbours_are_read_without_a_copy() -> None:
    """Windows that were written together share the memory of what is read."""
    rows = WindowRows(5, 1, torch.float32)
    rows.space([4, 6], [2, 1]).fill_(1)
    rows.read([4, 6]).fill_(3)
    assert rows.read([6]).item() == 3
