"""Benchmarks of passes over a text run to their end with a tiny model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = {
    "evaluate_overhead": "--tokens 128 --window 32 --rounds 1",
    "compare_overhead": "--tokens 128 --window 32 --rounds 1",
    "short_documents": "--documents 40 --many 200 --rounds 1",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_the_small_form_runs(name: str, tiny_llama_folder: Path) -> None:
    """A table, and the goals."""
    done = subprocess.run(
        [sys.executable, ROOT / f"benchmarks/{name}.py", "--model", tiny_llama_folder,
         *SMALL[name].split()],
        capture_output=True, text=True, check=False, timeout=200,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "goal" in done.stdout
