"""Threads and processes that share the windows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path

import meshed_processes
import pytest
import shared_evaluation
from shared_evaluation import evaluate

from kullback.errors import InvalidValueError, RunError
from kullback.runtime import workers as module
from kullback.runtime.workers import (
    ProcessGroup,
    local_processes,
    lost_processes,
    own_cores,
    process_group,
)
from two_processes import two_processes


@pytest.mark.slow  # processes of their own
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


def asked_of_six_cores(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Threads and cores of each that are asked for, on a machine with six cores."""
    asked: list[tuple[int, int]] = []

    def record(count: int, cores_each: int) -> AbstractContextManager[ThreadPoolExecutor]:
        asked.append((count, cores_each))
        return ThreadPoolExecutor(1)

    monkeypatch.setattr(module, "cores", lambda: 6)
    monkeypatch.setattr(module, "workers", record)
    return asked


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
    asked = asked_of_six_cores(monkeypatch)
    group = ProcessGroup(local_world_size=local)
    assert list(group.map(str, range(3), at_once)) == ["0", "1", "2"]
    assert asked == [(threads, cores_each)]


@pytest.mark.parametrize(("local", "cores_each"), [(1, 6), (2, 3), (4, 1), (9, 1)])
def test_processes_that_compute_one_at_a_time_divide_the_cores(
    local: int, cores_each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside an accelerator or llama.cpp: one thread each, with its process's part of the cores."""
    asked = asked_of_six_cores(monkeypatch)
    group = ProcessGroup(local_world_size=local)
    assert list(group.map(str, range(3), 1, one_each=True)) == ["0", "1", "2"]
    assert asked == [(1, cores_each)]


def test_own_cores_are_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them alone; a part under torchrun, and at least one."""
    monkeypatch.setattr(module, "cores", lambda: 6)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert own_cores() == 6
    monkeypatch.setenv("WORLD_SIZE", "16")
    for local, part in ((2, 3), (4, 1), (8, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local))
        assert own_cores() == part


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


def test_local_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone (0, 1); under torchrun what it says of this machine, with nonsense refused."""
    for name in ("WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert local_processes() == (0, 1)
    for name, value in {"WORLD_SIZE": "8", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert local_processes() == (3, 4)
    monkeypatch.setenv("LOCAL_RANK", "-1")
    with pytest.raises(InvalidValueError, match="LOCAL_RANK"):
        local_processes()


@pytest.mark.parametrize(
    ("gpu", "backend"), [(False, "cpu:gloo"), (True, "cpu:gloo,cuda:nccl")], ids=["cpu", "gpu"]
)
def test_tensors_on_gpus_go_by_nccl(
    gpu: bool, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gloo carries what is in host memory, everywhere; nccl is added where there is a GPU."""
    begun: list[tuple[str, timedelta]] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(module.torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(module.dist, "is_nccl_available", lambda: True)
    monkeypatch.setattr(
        module.dist, "init_process_group", lambda name, timeout: begun.append((name, timeout))
    )
    monkeypatch.setattr(module.dist, "get_rank", lambda: 1)
    monkeypatch.setattr(module.dist, "destroy_process_group", lambda: None)
    with process_group() as processes:
        assert (processes.rank, processes.world_size) == (1, 2)
    # One may tokenise a text for hours while the others wait.
    assert begun == [(backend, module.PATIENCE)]
    assert timedelta(hours=10) < module.PATIENCE


def test_a_lost_process_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """What gloo raises where another process has died is a `RunError` that names torchrun."""

    def fail(values: list[object], src: int) -> None:
        raise RuntimeError("Connection closed by peer [127.0.0.1]:29500\nsecond line")

    monkeypatch.setattr(module.dist, "broadcast_object_list", fail)
    with pytest.raises(RunError, match=r"process of torchrun.*Connection closed") as error:
        ProcessGroup(0, 2, 2).broadcast(1)
    assert "second line" not in str(error.value)


def test_other_errors_are_not_taken_for_lost_processes() -> None:
    """What the arithmetic raises while processes work together stays as it is."""
    with (
        pytest.raises(RuntimeError, match="shapes cannot be multiplied") as error,
        lost_processes(),
    ):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)")
    assert not isinstance(error.value, RunError)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("environment variable RANK expected, but not set"),
        module.dist.DistNetworkError("The client socket has failed to connect to host:1.\nmore"),
        RuntimeError("Timed out after 2 seconds waiting for clients. 1/2 clients joined."),
    ],
)
def test_processes_that_cannot_meet_are_one_sentence(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without torchrun's environment, or where nobody answers, WORLD_SIZE is named."""

    def fail(backend: str, timeout: timedelta) -> None:
        raise error

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(module.dist, "init_process_group", fail)
    with pytest.raises(RunError, match=r"WORLD_SIZE is 2.*torchrun.*unset") as refused:
        process_group().__enter__()
    assert "more" not in str(refused.value)


@pytest.mark.slow  # processes of their own
def test_two_processes_with_two_texts_are_refused(tiny_llama_folder: Path, tmp_path: Path) -> None:
    """As on two machines whose files differ: both say which part, and neither writes a row."""
    texts = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for text, words in zip(texts, ("the night river ", "the river night "), strict=True):
        text.write_text(words * 20, encoding="utf-8")
    common = two_processes()
    arguments = (str(tiny_llama_folder), str(tmp_path / "out"))
    started = [
        subprocess.Popen(
            [sys.executable, shared_evaluation.__file__, arguments[0], str(text), arguments[1]],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE, text=True,
        )
        for rank, text in enumerate(texts)
    ]  # fmt: skip
    for process in started:
        said = process.communicate(timeout=200)[1]
        assert process.returncode
        assert "differ in the tokens of the text" in said
    assert not list(tmp_path.glob("out*"))


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="no C compiler")
def test_a_late_thread_of_gloo_leaves_the_exit_code(tmp_path: Path) -> None:
    """A thread that still has the tensors of the last exchange has dropped them before the end."""
    library = tmp_path / "late.so"
    source = Path(__file__).with_name("late_gloo.c")
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", source, "-o", library, "-ldl"], check=True)
    ended = meshed_processes.run(library)
    if not any("late" in said for _, said in ended):
        pytest.skip("Python's lock is not taken through a shared library")
    assert [code for code, _ in ended] == [7, 7], ended
