"""The records of an evaluation on disk."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import resource
import signal
import time
from pathlib import Path

import duckdb
import numpy as np
import pandas  # type: ignore[import-untyped] # it comes without types
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sample_records import METADATA, WINDOW, rows, write_windows, write_windows_slowly

from kullback.errors import InvalidValueError, RunError
from kullback.evaluation import token_records_writer
from kullback.evaluation.token_records import is_records, read_records
from kullback.evaluation.token_records_writer import RecordsWriter, remove_begun
from kullback.runtime.locks import locked
from kullback.text.fingerprint import Fingerprint


def write(path: Path, n: int = 1000, rows_per_group: int = 100) -> None:
    """Records of n rows."""
    with RecordsWriter(path, METADATA, rows_per_group) as writer:
        writer.append(0, rows(0, n))


def earlier_nll(writer: RecordsWriter, count: int | None = None) -> np.ndarray:
    """The nll of the rows that were done, or of the first `count` of them."""
    count = writer.done if count is None else count
    return np.concatenate([part.nll for part in writer.earlier(count)])


def interrupt(path: Path) -> None:
    """Records of 250 rows, 200 of them in whole groups, that are left before the end."""
    writer = RecordsWriter(path, METADATA, 100)
    with contextlib.suppress(KeyboardInterrupt), writer:
        writer.append(0, rows(0, 250))
        raise KeyboardInterrupt
    assert not path.exists()


def kill(path: Path, windows: int, seconds: int = 0) -> None:
    """Write `windows` windows in a process of its own, which is then killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sample_records"])
    process = context.Process(target=write_windows_slowly, args=(path, windows, seconds))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not path.exists()


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    """Rows and metadata come back as they were, to the precision of their columns."""
    write(tmp_path / "r.parquet")
    metadata, found = read_records(tmp_path / "r.parquet")
    assert metadata == METADATA
    assert metadata.documents[0].n_bytes == 7
    for name, values in rows(0, 1000).columns().items():
        np.testing.assert_allclose(found.columns()[name], values, rtol=1e-7)
    np.testing.assert_array_equal(found.nll, rows(0, 1000).nll)


def test_a_killed_run_resumes_and_ends_byte_identical(tmp_path: Path) -> None:
    """A run killed twice, at different windows, leaves the file of an uninterrupted one."""
    whole, broken = tmp_path / "whole" / "r.parquet", tmp_path / "broken" / "r.parquet"
    write_windows(whole)
    for windows in (9, 23):
        kill(broken, windows)
    assert write_windows(broken) == 800
    assert broken.read_bytes() == whole.read_bytes()
    assert [file.name for file in broken.parent.iterdir()] == ["r.parquet"]


def test_a_killed_run_resumes_in_the_middle_of_a_group(tmp_path: Path) -> None:
    """Where a group takes long, a killed run keeps its first windows; the file is the same."""
    whole, broken = tmp_path / "whole" / "r.parquet", tmp_path / "broken" / "r.parquet"
    write_windows(whole)
    for windows in (2, 9, 23, 39):
        kill(broken, windows, seconds=60)
    assert write_windows(broken) == 39 * WINDOW
    assert broken.read_bytes() == whole.read_bytes()
    assert [file.name for file in broken.parent.iterdir()] == ["r.parquet"]


