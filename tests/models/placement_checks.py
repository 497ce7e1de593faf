"""Checks of loading and placement on a GPU: ``python tests/models/placement_checks.py [cuda]``.

Prints seconds of loading and hashing, and fails where numbers or fingerprints differ.  A test runs
it on the CPU, where models are tiny and nothing is timed that matters.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from kullback.models import placement
from kullback.models.huggingface import HuggingFaceModel
from kullback.models.load import load_text_model
from kullback.models.placement import DeviceMap
from kullback.runtime.weights import weights_fingerprint
from tiny_models import tiny_llama

LAYERS = 4
Value = TypeVar("Value")


def save_model(folder: Path, width: int) -> None:
    """A random Llama in bfloat16; 2,048 wide it takes 0.5 GB."""
    torch.manual_seed(0)
    tiny_llama(folder)
    config = LlamaConfig(
        vocab_size=256, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=LAYERS,
        num_attention_heads=8, initializer_range=0.02,
    )  # fmt: skip
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)


def device_maps(device: str) -> list[DeviceMap]:
    """Whole, and with every other layer, the embedding and the head elsewhere."""
    main = 0 if device == "cuda" else "cpu"
    aside = "cpu" if device == "cuda" else "disk"
    layers = {f"model.layers.{i}": main if i % 2 else aside for i in range(LAYERS)}
    parts = {**layers, "model.embed_tokens": aside, "model.rotary_emb": main, "model.norm": main}
    return ["auto", *({**parts, "lm_head": place} for place in (main, aside, "disk"))]


def timed(what: str, compute: Callable[[], Value]) -> Value:
    """The value, after a line with the seconds that it took."""
    began = time.perf_counter()
    value = compute()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    print(f"{time.perf_counter() - began:8.2f} s  {what}", flush=True)
    return value


def load(folder: Path, device: str, device_map: DeviceMap | None = None) -> HuggingFaceModel:
    """The model in bfloat16."""
    model = load_text_model(str(folder), torch.bfloat16, device, device_map=device_map)
    assert isinstance(model, HuggingFaceModel)
    return model


def hashed(model: HuggingFaceModel) -> str:
    """The fingerprint, computed from the weights where they are."""
    owner = model.model
    return weights_fingerprint(
        owner.state_dict(), lambda name, weight: placement.read_weight(owner, name, weight)
    )


def check(device: str, width: int) -> None:
    """All checks; AssertionError where one fails."""
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["XDG_STATE_HOME"] = f"{temporary}/state"
        folder = Path(temporary) / "model"
        save_model(folder, width)
        load(folder, device)  # libraries and the device are there from here on
        whole = timed("loaded, straight to the device", lambda: load(folder, device))
        assert whole.device.type == device
        assert whole.factored
        expected = timed("hashed, from the device", lambda: hashed(whole))
        assert timed("hashed, from the host", lambda: hashed(load(folder, "cpu"))) == expected
        assert whole.weights_fingerprint() == expected
        ids_1T = torch.arange(60, device=device)[None]
        own = whole.predict(ids_1T).logits(slice(None))
        for device_map in device_maps(device):
            spread = load(folder, "auto", device_map)
            logits = timed("predicted, spread", lambda m=spread: m.predict(ids_1T)).logits(
                slice(None)
            )
            print(spread.device, *spread.notes, f"{float((logits - own).abs().max()):.1e}")
            assert spread.factored
            assert spread.device.type == device
            torch.testing.assert_close(logits, own, rtol=2e-2, atol=2e-2)
            assert hashed(spread) == expected
    print("all pass")


if __name__ == "__main__":
    named = sys.argv[1] if len(sys.argv) > 1 else "cuda"
    check(named, 2048 if named == "cuda" else 32)
