"""Models by name, or as transformers loaded them, ready to be measured.

Where a name leads is said in `kullback.models.locate`.  Everything that is wrong with a model is
one sentence, before anything is measured.  Code that comes with a model runs only on request.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from kullback.errors import InvalidValueError
from kullback.models._context import configured_context
from kullback.models._llama_cpp_library import is_installed
from kullback.models._loading_errors import DOES_NOT_FIT
from kullback.models.devices import best_device, check_device, own_device
from kullback.models.from_transformers import load_from_transformers
from kullback.models.gguf import dequantised, load_llama_cpp
from kullback.models.gguf_asserts import check_asserts
from kullback.models.interface import TextModel
from kullback.models.llama_cpp import read_tokenizer
from kullback.models.llama_cpp_options import Backend, split_gguf
from kullback.models.locate import Location, locate, read_json
from kullback.models.mini_gpt import GPTTextModel
from kullback.models.placement import DeviceMap, Place, check_device_map
from kullback.models.quantized import SizedModel, apply_scheme, sized, split_scheme
from kullback.models.quiet import no_steps
from kullback.runtime.memory import is_out_of_memory
from kullback.runtime.progress import Steps
from kullback.runtime.wording import with_article
from kullback.runtime.workers import local_processes
from kullback.text.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from kullback.models.huggingface import HuggingFaceModel

__all__ = [
    "context_alone",
    "load_sized",
    "load_text_model",
    "model_name",
    "tokenizer_alone",
    "torch_dtype",
]

DOES_NOT_FIT_TO_BE_QUANTISED = (
    "does not fit into memory, where it is loaded before it is quantised: choose 16 bits (dtype "
    "bfloat16) or more memory, or load the folder that kullback quantise wrote elsewhere"
)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def load_sized(
    model: str | Path | tuple[PreTrainedModel, PreTrainedTokenizerBase] | TextModel | SizedModel,
    dtype: str | torch.dtype | None = None,
    device: torch.device | str = "auto",
    trust_remote_code: bool = False,
    progress: Steps = no_steps,
    backend: Backend | None = None,
    device_map: DeviceMap | None = None,
) -> SizedModel:
    """The model that `model` names or is, and the size of its weights.

    `model` is a name (a run folder, a Hugging Face folder or hub name, a ``.gguf`` file; a scheme
    may follow, as in ``MODEL@int4-g32``), a pair of a `transformers` model and its tokenizer, a
    `TextModel`, or what this function returned.  A name is loaded in `dtype` (``"bfloat16"`` or
    `torch.bfloat16`; None or ``"auto"`` is float32 on a CPU and the type of the stored weights
    elsewhere) on `device` (``"auto"`` is `best_device()`), or spread by `device_map` (``"auto"``,
    or accelerate's mapping of modules to devices).  A loaded model is used as it is: `dtype` and
    `device` must be its own or left out; `HuggingFaceModel.wrap` puts it in evaluation mode and
    freezes its weights.

    `progress` is told how many of the weights are loaded, then how many layers are quantised.
    `backend` is what runs a ``.gguf`` file whose name does not say it (`load_text_model`).

    Raises `InvalidValueError` where `model` is none of these, where it does not fit into memory,
    where `dtype` or `device` is unknown or not that of a loaded model, and as `load_text_model` and
    `apply_scheme` do.
    """
    dtype = torch_dtype(dtype)
    if isinstance(model, str | Path):
        name, scheme = split_scheme(str(model))
        if scheme is not None:  # only weights that are here are quantised further
            backend = "transformers"
            Place(torch.device("cpu"), device_map).check_stored(str(model), "quantises them")
        try:
            named = load_text_model(
                name, dtype, device, trust_remote_code, progress, backend, device_map
            )
            return apply_scheme(named, scheme, progress)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            why = DOES_NOT_FIT if scheme is None else DOES_NOT_FIT_TO_BE_QUANTISED
            raise InvalidValueError(f"the model {model} {why}") from error
    model_name(model)
    if isinstance(model, tuple):
        loaded: TextModel = _wrap_pair(*model)
    else:
        loaded = model.model if isinstance(model, SizedModel) else model
    if dtype not in (None, loaded.dtype):
        raise InvalidValueError(
            f"dtype is {dtype}: {loaded.name} is loaded already, in {loaded.dtype}; leave dtype "
            "out, or convert the model first (model.to(dtype))"
        )
    if device_map is not None:
        raise InvalidValueError(
            f"device_map is {device_map}: {loaded.name} is loaded already; leave it out"
        )
    if device != "auto":
        check_device(device)
        if not _same_device(torch.device(device), loaded.device):
            raise InvalidValueError(
                f"device is {device}: {loaded.name} is on {loaded.device} already; leave device "
                "out, or move the model first (model.to(device))"
            )
    return model if isinstance(model, SizedModel) else sized(loaded)


def model_name(
    model: str | Path | tuple[PreTrainedModel, PreTrainedTokenizerBase] | TextModel | SizedModel,
) -> str:
    """What to call a model before it is loaded; `InvalidValueError` where it is no model.

    >>> model_name("runs/mine@int8")
    'runs/mine@int8'
    """
    if isinstance(model, str | Path):
        return str(model)
    if isinstance(model, SizedModel):
        return model.model.name
    if isinstance(model, tuple):
        if len(model) == 2 and hasattr(model[0], "forward") and hasattr(model[1], "decode"):
            return str(getattr(model[0], "name_or_path", "") or type(model[0]).__name__)
    elif hasattr(model, "weights_fingerprint"):
        return model.name
    raise InvalidValueError(
        f"model is {with_article(type(model).__name__)}: give a name, a path, or a pair of a "
        "transformers model and its tokenizer, (model, tokenizer)"
    )


def load_text_model(
    name: str,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
    progress: Steps = no_steps,
    backend: Backend | None = None,
    device_map: DeviceMap | None = None,
) -> TextModel:
    """The model called `name`, with its tokenizer.

    `dtype` is the type of weights and body; None is float32 on a CPU and the type of the stored
    weights elsewhere.  The head is always computed in float32 (float64 where the body is).

    A ``.gguf`` file runs in llama.cpp where that is installed, or where its name or `backend` says
    so, else its weights are dequantised and run in transformers, with a note.

    A `device_map` spreads the model of transformers; `device` is then "auto".

    Raises `InvalidValueError` (or `RunError` for a run folder) saying in one sentence what is
    missing, damaged, unknown, out of reach, or does not fit; `MissingExtraError` without
    transformers.
    """
    location = locate(name)
    backend = _backend(location, backend)
    if device_map is not None:
        _check_spread(name, device, backend, device_map)
    if backend == "llama.cpp":
        return load_llama_cpp(location, dtype, device)
    device = best_device() if device == "auto" else own_device(device)
    check_device(device)
    # The mini-GPT rotates by complex numbers, which have no 16-bit type; a run folder is a Hugging
    # Face folder, too.
    if (
        location.path
        and location.is_run
        and not location.has_adapter
        and device_map is None
        and dtype in (None, torch.float32, torch.float64)
    ):
        return GPTTextModel.load(location.path, dtype, device)
    place = Place(device, device_map)
    loaded = load_from_transformers(location, dtype, place, trust_remote_code, progress)
    return loaded if location.gguf is None else dequantised(loaded, location)


def tokenizer_alone(
    model: object, backend: Backend | None = None
) -> Callable[[], TextTokenizer] | None:
    """Reads the tokenizer of a .gguf file that llama.cpp runs; None for any other model.

    Raises as `load_text_model` does.
    """
    if not isinstance(model, str | Path):
        return None
    base, scheme = split_scheme(str(model))
    if scheme is not None or not split_gguf(base)[0].endswith(".gguf"):
        return None
    location = locate(base)
    if location.header is None or _backend(location, backend) != "llama.cpp":
        return None
    check_asserts(location.header)
    return partial(read_tokenizer, location.header)


def context_alone(model: object) -> int | None:
    """The longest input that the `config.json` of a model's folder names, in tokens.

    None for any other model, and where none is named.  Raises as `load_text_model` does.
    """
    if not isinstance(model, str | Path):
        return None
    folder = Path(split_scheme(str(model))[0])
    if not (folder / "config.json").is_file():
        return None
    config = read_json(folder / "config.json")
    text_config = config.get("text_config")
    return configured_context(text_config if isinstance(text_config, dict) else config)


def _check_spread(
    name: str, device: torch.device | str, backend: Backend, device_map: DeviceMap
) -> None:
    """Raise where the model called `name` cannot be spread as `device_map` says."""
    check_device_map(device_map, name)
    if device != "auto":
        raise InvalidValueError(
            f"device (--device) is {device}, and device_map (--device-map) chooses devices: leave "
            "out one of the two"
        )
    if backend == "llama.cpp":
        raise InvalidValueError(
            f"device_map (--device-map) spreads models of transformers, and {name} runs in "
            "llama.cpp, which spreads it itself (FILE.gguf@ngl=N): leave it out"
        )
    if local_processes()[1] > 1:
        raise InvalidValueError(
            "device_map (--device-map) gives one process all devices, and torchrun starts several: "
            "start the program without torchrun, or leave it out"
        )


def _backend(location: Location, wanted: Backend | None) -> Backend:
    """What runs the model; raises `InvalidValueError` where a name and an option differ."""
    if location.gguf is None:
        return "transformers"
    if location.backend is not None and wanted not in (None, location.backend):
        raise InvalidValueError(
            f"{location.name} is run by {location.backend}, and backend (--backend) is {wanted}: "
            "leave out one of the two"
        )
    return location.backend or wanted or ("llama.cpp" if is_installed() else "transformers")


def torch_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """The floating-point type of torch that `dtype` names or is."""
    if dtype is None or dtype == "auto":
        return None
    result = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(result, torch.dtype) or result not in DTYPES:
        names = ", ".join(["auto", *(str(known).removeprefix("torch.") for known in DTYPES)])
        raise InvalidValueError(f"dtype is {dtype!r}: it must be one of {names}")
    return result


def _same_device(wanted: torch.device, actual: torch.device) -> bool:
    return wanted.type == actual.type and wanted.index in (None, actual.index)


def _wrap_pair(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> HuggingFaceModel:
    """A model and a tokenizer that transformers loaded, ready to be measured."""
    from kullback.models._tokenizers import tokenizer_of_pair
    from kullback.models.huggingface import HuggingFaceModel

    name = str(getattr(model.config, "_name_or_path", "")) or type(model).__name__
    longest = getattr(tokenizer, "model_max_length", None)
    return HuggingFaceModel.wrap(model, tokenizer_of_pair(tokenizer), name, longest)
