"""Rows of an interrupted or killed pass: kept beside the records, or in the state folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

from kullback.errors import RunError
from kullback.evaluation.record_columns import RecordColumns
from kullback.evaluation.text_ahead import TextAhead
from kullback.evaluation.token_records import Records, RecordsMetadata
from kullback.evaluation.token_records_writer import RecordsWriter, groups_folder
from kullback.runtime.background import in_background
from kullback.runtime.columns import PART_ROWS
from kullback.runtime.interrupted import STOPS, interrupted_path, is_anything_kept, is_safe
from kullback.runtime.interruption import to_keep

__all__ = ["StateWriter", "kept_rows"]

SECONDS_WORTH_KEEPING = 2.0


@contextmanager
def kept_rows(
    path: Path | None, metadata: RecordsMetadata, records: RecordColumns, text: TextAhead
) -> Iterator[RecordsWriter | StateWriter]:
    """The writer of the rows of `text`, with those that are there already.

    With `path` it writes that file.  Without, it writes to the state folder until the pass is done;
    where this one is interrupted, or its device fails, `records` are kept for the next, and a note
    on the exception says so.
    """
    writer = StateWriter(metadata, records) if path is None else RecordsWriter(path, metadata)
    try:
        with to_keep(), writer:
            yield writer
    except STOPS as interruption:
        kept, place = writer.kept, "" if path is None else f" beside {path}"
        if path is None and kept < len(records) and _keep(metadata, records):
            kept = len(records)
        if kept:
            # Of a resumed pass nothing may be known of the text yet.
            of_all = f" of {text.size}" if text.is_begun else ""
            interruption.add_note(f"{kept:,}{of_all} tokens are kept{place}")
        raise


class StateWriter:
    """Writes rows to the state folder, and resumes those that are there; removed in the end.

    Begun by itself where there are none, when a pass has taken a while and it is known where: the
    fingerprint of the weights may still be computed.  A full disk does not end the pass.
    """

    assembled = False

    def __init__(self, metadata: RecordsMetadata, records: RecordColumns) -> None:
        self._metadata, self._records = metadata, records
        self._writer: RecordsWriter | None = None
        self._known: list[Path | None] = []
        self._fails = False
        self._began = time.monotonic()
        self._open = ExitStack()

    def __enter__(self) -> StateWriter:
        if is_anything_kept():
            path = interrupted_path(self._metadata.fingerprint.full)
            if path is not None and groups_folder(path).is_dir():
                self._begin(path)
        if self._writer is None:
            in_background(
                lambda: self._known.append(interrupted_path(self._metadata.fingerprint.full))
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.__exit__(kind, error, trace)

    @property
    def done(self) -> int:
        """Rows on disk when the writing began."""
        return 0 if self._writer is None else self._writer.done

    @property
    def kept(self) -> int:
        """Rows that are on disk now."""
        return 0 if self._writer is None else self._writer.kept

    def earlier(self, rows: int) -> Iterator[Records]:
        """The first `rows` of the rows that were done, in parts."""
        return iter(()) if self._writer is None else self._writer.earlier(rows)

    def append(self, first_row: int, rows: Records) -> None:
        """Add rows, which are the last of the records."""
        if self._fails:
            return
        with self._no_more():
            if self._writer is not None:
                self._writer.append(first_row, rows)
            elif self._known and time.monotonic() - self._began >= SECONDS_WORTH_KEEPING:
                self._begin(self._known[0])
                if self._writer is not None:
                    _fill(self._writer, self._records)

    @contextmanager
    def _no_more(self) -> Iterator[None]:
        """Keep no more rows than before where the disk is full, or another process has them."""
        try:
            yield
        except RunError:
            self._fails = True

    def _begin(self, path: Path | None) -> None:
        self._fails = True
        if path is None or not is_safe(path.parent):
            return
        with self._no_more():
            writer = RecordsWriter(path, self._metadata, assembled=False)
            self._writer, self._fails = self._open.enter_context(writer), False


def _fill(writer: RecordsWriter, records: RecordColumns) -> None:
    """Append the rows that the writer does not have."""
    for first in range(writer.done, len(records), PART_ROWS):
        writer.append(first, records.part(slice(first, first + PART_ROWS)))


def _keep(metadata: RecordsMetadata, records: RecordColumns) -> bool:
    """Write rows that no writer has; False where that fails."""
    try:
        kept = interrupted_path(metadata.fingerprint.full)
    except RuntimeError:  # the weights are on a device that failed
        return False
    if kept is None or not is_safe(kept.parent):
        return False
    try:
        with RecordsWriter(kept, metadata, assembled=False) as writer:
            _fill(writer, records)
            raise KeyboardInterrupt  # the rows are kept, not removed
    except KeyboardInterrupt:
        return writer.kept == len(records)
    except RunError:
        return False
