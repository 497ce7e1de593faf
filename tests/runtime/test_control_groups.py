"""Tests of kullback.runtime.control_groups, on folders as the kernel shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from kullback.runtime import control_groups
from kullback.runtime.control_groups import GroupMemory, group_memory
from kullback.runtime.free_memory import available_memory
from kullback.runtime.limits import machine_memory

MB = 1 << 20


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of /sys/fs/cgroup, and a file in place of /proc/self/cgroup."""
    monkeypatch.setattr(control_groups, "ROOT", tmp_path)
    monkeypatch.setattr(control_groups, "MEMBERSHIP", tmp_path / "membership")
    return tmp_path


def write(root: Path, group: str, files: dict[str, object], membership: str) -> None:
    """The files of a group, and which groups the process is in."""
    folder = root / group
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")
    (root / "membership").write_text(membership)


def test_a_job_above_the_own_group_limits_it(root: Path) -> None:
    """SLURM limits the job, and the step and task below it have none of their own."""
    job = "system.slice/slurmstepd.scope/job_7"
    membership = f"0::/{job}/step_0/task_0\n"
    task = {"memory.max": "max", "memory.current": 5 * MB}
    limited = {"memory.max": 80 * MB, "memory.current": 30 * MB, "memory.stat": f"file {10 * MB}"}
    write(root, f"{job}/step_0/task_0", task, membership)
    write(root, job, limited, membership)
    assert group_memory() == [GroupMemory(80 * MB, 30 * MB, 10 * MB)]
    assert available_memory() == 60 * MB
    assert machine_memory() == 80 * MB


def test_the_least_of_several_limits_counts(root: Path) -> None:
    """The one that leaves least, whatever the other's limit."""
    inner = {"memory.max": 50 * MB, "memory.current": 10 * MB}
    outer = {"memory.max": 60 * MB, "memory.current": 55 * MB}
    write(root, "a/b", inner, "0::/a/b\n")
    write(root, "a", outer, "0::/a/b\n")
    assert [group.free for group in group_memory()] == [40 * MB, 5 * MB]
    assert available_memory() == 5 * MB
    assert machine_memory() == 50 * MB


def test_a_container_shows_its_own_group_as_the_root(root: Path) -> None:
    """The path is the host's, and the files are at the root."""
    files = {"memory.max": 70 * MB, "memory.current": 20 * MB, "memory.stat": "anon 5\nfile 0"}
    write(root, "", files, "0::/docker/0123abcd\n")
    assert group_memory() == [GroupMemory(70 * MB, 20 * MB, 0)]


def test_version_1_is_read(root: Path) -> None:
    """Its own files, in the hierarchy of the memory controller; a limit of no use is above all."""
    membership = "9:cpu,cpuacct:/x\n4:memory:/job\n0::/\n"
    files = {
        "memory.limit_in_bytes": 90 * MB, "memory.usage_in_bytes": 50 * MB,
        "memory.stat": f"cache 1\ntotal_cache {20 * MB}",
    }  # fmt: skip
    unlimited = {"memory.limit_in_bytes": 2**63 - 4096, "memory.usage_in_bytes": 60 * MB}
    write(root, "memory/job", files, membership)
    write(root, "memory", unlimited, membership)
    assert group_memory()[0] == GroupMemory(90 * MB, 50 * MB, 20 * MB)
    assert available_memory() == 60 * MB
    assert machine_memory() == 90 * MB


@pytest.mark.parametrize("membership", ["", "damaged", "0::/missing\n", "4:memory:/missing\n"])
def test_without_limits_nothing_is_known(root: Path, membership: str) -> None:
    """Files that are not there, or say nothing, limit nothing."""
    (root / "membership").write_text(membership)
    assert group_memory() == []
    assert available_memory() > 0