def test_a_slow_run_loses_at_most_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 80 tokens a second, 20,000 tokens are on disk but for those of the last minute."""
    path, seconds = tmp_path / "r.parquet", 0.0
    monkeypatch.setattr(time, "monotonic", lambda: seconds)
    killed = RecordsWriter(path, METADATA)
    killed.__enter__()
    for first in range(0, 20_000, 500):
        seconds += 500 / 80
        killed.append(first, rows(first, first + 500))
    killed._open.close()  # as the system does when a process is killed
    with RecordsWriter(path, METADATA) as writer:
        assert 20_000 - 60 * 80 <= writer.done <= 20_000
        np.testing.assert_array_equal(earlier_nll(writer), rows(0, writer.done).nll)
        writer.append(0, rows(0, 70_000))
        np.testing.assert_array_equal(earlier_nll(writer), rows(0, writer.done).nll)
    np.testing.assert_array_equal(read_records(path)[1].nll, rows(0, 70_000).nll)


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_a_damaged_beginning_of_a_group_is_ignored(tmp_path: Path, keep: int) -> None:
    """Where the group that had begun is empty or cut short, a run goes on after the whole ones."""
    path = tmp_path / "r.parquet"
    kill(path, 9, seconds=60)
    (begun,) = (tmp_path / ".r.parquet.groups").glob("*.begun")
    begun.write_bytes(begun.read_bytes()[:keep])
    with RecordsWriter(path, METADATA, 100) as writer:
        assert writer.done == 300
        writer.append(0, rows(0, 400))
    write(tmp_path / "whole.parquet", 400)
    assert path.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_how_rows_come_in_does_not_show(tmp_path: Path) -> None:
    """Rows appended one window at a time or all at once make the same bytes."""
    write(tmp_path / "at-once.parquet", 370)
    with RecordsWriter(tmp_path / "windows.parquet", METADATA, 100) as writer:
        for i in range(10):
            writer.append(i * WINDOW, rows(i * WINDOW, (i + 1) * WINDOW))
    once, windows = (tmp_path / f"{name}.parquet" for name in ("at-once", "windows"))
    assert once.read_bytes() == windows.read_bytes()


def test_the_earlier_rows_are_at_hand(tmp_path: Path) -> None:
    """A run that goes on can read the rows that the interrupted one left."""
    path = tmp_path / "r.parquet"
    interrupt(path)
    with RecordsWriter(path, METADATA, 100) as writer:
        assert writer.done == 250
        np.testing.assert_array_equal(earlier_nll(writer), rows(0, 250).nll)
        np.testing.assert_array_equal(earlier_nll(writer, 185), rows(0, 185).nll)
        writer.append(185, rows(185, 400))
    np.testing.assert_array_equal(read_records(path)[1].byte_start, rows(0, 400).byte_start)


def test_another_fingerprint_is_refused_by_name(tmp_path: Path) -> None:
    """An interrupted run's rows are not mixed with another's, and the message says what differs."""
    path = tmp_path / "r.parquet"
    interrupt(path)
    other = dataclasses.replace(
        METADATA, fingerprint=Fingerprint({"text": "t", "dtype": "bfloat16"})
    )
    with pytest.raises(RunError, match=r"interrupted run with fingerprint \w{16}.*differs: dtype"):
        RecordsWriter(path, other, 100).__enter__()
    with pytest.raises(RunError, match="groups of 100 rows, not 50"):
        RecordsWriter(path, METADATA, 50).__enter__()


def test_a_run_with_other_names_resumes(tmp_path: Path) -> None:
    """Rows of the same fingerprint are of the same text and model, which may have been renamed."""
    path = tmp_path / "r.parquet"
    interrupt(path)
    documents = tuple(
        dataclasses.replace(document, name=f"moved/{document.name}")
        for document in METADATA.documents
    )
    renamed = dataclasses.replace(METADATA, model="moved/tiny", documents=documents)
    with RecordsWriter(path, renamed, 100) as writer:
        assert writer.done == 250
        writer.append(250, rows(250, 320))
    with RecordsWriter(tmp_path / "whole.parquet", renamed, 100) as writer:
        writer.append(0, rows(0, 320))
    assert path.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_a_full_disk_keeps_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`kept` are the rows on the disk, not those that could not be written."""
    path = tmp_path / "r.parquet"
    write_atomically = token_records_writer.write_atomically

    def full(file: Path, content: bytes) -> None:
        if file.name == "000001.parquet":
            raise RunError("the disk is full")
        write_atomically(file, content)

    monkeypatch.setattr(token_records_writer, "write_atomically", full)
    writer = RecordsWriter(path, METADATA, 100)
    with contextlib.suppress(RunError), writer:
        writer.append(0, rows(0, 150))
        assert writer.kept == 100
        writer.append(150, rows(150, 250))
    assert not path.exists()
    with RecordsWriter(path, METADATA, 100) as again:
        assert again.done == again.kept == writer.kept


@pytest.mark.parametrize("error", [KeyboardInterrupt, RunError])
def test_a_run_that_fails_early_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    """An error or Ctrl-C before the first row leaves no folder, and the earlier file."""
    path = tmp_path / "r.parquet"
    write(path, 10)
    with contextlib.suppress(error), RecordsWriter(path, METADATA, 100):
        raise error
    assert [file.name for file in tmp_path.iterdir()] == ["r.parquet"]
    assert len(read_records(path)[1]) == 10


def test_rows_that_are_kept_are_for_their_owner(tmp_path: Path) -> None:
    """No other user can read them before they are in the file, whose mode stays."""
    path = tmp_path / "r.parquet"
    path.touch(0o600)
    with contextlib.suppress(KeyboardInterrupt), RecordsWriter(path, METADATA, 100) as writer:
        writer.append(0, rows(0, 150))
        raise KeyboardInterrupt
    assert (tmp_path / ".r.parquet.groups").stat().st_mode & 0o777 == 0o700
    write(path, 150)
    assert path.stat().st_mode & 0o777 == 0o600


