"""Quantised models on disk: folders that `transformers` loads."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from kullback.errors import MissingExtraError, RunError
from kullback.models.load import load_text_model, quiet_loggers, quiet_transformers
from kullback.models.quantization import Scheme, linear_weights

__all__ = ["save_quantised"]


def save_quantised(name: str, scheme: Scheme, folder: Path, trust_remote_code: bool = False) -> int:
    """Quantise the model `name` and save it as a folder that `transformers` loads.

    Returns the bytes on disk.  Integers and 8-bit floats are saved as torchao's tensors in
    safetensors (a number of 4 bits takes a byte there), 16-bit floats as they are.  Raises
    `RunError` where the folder exists or cannot be written, `InvalidValueError` where the scheme
    does not fit, `MissingExtraError` without transformers or torchao.
    """
    if folder.exists():
        raise RunError(f"{folder} exists already: choose another folder with -o")
    # Whatever is wrong with the model, its loader says in one sentence.
    load_text_model(name, trust_remote_code=trust_remote_code)
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer, TorchAoConfig
    except ImportError as error:
        raise MissingExtraError(
            "quantising a model needs transformers: pip install 'kullback[hf,quantise]'"
        ) from error
    path = Path(name)
    gguf = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
    source = str(path.parent if gguf else name)
    with quiet_loggers(), quiet_transformers():
        loaded = AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, trust_remote_code=trust_remote_code, **gguf
        )
        tokenizer = AutoTokenizer.from_pretrained(
            source, trust_remote_code=trust_remote_code, **gguf
        )
        for layer, matrix in linear_weights(loaded):
            scheme.check_fits(layer, matrix.shape)
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Saved beside its place and moved there whole.
            with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as draft:
                plain = Path(draft) / "plain"
                if scheme.floating in ("bf16", "fp16"):
                    loaded.to(
                        getattr(torch, {"bf16": "bfloat16", "fp16": "float16"}[scheme.floating])
                    )
                else:
                    # Quantising, the loader reads from disk.
                    loaded.save_pretrained(plain)
                    loaded = AutoModelForCausalLM.from_pretrained(
                        plain, quantization_config=TorchAoConfig(scheme.torchao_config())
                    )
                made = Path(draft) / "made"
                loaded.save_pretrained(made)
                tokenizer.save_pretrained(made)
                os.replace(made, folder)
        except OSError as error:
            raise RunError(f"{folder} cannot be written: {error.strerror or error}") from error
    return sum(file.stat().st_size for file in folder.iterdir())
