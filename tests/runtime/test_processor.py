"""What the processor says that it multiplies."""

from __future__ import annotations

import itertools

import pytest
import torch

from kullback.runtime import processor
from kullback.runtime.processor import multiplies


def test_float32_and_float64_are_multiplied() -> None:
    """On every processor."""
    assert multiplies(torch.float32)
    assert multiplies(torch.float64)


def test_the_processor_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """On x86, the instructions of AVX-512 or AMX, not what torch emulates."""
    monkeypatch.setattr(processor.platform, "machine", lambda: "x86_64")
    for used, avx, amx in itertools.product(("AVX2", "AVX512"), (False, True), (False, True)):
        # With ATEN_CPU_CAPABILITY=avx2 torch uses less than the processor has.
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda used=used: used)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda able=avx: able)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda able=amx: able)
        assert processor.multiplies_bfloat16() == ((avx or amx) and used == "AVX512")
        ends = ["AVX512-BF16"] * avx + ["AMX"] * amx if used == "AVX512" else []
        assert processor.arithmetic_of_processor().split(", ") == [used, *ends]


def test_other_processors_are_asked_through_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is not x86, what torch's own products say decides."""
    monkeypatch.setattr(processor.platform, "machine", lambda: "aarch64")
    for able in (False, True):
        monkeypatch.setattr(processor, "multiplies", lambda dtype, able=able: able)
        assert processor.multiplies_bfloat16() == able
        assert processor.arithmetic_of_processor().split(", ")[1:] == ["bfloat16"] * able
