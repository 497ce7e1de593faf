"""From a name to a model that reads text.

========================  =====================================================================
name                      what is loaded
========================  =====================================================================
a folder, training.json   one of our runs (`kullback.models.mini_gpt`)
any other folder          a Hugging Face folder: config.json, weights, tokenizer
a file ending in .gguf    a llama.cpp model, its weights dequantised by transformers
anything else             a name on the Hugging Face hub, or in its cache on this machine
========================  =====================================================================

Everything that is wrong with a model is said here in one sentence, before anything is measured.
Code that comes with a model runs only on request.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kullback.errors import InvalidValueError, KullbackError, MissingExtraError
from kullback.models.devices import best_device, check_device
from kullback.models.interface import TextModel
from kullback.models.mini_gpt import GPTTextModel
from kullback.models.quantized import SizedModel, apply_scheme, sized, split_scheme
from kullback.runtime.memory import keep_freed_memory
from kullback.text.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from kullback.models.huggingface import HuggingFaceModel

__all__ = ["load_sized", "load_text_model", "quiet_loggers", "quiet_transformers"]

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
# Libraries that talk while they load; what they have to say of importance we find out ourselves.
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
TALKATIVE = ("torchao", "torch.utils._pytree", "huggingface_hub")


def load_sized(
    model: str | Path | tuple[PreTrainedModel, PreTrainedTokenizerBase] | TextModel,
    dtype: str | torch.dtype | None = None,
    device: torch.device | str = "auto",
    trust_remote_code: bool = False,
) -> SizedModel:
    """The model that `model` names or is, and the size of its weights.

    `model` is a name (a run folder, a Hugging Face folder or hub name, a ``.gguf`` file; a scheme
    may follow, as in ``MODEL@int4-g32``), a pair of a `transformers` model and its tokenizer, or a
    `TextModel`.  A name is loaded in `dtype` (``"bfloat16"`` or `torch.bfloat16`; None is float32
    on a CPU and the type of the stored weights elsewhere) on `device` (``"auto"`` is
    `best_device()`).  A loaded model is used as it is: `dtype` and `device` must be its own or left
    out; `HuggingFaceModel.wrap` puts it in evaluation mode and freezes its weights.

    Raises `InvalidValueError` where `dtype` or `device` is unknown or not that of a loaded model,
    and as `load_text_model` and `apply_scheme` do.
    """
    dtype = _torch_dtype(dtype)
    if isinstance(model, str | Path):
        name, scheme = split_scheme(str(model))
        device = best_device() if device == "auto" else device
        return apply_scheme(load_text_model(name, dtype, device, trust_remote_code), scheme)
    loaded = _wrap_pair(*model) if isinstance(model, tuple) else model
    if dtype not in (None, loaded.dtype):
        raise InvalidValueError(
            f"dtype is {dtype}: {loaded.name} is loaded already, in {loaded.dtype}; leave dtype "
            "out, or convert the model first (model.to(dtype))"
        )
    if device != "auto" and not _same_device(torch.device(device), loaded.device):
        raise InvalidValueError(
            f"device is {device}: {loaded.name} is on {loaded.device} already; leave device out, "
            "or move the model first (model.to(device))"
        )
    return sized(loaded)


def _torch_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """The floating-point type of torch that `dtype` names or is."""
    if dtype is None:
        return None
    result = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(result, torch.dtype) or result not in DTYPES:
        names = ", ".join(str(each).removeprefix("torch.") for each in DTYPES)
        raise InvalidValueError(f"dtype is {dtype!r}: it must be one of {names}")
    return result


def _same_device(wanted: torch.device, actual: torch.device) -> bool:
    return wanted.type == actual.type and wanted.index in (None, actual.index)


def _wrap_pair(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> HuggingFaceModel:
    """A model and a tokenizer that transformers loaded, ready to be measured."""
    from kullback.models.huggingface import HuggingFaceModel

    name = str(getattr(model.config, "_name_or_path", "")) or type(model).__name__
    return HuggingFaceModel.wrap(model, TextTokenizer.from_transformers(tokenizer), name)


def load_text_model(
    name: str,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
) -> TextModel:
    """The model called `name`, with its tokenizer.

    `dtype` is the type of weights and body; None is float32 on a CPU and the type of the stored
    weights elsewhere.  The head is always computed in float32 (float64 where the body is).

    Raises `InvalidValueError` (or `RunError` for a run folder) saying in one sentence what is
    missing, damaged, unknown, out of reach, or does not fit; `MissingExtraError` without
    transformers.

    On a CPU the process keeps freed memory from now on (`keep_freed_memory`).
    """
    check_device(device)
    model = _load_from(name, dtype, device, trust_remote_code)
    if torch.device(device).type == "cpu":
        keep_freed_memory()
    return model


def _load_from(
    name: str, dtype: torch.dtype | None, device: torch.device | str, trust_remote_code: bool
) -> TextModel:
    """The model, from wherever it lies."""
    path = Path(name).expanduser()
    # The mini-GPT rotates by complex numbers, of which there are none of 16 bits; a run folder is a
    # Hugging Face folder too.
    if (path / "training.json").is_file() and dtype in (None, torch.float32, torch.float64):
        return GPTTextModel.load(path, dtype, device)
    if path.is_file():
        if path.suffix != ".gguf":
            raise InvalidValueError(
                f"the model {name} is a file: give a folder, a .gguf file or a name on the hub"
            )
        source, gguf = path.absolute().parent, path.name
    else:
        source, gguf = path, None
        if path.is_dir():
            _check_folder(path, trust_remote_code)
        elif (
            path.is_absolute()
            or path.suffix == ".gguf"
            or name.startswith((".", "~"))
            or name.count("/") > 1
        ):
            raise InvalidValueError(f"there is no model at {name}: no such file or folder")
    on_hub = gguf is None and not path.is_dir()
    with quiet_loggers(), quiet_transformers():
        return _load(name, name if on_hub else str(source), gguf, dtype, device, trust_remote_code)


def _load(
    name: str,
    source: str,
    gguf: str | None,
    dtype: torch.dtype | None,
    device: torch.device | str,
    trust_remote_code: bool,
) -> HuggingFaceModel:
    try:
        if gguf:
            import gguf as _  # noqa: F401 - transformers asks for it late and in many words
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        from kullback.models.huggingface import HuggingFaceModel
    except ImportError as error:
        raise MissingExtraError(
            f"the model {name} needs {error.name}: pip install 'kullback[hf]'"
        ) from error
    where = {"gguf_file": gguf} if gguf else {}
    if dtype is None:
        dtype = torch.float32 if torch.device(device).type == "cpu" else None
    with _explained(name, "configuration"):
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code, **where)
    # The tokenizer first: it is small, and fails in a moment where the weights take minutes.
    with _explained(name, "tokenizer"):
        tokenizer = TextTokenizer.from_transformers(
            AutoTokenizer.from_pretrained(
                source, config=config, trust_remote_code=trust_remote_code, **where
            )
        )
    with _explained(name, "weights"):
        # transformers declares the answer without the second half that we ask for.
        answer: Any = AutoModelForCausalLM.from_pretrained(
            source,
            # Each reading of a GGUF file's header takes seconds.
            config=config,
            dtype=dtype or "auto",
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            **where,
        )
        model, found = answer
    _check_complete(name, found)
    name = Path(name).name if gguf else name
    wrapped = HuggingFaceModel.wrap(model.to(device), tokenizer, name)
    return replace(wrapped, notes=(*wrapped.notes, *_unused(name, found)))


def _check_folder(folder: Path, trust_remote_code: bool) -> None:
    """Raise `InvalidValueError` for what can be seen to be wrong without loading anything."""
    config = _read(folder / "config.json")
    own_code = config.get("auto_map") and not _known(config.get("model_type"))
    if own_code and not trust_remote_code:
        raise InvalidValueError(
            f"the model {folder} comes with code of its own, which is not run unless asked: "
            "read its .py files, then add --trust-remote-code"
        )
    if not any(any(folder.glob(pattern)) for pattern in WEIGHTS):
        raise InvalidValueError(f"the model {folder} has no weights: no model.safetensors in it")
    for index in folder.glob("*.index.json"):
        shards = _read(index).get("weight_map")
        if isinstance(shards, dict):
            missing = sorted({str(s) for s in shards.values() if not (folder / str(s)).is_file()})
            if missing:
                raise InvalidValueError(
                    f"the model {folder} is incomplete: {len(missing)} of "
                    f"{len(set(shards.values()))} shards are missing, the first is {missing[0]}; "
                    "download it again"
                )
    kinds = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
    if not any((folder / kind).is_file() for kind in kinds) and not any(folder.glob("*.tiktoken")):
        raise InvalidValueError(
            f"the model {folder} has no tokenizer: no tokenizer.json in it; copy it from the model "
            "that this one was made of"
        )


def _known(model_type: object) -> bool:
    if not find_spec("transformers"):
        return True
    from transformers.models.auto import configuration_auto

    return model_type in configuration_auto.CONFIG_MAPPING


def _read(path: Path) -> dict[str, object]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidValueError(
            f"{path.parent} is not a model: it has no {path.name}; give a folder of Hugging Face's "
            "form, a run of `kullback train`, a .gguf file or a name on the hub"
        ) from None
    except (OSError, ValueError) as error:
        raise InvalidValueError(f"{path} is damaged: {error}; download it again") from None
    if not isinstance(data, dict):
        raise InvalidValueError(f"{path} is damaged: it must hold a JSON object")
    return data


def _check_complete(name: str, found: dict[str, object]) -> None:
    """Raise where weights are missing: transformers makes them up at random and goes on."""
    missing = found.get("missing_keys")
    if isinstance(missing, set | list) and missing:
        raise InvalidValueError(
            f"the model {name} lacks {len(missing)} of its weights, the first is "
            f"{min(missing)}: it is damaged, or its config.json belongs to another model"
        )


def _unused(name: str, found: dict[str, object]) -> list[str]:
    """A note where the files hold weights that the configuration has no place for."""
    unused = found.get("unexpected_keys")
    if not isinstance(unused, set | list) or not unused:
        return []
    return [
        f"the configuration of {name} has no place for {len(unused)} of the weights in its files, "
        f"the first is {min(unused)}: the model runs without them"
    ]


@contextmanager
def _explained(name: str, part: str) -> Iterator[None]:
    """Turn what transformers raises, in many words, into one sentence."""
    try:
        yield
    except KullbackError:
        raise
    # Of whatever kind: safetensors, huggingface_hub, gguf and json each raise their own.
    except Exception as error:
        text = str(error)
        if "trust_remote_code" in text or "custom code" in text:
            why = (
                "comes with code of its own, which is not run unless asked: read it, then add "
                "--trust-remote-code"
            )
        elif "connect" in text or "offline mode" in text or "resolve" in text:
            why = (
                "is neither a folder nor in the cache of the Hugging Face hub, and the hub is out "
                "of reach: check the name and the connection, or download the model first"
            )
        elif "not a valid model identifier" in text or "Repo id" in text or "404" in text:
            why = "is neither a folder nor a name that the Hugging Face hub knows: check it"
        elif "ignore_mismatched_sizes" in text:
            why = (
                "has weights of other shapes than its config.json asks for: that belongs to "
                "another model"
            )
        elif "Unrecognized configuration class" in text:
            why = "is not a causal language model: transformers cannot predict text with it"
        elif "does not recognize this architecture" in text or "GGUF model with arch" in text:
            why = "is of a kind that this version of transformers does not know: update it"
        elif part == "tokenizer":
            why = f"has no tokenizer that can be read ({_first_sentence(error)})"
        else:
            seems = "its weights seem" if part == "weights" else f"its {part} seems"
            if name.endswith(".gguf"):
                seems = "the file seems"
            why = f"cannot be loaded, {seems} damaged ({_first_sentence(error)})"
        raise InvalidValueError(f"the model {name} {why}") from error


def _first_sentence(error: Exception) -> str:
    # All that a KeyError says is the key, as a rule.
    if isinstance(error, KeyError) and " " not in str(error):
        return f"{error} was looked for and not found"
    line = next((line for line in str(error).splitlines() if line.strip()), "")
    return line.split(". ")[0].strip().rstrip(".:") or type(error).__name__


@contextmanager
def quiet_loggers() -> Iterator[None]:
    """Silence the libraries' remarks, not their errors."""
    if find_spec("huggingface_hub"):
        # Imported later, it would set its level anew.
        import huggingface_hub.utils.logging  # noqa: F401
    loggers = [logging.getLogger(name) for name in TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no warnings from transformers, where it is installed."""
    if not find_spec("transformers"):
        yield
        return
    from transformers import modeling_gguf_pytorch_utils as gguf_loader
    from transformers.utils import logging as chatter

    # The loader of GGUF files draws a bar of its own, whatever is set.
    bar = gguf_loader.tqdm  # type: ignore[attr-defined] # theirs
    gguf_loader.tqdm = partial(bar, disable=True)  # type: ignore[attr-defined] # theirs
    level, bars = chatter.get_verbosity(), chatter.is_progress_bar_enabled()
    chatter.set_verbosity(logging.ERROR)
    chatter.disable_progress_bar()  # type: ignore[no-untyped-call] # theirs
    try:
        yield
    finally:
        gguf_loader.tqdm = bar  # type: ignore[attr-defined] # theirs
        chatter.set_verbosity(level)
        if bars:
            chatter.enable_progress_bar()  # type: ignore[no-untyped-call] # theirs
