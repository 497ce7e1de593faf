"""Tests of kullback.scoring.device_sums: Triton's kernels, in its interpreter on a CPU.

Triton reads TRITON_INTERPRET when it is imported, so the tests run in a process of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton has no wheels for this platform")

CHECKS = Path(__file__).with_name("device_sums_checks.py")


@pytest.mark.slow
def test_the_kernels_give_the_statistics_of_float64() -> None:
    """nll, entropy, rank, top tokens and the three divergences, from tiny KLs to huge ones."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "KULLBACK_COMPILE": "0"}
    result = subprocess.run(
        [sys.executable, str(CHECKS)], capture_output=True, text=True, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "12 checks" in result.stdout
