"""The device and the type that a training is given."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kullback.errors import InvalidValueError
from kullback.models import _training_device, training_plan
from kullback.models._training_device import Hardware, device_of_resumed, training_hardware
from kullback.models.train import resume_training, train_model
from kullback.runtime import workers
from kullback.training.description import read_description
from kullback.training.progress import TrainingProgress
from tiny_runs import contents, weather

SIZES = {"width": 8, "layers": 1, "heads": 2, "mlp_width": 16, "threads": 1, "batch": 8}


def test_a_cpu_leaves_the_type_to_a_probe() -> None:
    """auto stays auto on a CPU; a type that is given is kept."""
    with training_hardware("cpu") as hardware:
        assert (hardware, hardware.first_dtype) == (
            Hardware(torch.device("cpu"), "auto"),
            "float32",
        )
    with training_hardware(torch.device("cpu"), torch.bfloat16) as hardware:
        assert hardware.dtype == "bfloat16"


@pytest.mark.parametrize(("able", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_an_accelerator_multiplies_bfloat16_where_it_can(
    able: bool, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """auto is decided by the device; bfloat16 that is not there is refused by name."""
    monkeypatch.setattr(_training_device, "check_device", lambda device: None)
    monkeypatch.setattr(_training_device, "_multiplies_bfloat16", lambda device: able)
    with training_hardware("mps") as hardware:
        assert hardware == Hardware(torch.device("mps"), dtype)
    if not able:
        with (
            pytest.raises(InvalidValueError, match=r"bfloat16.*mps.*float32"),
            training_hardware("mps", "bfloat16"),
        ):
            pass


@pytest.mark.parametrize("dtype", ["float16", torch.float64, "int8"])
def test_other_types_are_refused(dtype: object) -> None:
    """Training multiplies in two types."""
    with (
        pytest.raises(InvalidValueError, match="float32 or bfloat16"),
        training_hardware("cpu", dtype),  # type: ignore[arg-type]
    ):
        pass


@pytest.mark.parametrize(("available", "threads"), [(1, 1), (2, 2), (8, 2)])
def test_one_core_has_one_thread(
    available: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless more are given; two threads on a core would each compute half of a batch in turn."""
    monkeypatch.setattr(workers, "cores", lambda: available)
    hardware = Hardware(torch.device("cpu"), "float32")
    assert hardware.shards(None) == threads
    assert hardware.shards(3) == 3
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")  # each has its part of the cores
    assert hardware.shards(None) == min(2, max(1, available // 4))


def test_threads_are_of_a_cpu() -> None:
    """A GPU takes a batch at once, and refuses more than one."""
    cpu, gpu = Hardware(torch.device("cpu"), "auto"), Hardware(torch.device("cuda:0"), "float32")
    assert (cpu.shards(5), gpu.shards(None), gpu.shards(1)) == (5, 1, 1)
    with pytest.raises(InvalidValueError, match=r"threads.*4.*cuda:0.*--accumulate"):
        gpu.shards(4)


def test_a_device_that_is_missing_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    """The sentence names the device, though the text is not there either."""
    with pytest.raises(InvalidValueError, match="'cuda:99'"):
        train_model(tmp_path / "run", text=tmp_path / "missing.txt", device="cuda:99")
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_resumed_on_its_kind_of_device_where_that_is_here() -> None:
    """A CPU always is; another device falls back to the best one."""
    assert device_of_resumed("cpu") == "cpu"
    assert device_of_resumed("abacus") == "auto"


class Notes(TrainingProgress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Keep it."""
        self.notes.append(text)


def test_the_choice_is_in_the_description(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Device and type are recorded, and a finished run is measured in its own type."""
    monkeypatch.setattr(training_plan, "multiplies_bfloat16", lambda: False)
    weather(tmp_path)
    progress = Notes()
    source = str(tmp_path / "weather.toml")
    result = train_model(
        tmp_path / "run", source=source, steps=8, device="cpu", dtype="bfloat16",
        progress=progress, **SIZES,  # type: ignore[arg-type]
    )  # fmt: skip
    (note,) = progress.notes
    assert "does not multiply bfloat16" in note
    config = read_description(tmp_path / "run").config
    assert (config.device, config.dtype, config.compiled) == ("cpu", "bfloat16", False)
    before = contents(tmp_path / "run")
    again = resume_training(tmp_path / "run", device="cpu", progress=progress)
    assert again.cross_entropy == result.cross_entropy  # type: ignore[union-attr]
    assert contents(tmp_path / "run").keys() == before.keys()


def test_processes_of_torchrun_exchange_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """auto is a device that they can exchange tensors on; a GPU for all of them is refused."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(_training_device, "check_device", lambda device: None)
    monkeypatch.setattr(_training_device, "_multiplies_bfloat16", lambda device: True)
    for best, nccl, chosen in (("mps", False, "cpu"), ("cuda:1", False, "cpu")):
        monkeypatch.setattr(_training_device, "best_device", lambda best=best: torch.device(best))
        monkeypatch.setattr(_training_device, "is_nccl_available", lambda nccl=nccl: nccl)
        with training_hardware("auto") as hardware:
            assert hardware.device == torch.device(chosen)
    for device, remedy in (("mps", "give cpu"), ("cuda:1", "CUDA_VISIBLE_DEVICES")):
        with pytest.raises(InvalidValueError, match=remedy), training_hardware(device):
            pass