def test_ctrl_c_loses_no_row(tmp_path: Path) -> None:
    """Rows that wait for their group are written when the run is interrupted."""
    path = tmp_path / "r.parquet"
    with contextlib.suppress(KeyboardInterrupt), RecordsWriter(path, METADATA, 100) as writer:
        writer.append(0, rows(0, 50))
        raise KeyboardInterrupt
    with RecordsWriter(path, METADATA, 100) as writer:
        assert writer.done == 50
        writer.append(50, rows(50, 120))
    write(tmp_path / "whole.parquet", 120)
    assert path.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


@pytest.mark.parametrize("seconds", [0, 60])
def test_a_run_killed_early_is_no_reason_to_refuse(tmp_path: Path, seconds: int) -> None:
    """Without a whole group, a run with other settings starts afresh, and so does one after it."""
    path = tmp_path / "r.parquet"
    other = dataclasses.replace(METADATA, model="another")
    kill(path, 2, seconds)
    folder = tmp_path / ".r.parquet.groups"
    assert folder.is_dir()
    # It describes rows: where there are none, no fingerprint has been waited for.
    assert (folder / "metadata.json").is_file() == (seconds > 0)
    with RecordsWriter(path, other, 50) as writer:
        assert (writer.done, len(earlier_nll(writer))) == (0, 0)
        writer.append(0, rows(0, 120))
    metadata, found = read_records(path)
    assert (metadata, len(found)) == (other, 120)
    assert [file.name for file in tmp_path.iterdir()] == ["r.parquet"]


def test_what_a_killed_run_left_beside_finished_records_is_removed(tmp_path: Path) -> None:
    """Unless it has whole groups, which its own run can resume, or another process writes it."""
    path = tmp_path / "r.parquet"
    kill(path, 2, seconds=60)
    write(tmp_path / "finished.parquet", 10)
    (tmp_path / "finished.parquet").rename(path)
    groups = tmp_path / ".r.parquet.groups"
    with locked(groups / "lock", str):
        remove_begun(path)
        assert list(groups.glob("*.begun"))
    remove_begun(path)
    assert [file.name for file in tmp_path.iterdir()] == ["r.parquet"]
    path.unlink()
    interrupt(path)
    remove_begun(path)
    with RecordsWriter(path, METADATA, 100) as writer:
        assert writer.done == 250


def test_a_refused_run_harms_nothing(tmp_path: Path) -> None:
    """A run that is refused, for its fingerprint or the lock, leaves the rows that it found."""
    path = tmp_path / "r.parquet"
    interrupt(path)
    with pytest.raises(RunError, match="in groups of 100 rows, not 50"):
        RecordsWriter(path, METADATA, 50).__enter__()
    with RecordsWriter(path, METADATA, 100) as writer:
        assert writer.done == 250
        with pytest.raises(RunError, match="being written by process"):
            RecordsWriter(path, METADATA, 50).__enter__()
        writer.append(250, rows(250, 300))
    assert len(read_records(path)[1]) == 300


def test_what_a_killed_run_was_writing_is_removed(tmp_path: Path) -> None:
    """A run removes what others that were killed left of the same file, and of no other."""
    path = tmp_path / "r[1].parquet"
    others = {".r1.parquet.12.part", ".r[1].parquet.x.12.part", ".r[1].parquet.part", "q.12.part"}
    for name in (".r[1].parquet.12.part", ".r[1].parquet.345678.part", *others):
        (tmp_path / name).write_bytes(b"PAR1")
    write(path, 10)
    assert {file.name for file in tmp_path.iterdir()} == {"r[1].parquet", *others}


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    """A file that is being written cannot be written by a second process at the same time."""
    path = tmp_path / "r.parquet"
    with RecordsWriter(path, METADATA) as writer:
        with pytest.raises(RunError, match=r"being written by process \d+"):
            RecordsWriter(path, METADATA).__enter__()
        writer.append(0, rows(0, 10))
    assert len(read_records(path)[1]) == 10


def test_a_gap_in_the_rows_is_an_error(tmp_path: Path) -> None:
    """Rows that do not follow those before are refused, naming the ones that are missing."""
    with RecordsWriter(tmp_path / "r.parquet", METADATA) as writer:
        writer.append(0, rows(0, 10))
        with pytest.raises(InvalidValueError, match="rows 10 to 19 are not written"):
            writer.append(20, rows(20, 30))


