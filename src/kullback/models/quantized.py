"""``MODEL@SCHEME``: a model that is quantised on the way in, and its size.

``FOLDER@int4-g32`` is the model that ``kullback quantise FOLDER --scheme int4-g32`` saves: the
weights are those of the scheme, the arithmetic is that of the model
(`kullback.models.quantization`).
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from kullback.errors import InvalidValueError, MissingExtraError, RunError
from kullback.models.huggingface import HuggingFaceModel
from kullback.models.interface import TextModel
from kullback.models.load import load_text_model, quiet_loggers, quiet_transformers
from kullback.models.mini_gpt import GPTTextModel
from kullback.models.quantization import Scheme, linear_weights, quantise_layers, size_in_bytes

__all__ = ["SizedModel", "apply_scheme", "load_named", "save_quantised", "split_scheme"]


@dataclass(frozen=True, eq=False)
class SizedModel:
    """A model and what its weights take."""

    model: TextModel
    size_bytes: int
    """Of the scheme's numbers packed to their bits and the scales, and of the rest as it is."""


def split_scheme(name: str) -> tuple[str, Scheme | None]:
    """The model's own name and its scheme, from ``MODEL@SCHEME``; an existing path is a model.

    >>> split_scheme("runs/mine@int4-g32")
    ('runs/mine', Scheme(bits=4, group=32, floating=None))
    >>> split_scheme("runs/mine")
    ('runs/mine', None)
    """
    base, at, scheme = name.rpartition("@")
    if not at or Path(name).exists():
        return name, None
    return base, Scheme.parse(scheme)


def load_named(
    name: str,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
) -> SizedModel:
    """The model called `name`, with a scheme applied where the name ends in one.

    Raises as `kullback.models.load.load_text_model` and `kullback.models.quantization.quantise` do.
    """
    base, scheme = split_scheme(name)
    model = load_text_model(base, dtype, device, trust_remote_code)
    return apply_scheme(model, scheme)


def apply_scheme(model: TextModel, scheme: Scheme | None) -> SizedModel:
    """`model` with its weights quantised; a `transformers` model is changed in place."""
    if isinstance(model, GPTTextModel):
        if scheme is None:
            return SizedModel(model, size_in_bytes(model.gpt))
        gpt = copy.deepcopy(model.gpt)
        size = quantise_layers(gpt, scheme)
        return SizedModel(replace(model, gpt=gpt, name=f"{model.name}@{scheme.name}"), size)
    if not isinstance(model, HuggingFaceModel):
        raise InvalidValueError(f"{model.name} cannot be quantised: its weights are not here")
    if scheme is None:
        return SizedModel(model, size_in_bytes(model.model))
    with torch.no_grad():
        size = quantise_layers(model.model, scheme)
    name = f"{model.name}@{scheme.name}"
    return SizedModel(replace(model, name=name, _fingerprint=[]), size)


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
