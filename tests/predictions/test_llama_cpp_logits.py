"""llama.cpp's base-logits files."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax

from kullback.errors import InvalidValueError
from kullback.predictions.llama_cpp_logits import LlamaCppLogits
from tiny_logits import write_logits

CHUNKS, CONTEXT = 2, 8
SCORED = CHUNKS * (CONTEXT - 1 - CONTEXT // 2)


@pytest.fixture(params=[30, 31])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """A file of random logits, with its tokens and logits; even and odd vocabularies."""
    rng = np.random.default_rng(0)
    V = request.param
    tokens = rng.integers(0, V, (CHUNKS, CONTEXT))
    logits = rng.normal(size=(SCORED, V)) * 3
    write_logits(tmp_path / "base", tokens, logits)
    return tmp_path / "base", tokens, logits


def row_as_described(logits: np.ndarray) -> bytes:
    """One row as llama.cpp's source describes it, number by number, in its arithmetic."""
    f32 = np.float32
    logits = logits.astype(f32)
    largest = max(logits)
    smallest = max(min(logits), largest - f32(16))
    log_total = f32(np.log(sum(float(np.exp(x - largest)) for x in logits)))
    scale = (largest - smallest) / f32(65535)
    per_step = f32(1) / scale
    steps = [int(np.rint(per_step * (x - smallest))) if x > smallest else 0 for x in logits]
    padding = [0] * (len(logits) % 2)
    head = struct.pack("<ff", scale, smallest - largest - log_total)
    return head + struct.pack(f"<{len(steps + padding)}H", *steps, *padding)


def test_the_bytes_are_those_of_the_described_layout(file):
    """The file is magic, sizes, tokens and rows, byte for byte as the format is described."""
    path, tokens, logits = file
    head = b"_logits_" + struct.pack("<iii", CONTEXT, logits.shape[1], CHUNKS)
    body = tokens.astype("<i4").tobytes() + b"".join(row_as_described(row) for row in logits)
    assert path.read_bytes() == head + body


def test_reading_gives_log_probabilities_to_a_step(file):
    """What is read is the log-softmax to half a step of 16 / 65535 nats."""
    path, tokens, logits = file
    stored = LlamaCppLogits.open(path)
    assert (len(stored), stored.context) == (SCORED, CONTEXT)
    np.testing.assert_array_equal(stored.targets, tokens[:, CONTEXT // 2 + 1 :].reshape(-1))
    expected = log_softmax(logits, axis=1)
    assert np.abs(stored.log_probabilities(slice(0, SCORED)) - expected).max() < 0.6 * 16 / 65535
    rounded = stored.rounded(slice(2, 5))
    difference = np.abs(rounded.log_p_BV.numpy() - expected[2:5])
    assert (difference <= rounded.rounding_B.numpy()[:, None]).all()
    assert not stored.clipped


def test_clipped_entries_are_upper_limits(tmp_path: Path):
    """Entries more than 16 nats below the largest are marked, the others are right as stored."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(SCORED, 400)) * 6
    stored = write_logits(tmp_path / "base", np.zeros((CHUNKS, CONTEXT), int), logits)
    rows, expected = stored.rounded(slice(0, SCORED)), log_softmax(logits, axis=1)
    assert stored.clipped
    assert rows.clipped_BV is not None
    clipped, log_p = rows.clipped_BV.numpy(), rows.log_p_BV.numpy()
    rounding = rows.rounding_B.numpy()[:, None]
    below = logits < logits.max(axis=1, keepdims=True) - 16
    assert (clipped == below).mean() > 0.999
    assert 0.05 < clipped.mean() < 0.95
    assert (np.abs(log_p - expected) <= rounding)[~clipped].all()
    assert (log_p + rounding >= expected)[clipped].all()


def test_rows_that_are_missing_are_an_error(tmp_path: Path):
    """A file of fewer rows than its chunks have is not written."""
    with pytest.raises(InvalidValueError, match=r"5 rows .* 6"):
        write_logits(tmp_path / "base", np.zeros((CHUNKS, CONTEXT), int), np.zeros((5, 9)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"GGUF" + data[4:], "not a base-logits file"),
        (lambda data: data[:-1], "truncated"),
        (lambda data: data[:10], "not a base-logits file"),
        (lambda data: data[:8] + struct.pack("<i", -3) + data[12:], "damaged"),
        (lambda data: data[:20] + struct.pack("<i", 10**6) + data[24:], "1000000"),
    ],
)
def test_damaged_files_are_named(file, damage, message):
    """A file of another format, truncated or inconsistent, is an error that says which it is."""
    path, _, _ = file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InvalidValueError, match=message):
        LlamaCppLogits.open(path)


def test_a_missing_file_is_named(tmp_path: Path):
    """A missing file is an error with its name."""
    with pytest.raises(InvalidValueError, match="base"):
        LlamaCppLogits.open(tmp_path / "base")


@pytest.mark.parametrize(
    "header",
    [
        (np.nan, -3.0),
        (-1e-4, -3.0),
        (np.inf, -3.0),
        (1e-4, np.nan),
        (1.0, -3.0),
        (3e38, -3.0),
        (np.inf, -np.inf),
    ],
)
def test_rows_that_are_no_log_probabilities_are_named(header, file):
    """A scale or a smallest value that cannot be one names its row."""
    path, tokens, logits = file
    content = bytearray(path.read_bytes())
    row_bytes = len(row_as_described(logits[0]))
    start = 20 + 4 * tokens.size + 3 * row_bytes
    content[start : start + 8] = struct.pack("<ff", *header)
    path.write_bytes(content)
    with pytest.raises(InvalidValueError, match="row 3 has log-probabilities"):
        LlamaCppLogits.open(path)


def test_a_pipe_is_no_logits_file(tmp_path):
    """It is refused without waiting for a writer."""
    os.mkfifo(tmp_path / "pipe.kld")
    with pytest.raises(InvalidValueError, match="named pipe"):
        LlamaCppLogits.open(tmp_path / "pipe.kld")
