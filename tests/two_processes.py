"""The environment of two processes of this machine, as torchrun sets it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

__all__ = ["run_two", "two_processes"]


def two_processes() -> dict[str, str]:
    """All but the rank, with a port that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {
        "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }  # fmt: skip


def run_two(*arguments: str) -> list[subprocess.CompletedProcess[str]]:
    """What the command gives in both ranks."""
    common = two_processes()
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "kullback", *arguments], text=True,
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=200) for process in started]
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *output)
        for process, output in zip(started, outputs, strict=True)
    ]
