"""Tiny models, a text and a trained run that several test files use.

Each fixture is built once per process and is read-only: a test that changes a folder copies it.
What needs torch is imported where it is used, so that the tests of the exact packages start fast.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kullback.models.huggingface import HuggingFaceModel
    from kullback.sources.language import Language

# Before torch is loaded, here or in a process that a test starts: pytest-xdist runs one worker per
# core, and tensors of these sizes are slower on two threads that wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What interrupted tests keep is not kept in the home of who runs them.
STATE = tempfile.TemporaryDirectory(prefix="kullback-tests-", ignore_cleanup_errors=True)
os.environ["XDG_STATE_HOME"] = STATE.name


@pytest.fixture(autouse=True)
def _interruptible() -> None:
    """Ctrl-C is not ignored, as it is in what a shell starts in the background."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with a random Llama that reads bytes."""
    from tiny_models import tiny_llama

    return tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def other_tiny_llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with other weights."""
    from tiny_models import tiny_llama

    return tiny_llama(tmp_path_factory.mktemp("models") / "other", seed=1)


@pytest.fixture(scope="session")
def tiny_llama(tiny_llama_folder: Path) -> HuggingFaceModel:
    """The model of `tiny_llama_folder`, loaded in float32."""
    from kullback.models.huggingface import HuggingFaceModel
    from kullback.models.load import load_text_model

    model = load_text_model(str(tiny_llama_folder))
    assert isinstance(model, HuggingFaceModel)
    return model


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 432 characters."""
    from tiny_models import TEXT

    path = tmp_path_factory.mktemp("texts") / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def weather_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder: a mini-GPT after 150 steps on the weather, whose grammar is beside it."""
    from tiny_runs import trained

    run = tmp_path_factory.mktemp("weather") / "run"
    trained(run)
    return run


@pytest.fixture(scope="session")
def weather_language(weather_run: Path) -> Language:
    """The language that `weather_run` was trained on."""
    from tiny_runs import weather

    return weather(weather_run.parent).source.training


@pytest.fixture
def without_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attention by matmuls is used, on any processor."""
    monkeypatch.setattr("kullback.runtime.fast_attention.has_amx", lambda: False)


@pytest.fixture(autouse=True)
def _each_test_tries_its_models() -> None:
    """What was tried of a model of an earlier test, which may not be collected yet, is not taken.

    A test may replace what is tried.
    """
    loading = sys.modules.get("kullback.models.from_transformers")
    if loading is not None:
        loading._tried.clear()
