"""Rows of records that depend on nothing but their number, and a run that writes them."""

from __future__ import annotations

import itertools
import os
import signal
import time
from pathlib import Path

import numpy as np

from kullback.evaluation.token_records import Records, RecordsMetadata
from kullback.evaluation.token_records_writer import RecordsWriter
from kullback.text.documents import Document
from kullback.text.fingerprint import Fingerprint

METADATA = RecordsMetadata.of(
    "tiny",
    Fingerprint({"text": "t", "dtype": "float32"}),
    [Document(f"{name}.txt", "one two") for name in range(200)],
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


def write_windows(path: Path, windows: int = -1) -> int:
    """Write 40 windows after those that are on disk, whose number of rows is returned.

    Die by SIGKILL before window number `windows`, unless that is -1.
    """
    with RecordsWriter(path, METADATA, rows_per_group=100) as writer:
        done = writer.done
        for i in range(40):
            if i == windows:
                os.kill(os.getpid(), signal.SIGKILL)
            if (i + 1) * WINDOW > writer.done:
                writer.append(i * WINDOW, rows(i * WINDOW, (i + 1) * WINDOW))
    return done


def write_windows_slowly(path: Path, windows: int, seconds: int) -> None:
    """The same where `seconds` go by from one look at the clock to the next."""
    time.monotonic = itertools.count(0, seconds).__next__
    write_windows(path, windows)
