"""The memory of a pass over a large vocabulary: that of some blocks, not of all logits."""

from __future__ import annotations

import subprocess
import sys

import pytest

VOCABULARY = 131_072
ROWS = 512
# All logits of one model are 268 MB, and a block is at most 2.
MOST_BYTES = 80e6

# In a process of its own: the peak of a process never falls, and memory that earlier tests have
# freed would hide it.
PROGRAM = f"""
import os
import resource
import torch
from kullback.predictions.base import FactoredPredictions, Head
from kullback.runtime.memory import kept_freed_memory
from kullback.scoring.compiled import block_library
from kullback.scoring.divergence import divergence_statistics
from kullback.scoring.token_statistics import token_statistics

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

torch.set_num_threads(1)
torch.manual_seed(0)
hidden = torch.randn({ROWS}, 8)
head = Head(torch.randn({VOCABULARY}, 8))
reference = FactoredPredictions(hidden, head)
candidate = FactoredPredictions(hidden, Head(1.1 * head.weight_VD))
targets = torch.zeros({ROWS}, dtype=torch.int64)
with kept_freed_memory():
    for compiled in "10":
        os.environ["KULLBACK_COMPILE"] = compiled
        block_library.cache_clear()
        before = peak()
        token_statistics(reference, targets)
        between = peak()
        divergence_statistics(reference, candidate, targets)
        print(between - before, peak() - between)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell a process its peak")
def test_memory_is_that_of_blocks() -> None:
    """Neither one model's pass nor two models' takes the memory of all logits, in C or in torch.

    Small results kept between blocks of logits once made each block take new memory.
    """
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, text=True, capture_output=True
    )
    # macOS counts bytes, Linux kilobytes.
    unit = 1 if sys.platform == "darwin" else 1024
    for growth in run.stdout.split():
        assert unit * int(growth) < MOST_BYTES
