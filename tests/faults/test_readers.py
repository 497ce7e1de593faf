"""Whatever bytes a file has, its reader returns or raises one sentence, in bounded memory and time.

Valid files of every kind that kullback writes are cut, their bits flipped, and numbers and lengths
in them replaced.  Anything but a result or a `KullbackError` is a failure of the reader.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from interrupted_runs import CONFIG
from kullback.errors import KullbackError
from kullback.evaluation.token_records import Records, RecordsMetadata, read_records
from kullback.evaluation.token_records_writer import RecordsWriter
from kullback.models.locate import locate
from kullback.predictions.llama_cpp_logits import LlamaCppLogits
from kullback.predictions.recording import Recording
from kullback.scoring.kl_bounds import kl_bounds
from kullback.scoring.rounded_bounds import rounded_kl_bounds
from kullback.scoring.token_statistics import token_statistics
from kullback.sources.catalogue import open_source
from kullback.text.documents import Document
from kullback.text.fingerprint import Fingerprint
from kullback.text.tokenizer import TextTokenizer
from kullback.training.checkpoint import load_checkpoint
from kullback.training.description import batches_of_run, read_description
from kullback.training.gpt import GPT
from kullback.training.loop import train
from kullback.training.metrics import read_metrics
from kullback.training.run_folder import load_model, load_tokenizer
from kullback.training.state import TrainingState
from tiny_logits import write_logits
from tiny_models import tiny_llama
from tiny_recordings import dense, gpt, write
from tiny_runs import WEATHER, sizes, weather

SECONDS = 10
"""For a file of a few kilobytes."""
MEMORY = 2 << 30
"""Bytes of address space beyond those at the start."""
# `make fuzz` runs 3,000 examples a reader.
EXAMPLES, MANY_EXAMPLES = 40, int(os.environ.get("KULLBACK_FUZZ_EXAMPLES", "300"))

# What replaces bytes: the ends of integers of all widths, and numbers and structures of text.
WORDS = [
    b"\x00" * 8, b"\xff" * 8, b"\xff" * 7 + b"\x7f", b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x80", b"\x01", b"\x80", b"\xff", b"-1", b"0", b"1e999", b"NaN", b"null",
    b"9" * 25, b"9" * 5000, b"1000000000", b"[" * 2000, b'{"":' * 2000, b'"\\ud800"', b"[]", b"{}",
    b'"', b"\\u0000", b"\x1b[2J", b"<r>", b"true", b"1.5", b",", b"\n",
]  # fmt: skip


@st.composite
def damage(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """A change of a file: a cut, flipped bits, replaced or inserted words, repeated pieces."""
    places = draw(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=3))
    kind = draw(st.sampled_from(["cut", "flip", "replace", "insert", "header", "repeat"]))
    words = draw(st.lists(st.sampled_from(WORDS), min_size=3, max_size=3))
    bits = draw(st.lists(st.integers(0, 7), min_size=3, max_size=3))

    def apply(content: bytes) -> bytes:
        changed = bytearray(content)
        for place, word, bit in zip(places, words, bits, strict=False):
            # Headers are at the beginning, and those of Parquet at the end.
            range_ = min(len(changed), 600) if kind == "header" else len(changed)
            at = int(place * range_)
            if kind == "header" and bit & 1:
                at = len(changed) - 1 - at
            if kind == "cut":
                del changed[at:]
            elif kind == "flip" and changed:
                changed[at] ^= 1 << bit
            elif kind in ("replace", "header"):
                changed[at : at + len(word)] = word
            elif kind == "insert":
                changed[at:at] = word
            else:
                changed[at:at] = changed[at : at + 50 * (bit + 1)]
        return bytes(changed)

    return apply


def of_records(path: Path) -> int:
    """The rows of records."""
    return len(read_records(path)[1])


def of_recording(path: Path) -> int:
    """The rows of a recording, which are measured."""
    recording = Recording.open(path)
    predictions = recording.predictions(slice(0, len(recording)))
    if recording.kind == "top-k":
        return len(kl_bounds(predictions, predictions))  # type: ignore[arg-type]
    return len(token_statistics(predictions, torch.from_numpy(recording.targets)))


def of_logits(path: Path) -> int:
    """The rows of a logits file, which are compared with themselves."""
    logits = LlamaCppLogits.open(path)
    rows = logits.rounded(slice(0, len(logits)))
    logits.check_mass(0, rows.log_p_BV.exp().sum(dim=1).numpy())
    lower, _ = rounded_kl_bounds(rows, rows)
    return len(lower)


def of_grammar(path: Path) -> int:
    """The vocabulary of a language, which is sampled."""
    language = open_source(str(path)).training
    language.sample(3, np.random.default_rng(0))
    return len(language.vocabulary)


def of_checkpoint(path: Path) -> int:
    """The step of a checkpoint, which is loaded into a new state of its run."""
    description = read_description(path.parent)
    state = TrainingState(GPT(description.model), description.config)
    load_checkpoint(state, path)
    return state.step


def of_model(path: Path) -> int:
    """The parameters of a run's model."""
    return sum(weight.numel() for weight in load_model(path.parent).parameters())


