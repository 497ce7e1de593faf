"""Tokens of a text on disk: what of a mapped file stays in memory."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from kullback.training.text_shards import MappedTokens

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def resident_file_pages() -> float:
    """Return the pages of files in the memory of this process, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kinds = ("RssFile", "RssShmem")  # a temporary folder may be in memory
    return sum(int(line.split()[1]) for line in lines if line.startswith(kinds)) / 1000


def test_windows_read_at_random_leave_little_of_the_file_in_memory(tmp_path: Path) -> None:
    """Of a file of 200 MB, after 3,000 windows of 65 tokens, at most 40 MB are mapped at a time.

    Linux maps 16 pages around each place that is read, 190 MB for so many.
    """
    path, size = tmp_path / "train.bin", 100_000_000
    path.write_bytes(bytes(2 * size))
    tokens = MappedTokens.open(path, "uint16", size)
    before, most = resident_file_pages(), 0.0
    rng = np.random.default_rng(0)
    for _ in range(60):
        places = rng.integers(0, size - 65, 50)[:, None] + np.arange(65)
        assert not tokens[places].any()
        most = max(most, resident_file_pages() - before)
    assert most < 40
