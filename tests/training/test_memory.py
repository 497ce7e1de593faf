"""The memory that training takes: the estimate, and the peak of small runs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kullback.training.config import TrainingConfig
from kullback.training.gpt_config import GPTConfig
from kullback.training.memory import training_bytes

STATUS = Path("/proc/self/status")
# Trains a run of three steps, after a tiny one that loads what any run needs; prints the bytes that
# it had at its peak above those before it, and the estimate.
MEASURE = """
import gc, sys, tempfile
from pathlib import Path
import numpy as np
from kullback.text.tokenizer_training import train_tokenizer
from kullback.training.arithmetic import CPU, with_native
from kullback.training.config import TrainingConfig
from kullback.training.gpt_config import GPTConfig
from kullback.training.loop import train
from kullback.training.memory import training_bytes
from kullback.training.text_batches import TextBatches

width, layers, heads, context, windows, accumulate = map(int, sys.argv[1:])
tokenizer = train_tokenizer(["the rain in spain stays mainly in the plain"], 259)
vocabulary = tokenizer.get_vocab_size()
tokens = np.random.default_rng(0).integers(3, vocabulary, 60_000)
config = TrainingConfig(
    steps=3, evaluate_every=100, checkpoint_every=2, accumulate=accumulate,
    checkpoint_activations=accumulate > 1,
)

def run(folder, windows, *sizes):
    batches = TextBatches.of_tokens(tokens, tokenizer, context=context, windows=windows)
    gpt = GPTConfig(vocabulary, context, *sizes)
    train(folder, batches, gpt, config)
    return training_bytes(gpt, batches.tokens_per_batch, with_native(config, CPU))

def of_process(name):
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name)]
    return 1024 * int(line.split()[1])

with tempfile.TemporaryDirectory() as folder:
    run(Path(folder) / "tiny", 2 * accumulate, 16, 1, 2, 32)
    gc.collect()
    before = of_process("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins again
    estimate = run(Path(folder) / "run", windows, width, layers, heads, 5 * width // 2)
    print(of_process("VmHWM") - before, estimate)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not STATUS.exists() or "VmHWM" not in STATUS.read_text(), reason="the system tells no peak"
)
@pytest.mark.parametrize(
    "sizes",
    [(384, 6, 6, 64, 4, 1), (128, 4, 4, 256, 64, 1), (192, 4, 4, 256, 16, 4)],
    ids=["weights", "activations", "accumulated and checkpointed"],
)
def test_the_estimate_is_near_the_peak(sizes: tuple[int, ...]) -> None:
    """The peak is within a third of it where weights, activations or what is fixed take most."""
    command = [sys.executable, "-c", MEASURE, *map(str, sizes)]
    measured, estimate = map(int, subprocess.check_output(command, text=True).split())
    assert 0.7 < measured / estimate < 1.35


def test_the_estimate_counts_what_threads_and_windows_add() -> None:
    """Each thread has a gradient of its own; torch's attention on a CPU keeps its weights."""
    gpt = GPTConfig(20_000, 64, width=64, layers=1, heads=2, mlp_width=160)
    config = TrainingConfig(shards=1)
    alone = training_bytes(gpt, 64, config)
    more = training_bytes(gpt, 64, replace(config, shards=4)) - alone
    assert more > 3 * 4 * gpt.parameters
    longer = replace(gpt, context=4096)
    assert training_bytes(longer, 16_384, config) > 2 * training_bytes(gpt, 16_384, config)
    native = replace(config, native=True)
    assert training_bytes(longer, 4096, native) == training_bytes(gpt, 4096, native)
    assert training_bytes(longer, 4096, native) < training_bytes(longer, 4096, config)
    on_gpu = replace(config, device="cuda")
    assert training_bytes(longer, 4096, on_gpu) == training_bytes(gpt, 4096, on_gpu)
