"""Quantised models on disk: folders that `transformers` loads, with torchao.

Integers and 8-bit floats are saved as torchao's tensors in safetensors, 16-bit floats as they are.
torchao has no packed form of the integers of `Scheme` that a CPU reads: each takes a byte.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kullback.errors import InvalidValueError
from kullback.models._quiet import quiet_loggers, quiet_transformers
from kullback.models.from_transformers import load_pretrained
from kullback.models.locate import locate
from kullback.models.quantization import (
    FLOATS,
    Scheme,
    check_not_quantised,
    linear_weights,
    packed_size_in_bytes,
    require_torchao,
)
from kullback.results.quantised import QuantisedFolder
from kullback.runtime.files import draft_folder
from kullback.runtime.locks import locked_output
from kullback.runtime.outputs import Output, check_outputs
from kullback.runtime.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["save_quantised"]


def save_quantised(
    name: str | Path,
    scheme: Scheme,
    folder: str | Path,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> QuantisedFolder:
    """Quantise the linear layers of the model `name` and save it as a folder.

    `progress` is told of two stages, and how many of the weights are done in each.  Raises
    `InvalidValueError` where the folder is not new or empty, the model cannot be loaded or the
    scheme does not fit its layers, `RunError` where the folder is in use or cannot be written,
    `MissingExtraError` without transformers or torchao.
    """
    check_outputs(Output("the output (-o)", folder, "new folder"), inputs=[name])
    if not scheme.is_cast:
        require_torchao()
    folder, progress = Path(folder), progress or Progress()
    progress.plan(2)
    with locked_output(folder):
        location = locate(str(name))
        progress.stage(f"loading {name}")
        loaded = load_pretrained(location, torch.float32, trust_remote_code, progress.advance)
        check_not_quantised(location.name, loaded.model)
        for layer, matrix in linear_weights(loaded.model):
            scheme.check_fits(layer, matrix.shape)
        progress.stage(f"quantising {name} to {scheme.name}")
        with (
            quiet_loggers(),
            quiet_transformers(progress.advance),
            draft_folder(folder) as draft,
        ):
            model = _quantised(loaded.model, scheme, draft / "original", location.name)
            shutil.rmtree(draft / "original", ignore_errors=True)
            model.save_pretrained(draft)
            loaded.tokenizer.save_pretrained(draft)
    sizes = {file.name: file.stat().st_size for file in folder.iterdir()}
    return QuantisedFolder(
        folder=str(folder),
        scheme=scheme.name,
        bytes_packed=packed_size_in_bytes(model),
        bytes_weights=sum(n for name, n in sizes.items() if name.endswith(".safetensors")),
        bytes_saved=sum(sizes.values()),
    )


def _quantised(
    model: PreTrainedModel, scheme: Scheme, original: Path, name: str
) -> PreTrainedModel:
    """The model with the weights of `scheme`, ready to be saved; `original` is a folder to use.

    Raises `InvalidValueError` where torchao leaves a layer as it is.
    """
    if scheme.floating is not None and scheme.is_cast:
        # The type that transformers declares for `to` is not that of torch.
        converted: Any = model
        converted = converted.to(FLOATS[scheme.floating])
        return converted  # type: ignore[no-any-return]
    from transformers import AutoModelForCausalLM, TorchAoConfig

    # transformers quantises while it reads from disk.
    model.save_pretrained(original)
    quantised: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        original, quantization_config=TorchAoConfig(scheme.torchao_config())
    )
    left = [
        layer
        for layer, _ in linear_weights(quantised)
        if not hasattr(quantised.get_submodule(layer).weight, "__tensor_flatten__")
    ]
    if left:
        raise InvalidValueError(
            f"the model {name} cannot be saved as {scheme.name}: torchao quantises only layers of "
            f"the class nn.Linear, and {len(left)} are of another, the first is {left[0]} "
            f"({type(quantised.get_submodule(left[0])).__name__}); save it as bf16 or fp16, or "
            f"measure {name}@{scheme.name} without saving it"
        )
    return quantised
