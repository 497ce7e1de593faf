"""Rows of records that depend on nothing but their number, and a run that writes them.

``python sample_records.py FILE WINDOWS SECONDS`` writes a file of 40 windows and stops dead after
WINDOWS of them unless that is -1; from one look at the clock to the next SECONDS go by.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from kullback.evaluation.token_records import Records, RecordsMetadata
from kullback.evaluation.token_records_writer import RecordsWriter
from kullback.text.documents import Document
from kullback.text.fingerprint import Fingerprint

METADATA = RecordsMetadata.of(
    "tiny", Fingerprint({"text": "t", "dtype": "float32"}), [Document("a.txt", "one two")]
)
WINDOW = 37


def rows(first: int, last: int) -> Records:
    """Rows whose values depend on nothing but their number."""
    n = np.arange(first, last)
    return Records(
        document=n // 500,
        byte_start=4 * n,
        byte_length=np.full(len(n), 4),
        token_id=n % 97,
        position=n % WINDOW,
        weight=np.ones(len(n)),
        nll=np.abs(np.sin(n)) * 7,
        entropy=np.abs(np.cos(n)) * 7,
        rank=1 + n % 13,
        top1=n % 89,
        top1_probability=np.abs(np.sin(2 * n)),
        sum_of_squares=np.sin(2 * n) ** 2,
    )


def write_windows(path: Path, windows: int = -1) -> None:
    """Write 40 windows after those that are on disk, whose number of rows is printed."""
    with RecordsWriter(path, METADATA, rows_per_group=100) as writer:
        print(writer.done, flush=True)
        for i in range(40):
            if i == windows:
                os.kill(os.getpid(), signal.SIGKILL)
            if (i + 1) * WINDOW > writer.done:
                writer.append(i * WINDOW, rows(i * WINDOW, (i + 1) * WINDOW))


if __name__ == "__main__":
    time.monotonic = itertools.count(0, int(sys.argv[3])).__next__
    write_windows(Path(sys.argv[1]), int(sys.argv[2]))
