"""The environment of two processes of this machine, as torchrun sets it."""

from __future__ import annotations

import os
import socket
import sys

__all__ = ["two_processes"]


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
