"""Trainings that do not fit into memory."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from interrupted_runs import CONFIG
from kullback.errors import InvalidValueError, RunError
from kullback.training import steps
from kullback.training.gpt_config import GPTConfig
from kullback.training.loop import resume, train
from kullback.training.memory import check_memory, training_bytes
from kullback.training.out_of_memory import explained_out_of_memory
from tiny_runs import sizes, weather


def test_a_step_that_does_not_fit_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the remedies and the checkpoint, and the run is resumed when there is memory."""
    batches, count, gradients = weather(tmp_path), list[int](), steps.gradients

    def full(*arguments: object) -> object:
        count.append(1)
        if len(count) > 12:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has")
        return gradients(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(steps, "gradients", full)
    with pytest.raises(RunError) as error:
        train(tmp_path / "run", batches, sizes(batches), CONFIG)
    said = str(error.value)
    for part in ("(CUDA out of memory)", "--batch", "--accumulate", "--checkpoint-activations",
                 "checkpoint of step 4 is kept", "--resume"):  # fmt: skip
        assert part in said
    assert "\n" not in said
    monkeypatch.undo()
    resume(tmp_path / "run")
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_other_errors_pass() -> None:
    """A bug is not called a lack of memory."""
    with (
        pytest.raises(RuntimeError, match="shapes"),
        explained_out_of_memory(torch.device("cpu"), lambda: ""),
    ):
        raise RuntimeError("shapes differ")


def test_what_no_gpu_could_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names the device, its memory and the remedies; half of the estimate passes."""
    memory = {"total_memory": 10**9}
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(**memory)
    )
    gpt, device = (
        GPTConfig(1000, 64, width=256, layers=8, heads=4, mlp_width=640),
        torch.device("cuda:1"),
    )
    size = training_bytes(gpt, 100_000, CONFIG)
    memory["total_memory"] = size // 2 - 1
    with pytest.raises(InvalidValueError, match=r"GB, and cuda:1 has .*--accumulate"):
        check_memory(gpt, 100_000, CONFIG, device=device)
    memory["total_memory"] = size // 2 + 1
    check_memory(gpt, 100_000, CONFIG, device=device)
