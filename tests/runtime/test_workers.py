"""Threads and processes that share the windows."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import shared_evaluation
from shared_evaluation import evaluate

from kullback.errors import InvalidValueError
from kullback.runtime import workers as module
from kullback.runtime.workers import ProcessGroup, process_group


def test_two_processes_give_the_results_of_one(
    tiny_llama_folder: Path, text_file: Path, tmp_path: Path
):
    """Under torchrun with two processes the measures are equal, and the records byte for byte."""
    arguments = (str(tiny_llama_folder), str(text_file))
    evaluate(*arguments, str(tmp_path / "one"))
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    command = (sys.executable, *torchrun, shared_evaluation.__file__, *arguments)
    subprocess.run([*command, str(tmp_path / "two")], check=True, capture_output=True, timeout=200)
    alone, together = (json.loads((tmp_path / name).read_text()) for name in ("one", "two"))
    assert together == alone
    records = [(tmp_path / name).read_bytes() for name in ("one.parquet", "two.parquet")]
    assert records[0] == records[1]


def test_one_process_maps_in_order():
    """Without torchrun results are in the order of the windows; `broadcast` returns its value."""
    with process_group() as processes:
        assert list(processes.map(lambda x: x * x, range(50))) == [x * x for x in range(50)]
        assert processes.broadcast("value") == "value"
    assert ProcessGroup().is_rank_zero


@pytest.mark.parametrize(
    ("at_once", "local", "threads", "cores_each"),
    [(None, 1, 6, 1), (None, 2, 3, 1), (1, 1, 1, 6), (2, 1, 2, 3), (2, 2, 1, 3), (9, 1, 6, 1)],
)
def test_few_windows_share_all_cores(
    at_once: int | None,
    local: int,
    threads: int,
    cores_each: int,
    monkeypatch: pytest.MonkeyPatch,
):
    """Where there are fewer windows than cores none rests; the share does not depend on N."""
    asked = []

    def record(count: int, cores_each: int) -> AbstractContextManager[ThreadPoolExecutor]:
        asked.append((count, cores_each))
        return ThreadPoolExecutor(1)

    monkeypatch.setattr(module, "cores", lambda: 6)
    monkeypatch.setattr(module, "workers", record)
    group = ProcessGroup(local_world_size=local)
    assert list(group.map(str, range(3), at_once)) == ["0", "1", "2"]
    assert asked == [(threads, cores_each)]


def test_an_error_in_a_thread_is_the_callers():
    """What a window raises reaches whoever asked."""

    def fail(window: int) -> int:
        raise ValueError(window)

    with pytest.raises(ValueError, match="0"):
        list(ProcessGroup().map(fail, range(3)))


@pytest.mark.parametrize("value", ["", "two", "0", "-1", "1.5"])
def test_a_wrong_number_of_processes_is_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torchrun never sets is refused with the variable's name."""
    monkeypatch.setenv("WORLD_SIZE", value)
    with pytest.raises(InvalidValueError, match=r"WORLD_SIZE is .*torchrun"), process_group():
        pass
