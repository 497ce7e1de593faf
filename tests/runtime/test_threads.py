"""Pools of threads with a fixed number of cores; torch's setting is restored."""

from __future__ import annotations

import threading

import pytest
import torch

from kullback.runtime import threads as module
from kullback.runtime.threads import begin_mkl, cores, workers


def test_workers_use_one_core_each_and_restore_the_setting():
    """In the pool torch uses one thread, and afterwards as many as before, after an error too."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with workers(2) as pool:
            assert list(pool.map(lambda _: torch.get_num_threads(), range(4))) == [1] * 4
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError), workers(1) as pool:
            pool.submit(lambda: 1 / 0).result()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_mkl_begins_before_there_are_two_threads(monkeypatch: pytest.MonkeyPatch):
    """Its first calls are those of one thread: of two at once, one may round otherwise."""
    called: list[tuple[threading.Thread, int]] = []
    monkeypatch.setattr(
        module,
        "begin_mkl",
        lambda: called.append((threading.current_thread(), threading.active_count())),
    )
    running = threading.active_count()
    with workers(2) as pool:
        list(pool.map(abs, range(4)))
    assert called == [(threading.current_thread(), running)]


def test_mkl_begins_on_the_cpu(monkeypatch: pytest.MonkeyPatch):
    """Whatever torch's default device is; all of its functions exist."""
    kinds: list[str] = []
    monkeypatch.setattr(module.torch, "mm", lambda a, b: kinds.append(a.device.type))
    with torch.device("meta"):
        begin_mkl.__wrapped__()
    assert kinds == ["cpu", "cpu"]
    for name in module.MKL_FUNCTIONS:
        assert getattr(torch, name)(torch.tensor(0.5)).isfinite()


def test_workers_may_have_several_cores():
    """In the pool torch uses as many threads as were asked for."""
    before = torch.get_num_threads()
    with workers(2, cores_each=3) as pool:
        assert list(pool.map(lambda _: torch.get_num_threads(), range(4))) == [3] * 4
    assert torch.get_num_threads() == before


def test_workers_work_at_the_same_time():
    """Three workers meet at a barrier, which consecutive ones never could."""
    barrier = threading.Barrier(3, timeout=30)
    with workers(3) as pool:
        assert sorted(pool.map(lambda _: barrier.wait(), range(3))) == [0, 1, 2]


def test_there_is_at_least_one_core():
    """The number of cores is positive."""
    assert cores() >= 1
