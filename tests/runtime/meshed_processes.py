"""Two processes whose mesh outlives their process group: ``meshed_processes.py LIBRARY``.

Run as a program with a rank it is one of them, with the library preloaded.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from two_processes import two_processes


def run(library: Path) -> list[tuple[int, str]]:
    """Exit codes and what the processes wrote to standard error."""
    common = two_processes() | {"LD_PRELOAD": str(library)}
    started = [
        subprocess.Popen(
            [sys.executable, __file__],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=200)[1] for process in started]
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


if __name__ == "__main__":
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    from kullback.runtime.workers import process_group

    with process_group():
        mesh = init_device_mesh("cpu", (2,))
        tensor = torch.ones(1000)
        dist.all_reduce(tensor, group=mesh.get_group())
    assert tensor[0] == 2.0
    time.sleep(0.2)  # until a thread that is late wants Python's lock
    sys.exit(7)
