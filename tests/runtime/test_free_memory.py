"""How much memory may still be taken."""

from __future__ import annotations

import subprocess
import sys

from kullback.runtime.free_memory import available_memory


def test_no_more_than_the_machine_has() -> None:
    """It is positive and below the memory of any machine."""
    assert 0 < available_memory() < 1 << 50


def test_a_limit_of_the_process_counts() -> None:
    """Under `ulimit -d` no more is available than the limit leaves."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30));"
        "from kullback.runtime.free_memory import available_memory; print(available_memory())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 1 << 30