def test_a_number_too_large_for_its_column_is_an_error(tmp_path: Path) -> None:
    """A token id of 2^31 is refused and does not wrap around."""
    bad = dataclasses.replace(rows(0, 3), token_id=np.array([0, 1, 2**31]))
    with (
        pytest.raises(InvalidValueError, match="token_id holds 2147483648"),
        RecordsWriter(tmp_path / "r.parquet", METADATA) as writer,
    ):
        writer.append(0, bad)


def test_a_full_disk_leaves_the_earlier_file(tmp_path: Path) -> None:
    """When the file does not fit any more, the one before stays whole and the message says so."""
    path = tmp_path / "r.parquet"
    write(path, 50)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        with pytest.raises(RunError, match="unchanged"):
            write(path, 3000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    write(path, 3000)
    assert len(read_records(path)[1]) == 3000


def test_a_token_takes_at_most_64_bytes(tmp_path: Path) -> None:
    """The columns are 60 bytes wide, and the file of 100,000 tokens holds less than 64 a token."""
    path = tmp_path / "r.parquet"
    write(path, 100_000, rows_per_group=65_536)
    _, found = read_records(path)
    assert sum(column.itemsize for column in found.columns().values()) == 60
    assert path.stat().st_size / 100_000 <= 64


def test_other_tools_read_it(tmp_path: Path) -> None:
    """pyarrow, pandas, polars and DuckDB all find the same rows and the same mean nll."""
    path = tmp_path / "r.parquet"
    write(path)
    mean = rows(0, 1000).nll.mean()
    answer = duckdb.connect().execute(f"select count(*), avg(nll) from '{path}'").fetchall()[0]
    assert answer[0] == 1000
    assert answer[1] == pytest.approx(mean, abs=1e-14)
    assert pandas.read_parquet(path)["nll"].mean() == pytest.approx(mean, abs=1e-14)
    assert polars.read_parquet(path)["nll"].mean() == pytest.approx(mean, abs=1e-14)
    table = pq.read_table(path)
    assert table.schema.field("nll").metadata == {b"unit": b"nats"}
    assert table.num_rows == 1000


def test_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    """Missing, cut short, not Parquet, somebody else's Parquet: each says what is wrong."""
    path = tmp_path / "r.parquet"
    with pytest.raises(InvalidValueError, match="No such file"):
        read_records(path)
    write(path)
    whole = path.read_bytes()
    for damaged in (whole[:-7], whole[: len(whole) // 2], b"", b"PAR1 but no more PAR1"):
        path.write_bytes(damaged)
        with pytest.raises(InvalidValueError, match=r"r\.parquet (are damaged|cannot be read)"):
            read_records(path)
    pq.write_table(pa.table({"nll": [1.0]}), path)
    with pytest.raises(InvalidValueError, match="no token records"):
        read_records(path)


def test_an_evaluation_without_rows_makes_an_empty_file(tmp_path: Path) -> None:
    """A file of no rows has all columns and the metadata."""
    with RecordsWriter(tmp_path / "r.parquet", METADATA):
        pass
    metadata, found = read_records(tmp_path / "r.parquet")
    assert (len(found), metadata) == (0, METADATA)


def test_records_are_known_by_their_name_or_their_beginning(tmp_path: Path) -> None:
    """A name in .parquet, there or not, and a file that begins as Parquet does; no folder."""
    write(tmp_path / "some", 10)
    (tmp_path / "text").write_text("PAR")
    (tmp_path / "folder.parquet").mkdir()
    assert is_records(tmp_path / "none.parquet")
    assert is_records(tmp_path / "some")
    assert not any(is_records(tmp_path / name) for name in ("text", "none", "folder.parquet"))


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    """Where the folder of the rows is a link, what it leads to stays as it is."""
    victim = tmp_path / "victim"
    victim.mkdir()
    for name in ("000000.parquet", "000000.begun", ".x.0a.part"):
        (victim / name).write_text("precious")
    (tmp_path / ".r.parquet.groups").symlink_to(victim)
    with pytest.raises(InvalidValueError, match=r"\.r\.parquet\.groups is a link"):
        write(tmp_path / "r.parquet", 10)
    assert {path.read_text() for path in victim.iterdir()} == {"precious"}
    (tmp_path / ".r.parquet.groups").unlink()
    (tmp_path / ".r.parquet.groups").write_text("a file")
    with pytest.raises(InvalidValueError, match="is a file"):
        write(tmp_path / "r.parquet", 10)
