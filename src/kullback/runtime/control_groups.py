"""The memory that Linux's control groups leave a process: containers, SLURM jobs, systemd units.

A group's limit holds for all processes in it and in the groups below it, so those above a
process's own count, too.  Both versions of control groups are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["GroupMemory", "group_memory", "number_in"]

ROOT, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


class _Names(NamedTuple):
    """The files of a version of control groups, and the entry of `memory.stat` for cached files."""

    limit: str
    used: str
    cached: str


VERSION_1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache")
VERSION_2 = _Names("memory.max", "memory.current", "file")


class GroupMemory(NamedTuple):
    """Bytes of a group that has a limit."""

    limit: int
    used: int
    """With files that are cached, which the system drops where memory is needed."""
    cached: int

    @property
    def free(self) -> int:
        """What its processes may take yet."""
        return self.limit - self.used + self.cached


def group_memory() -> list[GroupMemory]:
    """Of each group with a limit that this process is in; empty where there are none."""
    return [group for folder, names in _folders() if (group := _read(folder, names)) is not None]


def _folders() -> Iterator[tuple[Path, _Names]]:
    """The folders of the process's groups and of those above them, whether they are there or not.

    In a container the path of a group may be that of its host, of which only the end, or nothing,
    is below the root: the root is among the folders.
    """
    try:
        lines = MEMBERSHIP.read_text().splitlines()
    except (OSError, ValueError):
        lines = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        inside = Path(path.lstrip("/"))
        if "memory" in controllers.split(","):
            yield from ((ROOT / "memory" / group, VERSION_1) for group in (inside, *inside.parents))
        elif not controllers:
            yield from ((ROOT / group, VERSION_2) for group in (inside, *inside.parents))


def _read(folder: Path, names: _Names) -> GroupMemory | None:
    """The memory of a group; None where it has no limit that can be read."""
    try:
        limit = int((folder / names.limit).read_text())  # "max" is no number
        used = int((folder / names.used).read_text())
    except (OSError, ValueError):
        return None
    return GroupMemory(limit, used, number_in(folder / "memory.stat", names.cached) or 0)


def number_in(path: Path, name: str) -> int | None:
    """The number, in bytes, of a line `name number` or `name number kB` of a file of the kernel."""
    try:
        for line in path.read_text().splitlines():
            key, *values = line.split()
            if key == name:
                return int(values[0]) * (1024 if values[1:] == ["kB"] else 1)
    except (OSError, ValueError, IndexError):
        return None
    return None
