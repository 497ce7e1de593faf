"""Rows of an interrupted pass: kept beside the records, or in the state folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from kullback.errors import RunError
from kullback.evaluation.record_columns import RecordColumns
from kullback.evaluation.token_records import RecordsMetadata
from kullback.evaluation.token_records_writer import RecordsWriter
from kullback.runtime.columns import PART_ROWS
from kullback.runtime.interrupted import STOPS, interrupted_path, is_anything_kept, is_safe

__all__ = ["kept_rows"]


@contextmanager
def kept_rows(
    path: Path | None, metadata: RecordsMetadata, records: RecordColumns, size: Callable[[], str]
) -> Iterator[RecordsWriter | None]:
    """The writer of the rows, with those that are there already; None where none is needed.

    With `path` it writes that file.  Without, there is a writer only where an earlier run of the
    same fingerprint was interrupted; where this one is, or its device fails, `records` are kept for
    the next.  `size` says how many rows all are, for the note on that.
    """
    try:
        if path is not None:
            with RecordsWriter(path, metadata) as writer:
                yield writer
            return
        # The fingerprint of the weights may still be computed: it is asked for where it matters.
        kept = interrupted_path(metadata.fingerprint.full) if is_anything_kept() else None
        with _earlier(kept, metadata) as earlier:
            yield earlier
    except STOPS as interruption:
        place = "" if path is None else f" beside {path}"
        if len(records) and (path is not None or _keep(metadata, records)):
            interruption.add_note(f"{len(records):,} of {size()} tokens are kept{place}")
        raise


@contextmanager
def _earlier(kept: Path | None, metadata: RecordsMetadata) -> Iterator[RecordsWriter | None]:
    """The writer that resumes what is kept, if anything is, and removes it at the end."""
    if kept is None:
        yield None
        return
    writer = RecordsWriter(kept, metadata, assembled=False)
    if not writer.folder.is_dir() or not is_safe(kept.parent):
        yield None
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(writer)
        except RunError:  # another process resumes it
            yield None
            return
        yield writer


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
            for first in range(writer.done, len(records), PART_ROWS):
                writer.append(first, records.part(slice(first, first + PART_ROWS)))
            raise KeyboardInterrupt  # the rows are kept, not removed
    except KeyboardInterrupt:
        return True
    except RunError:
        return False