def of_run(path: Path) -> int:
    """The steps that a run's description says; its batches are built."""
    description = read_description(path.parent)
    batches_of_run(description, load_tokenizer(path.parent / "tokenizer.json")).shards(0, 1)
    return description.config.steps


def of_tokenizer(path: Path) -> int:
    """The vocabulary of a model's tokenizer."""
    return TextTokenizer.load(path.parent).vocabulary_size


def of_metrics(path: Path) -> int:
    """The last step; -1 of a file that ends before its first."""
    return max((int(row["step"]) for row in read_metrics(path)), default=-1)


#: A file, its reader, and how much the reader finds in it while it is whole.
READERS: dict[str, tuple[str, Callable[[Path], object], object]] = {
    "records": ("r.parquet", of_records, 60),
    "exact recording": ("exact.rec", of_recording, 48),
    "top-k recording": ("top-k.rec", of_recording, 30),
    "logits": ("a.kld", of_logits, 6),
    "grammar": ("weather.toml", of_grammar, 14),
    "weights": ("run/model.safetensors", of_model, 776),
    "configuration of a run": ("run/config.json", of_model, 776),
    "tokenizer of a run": (
        "run/tokenizer.json", lambda path: load_tokenizer(path).get_vocab_size(), 14
    ),
    "tokenizer": ("llama/tokenizer.json", of_tokenizer, 256),
    "configuration of a tokenizer": ("llama/tokenizer_config.json", of_tokenizer, 256),
    "configuration": ("llama/config.json", lambda path: locate(str(path.parent)).is_run, False),
    "description": ("run/training.json", of_run, 26),
    "metrics": ("run/metrics.jsonl", of_metrics, 26),
    "checkpoint": ("run/checkpoint.safetensors", of_checkpoint, 26),
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a valid file for each reader."""
    folder = tmp_path_factory.mktemp("files")
    count = np.arange(60)
    columns = dict.fromkeys(("byte_start", "token_id", "position", "top1"), count)
    ones = {name: np.ones(60) for name in Records.__dataclass_fields__ if name not in columns}
    rows = Records(**columns, **{**ones, "document": np.zeros(60)})
    metadata = RecordsMetadata.of("m", Fingerprint({"text": "t"}), [Document("d", "x" * 100)])
    with RecordsWriter(folder / "r.parquet", metadata) as writer:
        writer.append(0, rows)
    write(folder / "exact.rec", gpt(1))
    write(folder / "top-k.rec", dense(), "top-k", k=5)
    tokens = np.arange(16).reshape(2, 8)
    write_logits(folder / "a.kld", tokens, dense(6).logits_MV.numpy())
    (folder / "weather.toml").write_text(WEATHER, encoding="utf-8")
    batches = weather(folder)
    train(folder / "run", batches, sizes(batches), CONFIG)
    tiny_llama(folder / "llama")
    return folder


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """Allocations beyond `MEMORY` fail."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@contextmanager
def bounded_time() -> Iterator[None]:
    """Raise `TimeoutError` after `SECONDS`."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def check(name: str, files: Path, change: Callable[[bytes], bytes]) -> None:
    """Read a damaged file: a result or one sentence."""
    file, read, _ = READERS[name]
    path = files / file
    original = files / f"{file.replace('/', '-')}.original"
    if not original.exists():
        shutil.copy(path, original)
    path.write_bytes(change(original.read_bytes()))
    said = ""
    try:
        with bounded_time():
            read(path)
    except KullbackError as error:
        said = str(error)
    finally:
        shutil.copy(original, path)
    assert "\n" not in said, said
    assert len(said) < 20_000, said


def fuzz(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Settings of hypothesis: the same examples every time."""
    return settings(
        max_examples=examples, deadline=None, derandomize=True, database=None,
        phases=(Phase.generate,), suppress_health_check=list(HealthCheck),
    )  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_whole_files_are_read(name: str, files: Path) -> None:
    """What is fuzzed is valid: the reader finds all of it."""
    file, read, whole = READERS[name]
    assert read(files / file) == whole


@pytest.mark.parametrize("name", READERS)
@fuzz(EXAMPLES)
@given(change=damage())
def test_damaged_files_are_one_sentence(
    name: str, files: Path, change: Callable[[bytes], bytes]
) -> None:
    """A few of every kind of damage."""
    check(name, files, change)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", READERS)
@fuzz(MANY_EXAMPLES)
@given(change=damage())
def test_many_damaged_files_are_one_sentence(
    name: str, files: Path, change: Callable[[bytes], bytes]
) -> None:
    """Hundreds in `make test-all`, thousands in `make fuzz`."""
    check(name, files, change)
