"""Checkpoints by torch.distributed.checkpoint: complete, atomic, and refused where damaged."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

from interrupted_runs import BATCHES, CONFIG, complaint, edit_json
from kullback.errors import RunError
from kullback.runtime.progress import Progress
from kullback.training import arithmetic
from kullback.training.interruption import Interrupted
from kullback.training.loop import resume, train
from kullback.training.run_folder import save_streamed, save_tensors
from tiny_runs import metrics_but_times, sizes

# One process writes and reads these files as several do.
ALONE = replace(CONFIG, fsdp=True)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a run and stop it at step 6; it has the checkpoints of steps 4 and 6."""
    run = tmp_path_factory.mktemp("begun") / "run"
    batches = BATCHES["source"](run.parent)
    with pytest.raises(Interrupted):
        train(run, batches, sizes(batches), ALONE, stop_at=6)
    return run


@pytest.fixture
def copied(begun: Path, tmp_path: Path) -> Path:
    """Copy it."""
    return Path(shutil.copytree(begun, tmp_path / "run"))


class Notes(Progress):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Keep it."""
        self.notes.append(text)


def folders(run: Path) -> list[str]:
    """Return the names in the folder of checkpoints."""
    return sorted(path.name for path in (run / "checkpoint-sharded").iterdir())


def test_a_resumed_run_ends_like_another(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Two checkpoints are kept, and a resumed run has the curve and the weights of a whole one.

    Both are computed by torch alone, as sharded runs are.
    """
    monkeypatch.setattr(arithmetic, "block_functions", lambda: None)
    assert folders(copied) == ["4", "6"]
    resume(copied)
    batches = BATCHES["source"](tmp_path)
    train(tmp_path / "whole", batches, sizes(batches), replace(CONFIG, shards=1))
    assert metrics_but_times(copied) == metrics_but_times(tmp_path / "whole")
    weights = [(run / "model.safetensors").read_bytes() for run in (copied, tmp_path / "whole")]
    assert weights[0] == weights[1]
    assert folders(copied) == ["24", "26"]


def test_a_damaged_model_is_written_again_from_the_shards(copied: Path):
    """The sentence names the file to remove, and resuming then writes it."""
    resume(copied)
    model = copied / "model.safetensors"
    content = model.read_bytes()
    model.write_bytes(content[:-100])
    assert "remove model.safetensors" in complaint(resume, copied)
    model.unlink()
    resume(copied)
    assert model.read_bytes() == content


@pytest.mark.parametrize("damage", ["bit", "cut", "missing", "added", "counters", "no counters"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(damage: str, copied: Path):
    """Whatever is damaged, the run resumes from step 4 with a note, and keeps that checkpoint."""
    last = copied / "checkpoint-sharded" / "6"
    path = max(last.glob("*.safetensors"))
    content = bytearray(path.read_bytes())
    if damage == "bit":
        content[-5] ^= 1
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[:-100])
    elif damage == "missing":
        path.unlink()
    elif damage == "added":
        (last / "shard-00002-model-00001-of-00001.safetensors").write_bytes(content)
    elif damage == "counters":
        edit_json(last / "state.json", step=5)
    else:
        (last / "state.json").unlink()
    notes = Notes()
    with pytest.raises(Interrupted):
        resume(copied, progress=notes, stop_at=6)
    (note,) = notes.notes
    assert "step 4" in note
    assert str(last) in note
    assert folders(copied) == ["4", "6"]


def test_no_checkpoint_is_left(copied: Path):
    """Where both are damaged the sentence names the last, and no file changes."""
    for step in ("4", "6"):
        (copied / "checkpoint-sharded" / step / "state.json").write_text("{}")
    said = complaint(resume, copied)
    assert str(copied / "checkpoint-sharded" / "6") in said
    assert "state.json" in said


def test_a_checkpoint_of_another_model(copied: Path):
    """Tensors of other shapes than the model's are refused."""
    description = copied / "training.json"
    shutil.rmtree(copied / "checkpoint-sharded" / "4")
    changed = json.loads(description.read_text())
    changed["model"]["mlp_width"] = 24
    description.write_text(json.dumps(changed))
    assert "checkpoint of this run" in complaint(resume, copied)


def test_what_a_killed_process_leaves_is_no_checkpoint(copied: Path):
    """A folder that was not complete is removed, and the last that was is read."""
    draft = copied / "checkpoint-sharded" / ".8.0123abcd.part"
    shutil.copytree(copied / "checkpoint-sharded" / "6", draft)
    notes = Notes()
    with pytest.raises(Interrupted):
        resume(copied, progress=notes, stop_at=7)
    assert notes.notes == []
    assert folders(copied) == ["6", "7"]


def test_a_full_disk_keeps_the_checkpoints(copied: Path, monkeypatch: pytest.MonkeyPatch):
    """A write that fails is one sentence, and both checkpoints stay."""

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(HuggingFaceStorageWriter, "write_data", full)
    with pytest.raises(RunError, match=r"No space left.*checkpoint of step 6 is kept"):
        resume(copied)
    assert folders(copied) == ["4", "6"]


def test_a_model_is_written_tensor_by_tensor(tmp_path: Path):
    """The file has the bytes that the library writes of all tensors at once."""
    tensors = {"b.weight": torch.arange(6.0).view(2, 3), "a": torch.ones(3), "c": torch.zeros(1, 1)}
    tensors["s"] = torch.tensor(3.0)
    for metadata in ({"format": "pt"}, {"state": '{"a": "é\\"\\n"}'}, {}):
        save_tensors(tmp_path / "whole", tensors, metadata)
        assert (tmp_path / "whole").read_bytes() == save(tensors, metadata)
    save_tensors(tmp_path / "whole", tensors, {"format": "pt"})
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    save_streamed(tmp_path / "streamed", shapes, (tensors[name] for name in sorted(tensors)))
    assert (tmp_path / "streamed").read_bytes() == (tmp_path / "whole").read_bytes()
