"""What a pass over a wide vocabulary takes is the memory of some blocks, not of the logits."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

WORDS = 262_144
ROWS = 512
# All logits of one model are 537 MB, and a block 2.
MOST_BYTES = 150e6

# In a process of its own: a peak stays, and what earlier tests have freed would hide it.
PROGRAM = f"""
import resource
import torch
from kullback.scoring.divergence import divergence_statistics
from kullback.scoring.token_statistics import token_statistics
from kullback.predictions.base import FactoredPredictions, Head
from kullback.runtime.memory import keep_freed_memory

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

keep_freed_memory()
torch.manual_seed(0)
hidden = torch.randn({ROWS}, 8)
head = Head(torch.randn({WORDS}, 8))
reference = FactoredPredictions(hidden, head)
candidate = FactoredPredictions(hidden, Head(1.1 * head.weight_VD))
targets = torch.zeros({ROWS}, dtype=torch.int64)
before = peak()
token_statistics(reference, targets)
between = peak()
divergence_statistics(reference, candidate, targets)
print(between - before, peak() - between)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell a process its peak")
@pytest.mark.parametrize("compiled", ["1", "0"])
def test_memory_is_that_of_blocks(compiled: str) -> None:
    """Small results kept between blocks of logits once made each block take new memory."""
    environment = {**os.environ, "KULLBACK_COMPILE": compiled}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, check=True, text=True, capture_output=True
    )
    # macOS counts bytes, Linux kilobytes.
    unit = 1 if sys.platform == "darwin" else 1024
    for grown in run.stdout.split():
        assert unit * int(grown) < MOST_BYTES
