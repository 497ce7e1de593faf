"""GGUF files of many architectures: transformers, the file through it, and llama.cpp agree."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gguf_architectures import MADE, made
from kullback.errors import InvalidValueError
from kullback.models.load import load_text_model
from llama_cpp_oracle import needs_llama_cpp

IDS = torch.randint(0, 256, (1, 40), generator=torch.Generator().manual_seed(3))
# Those whose conversion is more than new names.
FAST = ("falcon", "bloom", "gpt2", "mamba", "qwen2_moe", "lfm2")

# llama.cpp looks GELU up in a table of 16-bit floats.
GELU = ("falcon", "bloom", "gpt2", "gemma2", "gemma3", "starcoder2")


def nll(logits: torch.Tensor) -> torch.Tensor:
    """Return the negative log-probabilities of the tokens that follow, in nats."""
    log_q = torch.log_softmax(logits.double(), -1)
    return -log_q[:-1].gather(1, IDS[0, 1:, None])


def of_file(name: str) -> torch.Tensor:
    """Return those of a file."""
    return nll(load_text_model(name).predict(IDS).logits(slice(None)))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in MADE]
)
def test_weights_of_a_file_are_those_of_the_model(name: str, tmp_path: Path) -> None:
    """Tensors that llama.cpp stores in another form are converted back."""
    model, path = made(name, tmp_path / "m.gguf")
    with torch.inference_mode():
        right = nll(model(IDS).logits[0])
    torch.testing.assert_close(of_file(f"{path}@transformers"), right, rtol=0, atol=1e-5)


@needs_llama_cpp
@pytest.mark.slow
@pytest.mark.parametrize("name", MADE)
def test_llama_cpp_reads_the_same_file(name: str, tmp_path: Path) -> None:
    """With a cache in float32, up to the rounding of its softmax and activations."""
    model, path = made(name, tmp_path / "m.gguf")
    with torch.inference_mode():
        right = nll(model(IDS).logits[0])
    ours = of_file(f"{path}@ctk=f32,ctv=f32,fa=off")
    torch.testing.assert_close(ours, right, rtol=0, atol=3e-3 if name in GELU else 2e-4)


def test_an_architecture_that_transformers_does_not_read_names_llama_cpp(tmp_path: Path) -> None:
    """A newer transformers would not read it either."""
    _, path = made("phi3", tmp_path / "m.gguf")
    other = tmp_path / "other.gguf"
    other.write_bytes(path.read_bytes().replace(b"phi3", b"olmo"))
    with pytest.raises(InvalidValueError, match=r"olmo.*kullback\[gguf\]"):
        load_text_model(f"{other}@transformers")
