"""A comparison whose windows several processes share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import kullback

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def run_compare(folder: Path, text: Path, *started: str, fails: bool = False) -> Any:
    """The JSON of a comparison with two candidates, noise and sensitivity, or its messages."""
    models = [str(folder)] * (2 if fails else 1)
    arguments = ("-m", "kullback", "compare", *models, "--text", str(text), "--window", "16")
    done = subprocess.run(
        [sys.executable, *started, *arguments, *(["--stream"] if fails else [
            "--schemes", "int8,int4-g32", "--noise-floor", "--sensitivity", "--json"
        ])],
        capture_output=True, text=True, timeout=200,
        env=os.environ | {"PYTHONPATH": str(Path(kullback.__file__).parents[1])},
    )  # fmt: skip
    assert (done.returncode == 0) != fails, done.stderr
    return done.stderr if fails else json.loads(done.stdout)


def without_times(result: dict[str, Any]) -> dict[str, Any]:
    """Everything that two runs of one comparison have in common."""
    return {key: value for key, value in result.items() if key not in ("created", "seconds")}


@pytest.mark.slow  # processes of their own
def test_two_processes_give_the_comparison_of_one(tiny_llama_folder: Path, text_file: Path) -> None:
    """Under torchrun every number is equal: measures, ranking, noise floor and sensitivity."""
    alone = without_times(run_compare(tiny_llama_folder, text_file))
    together = without_times(run_compare(tiny_llama_folder, text_file, *TORCHRUN))
    assert len(alone["candidates"]) == 2
    assert alone["noise_floor"]
    assert alone["sensitivity"]
    assert together == alone


@pytest.mark.slow  # processes of their own
def test_a_streamed_comparison_is_refused(tiny_llama_folder: Path, text_file: Path) -> None:
    """Each process would read the models."""
    assert "start one process" in run_compare(tiny_llama_folder, text_file, *TORCHRUN, fails=True)
