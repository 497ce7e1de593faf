"""Loading through transformers: configuration, tokenizer, weights, each with its own errors.

Code that comes with a model runs only on request.  What transformers refuses with a bare
`ValueError` is seen beforehand in the configuration: code of the model's own, an unknown type of
model, one that is not a causal language model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from kullback.errors import InvalidValueError, MissingExtraError
from kullback.models._hub import check_reachable
from kullback.models._loading_errors import explained
from kullback.models._quiet import no_steps, quiet_loggers, quiet_transformers
from kullback.models._tokenizers import text_tokenizer
from kullback.models.gguf_in_transformers import check_whole, load_tokenizer
from kullback.models.huggingface import HuggingFaceModel
from kullback.models.locate import Location
from kullback.runtime.progress import Steps

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Pretrained", "load_from_transformers", "load_pretrained"]

OWN_CODE = (
    "comes with code of its own, which is not run unless asked: read its .py files, then add "
    "--trust-remote-code"
)


@dataclass(frozen=True, eq=False)
class Pretrained:
    """What transformers loaded."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    notes: tuple[str, ...]


def load_from_transformers(
    location: Location,
    dtype: torch.dtype | None,
    device: torch.device | str,
    trust_remote_code: bool,
    progress: Steps = no_steps,
) -> HuggingFaceModel:
    """The model at `location`, ready to be measured; raises as `load_pretrained` does."""
    if dtype is None and torch.device(device).type == "cpu":
        dtype = torch.float32
    loaded = load_pretrained(location, dtype, trust_remote_code, progress)
    with explained(location, "tokenizer"):
        tokenizer = text_tokenizer(location, loaded.tokenizer)
    # The type that transformers declares for `to` is not that of torch.
    model: Any = loaded.model
    with explained(location, "weights"):
        model = model.to(device)
    gguf = location.gguf
    wrapped = HuggingFaceModel.wrap(model, tokenizer, gguf.name if gguf else location.name)
    return replace(
        wrapped,
        notes=(*wrapped.notes, *loaded.notes),
        file_bytes=location.header.file_bytes if location.header else None,
    )


def load_pretrained(
    location: Location,
    dtype: torch.dtype | None,
    trust_remote_code: bool,
    progress: Steps = no_steps,
) -> Pretrained:
    """Model and tokenizer as transformers loads them, on the CPU; `dtype` None is that stored.

    Raises `InvalidValueError` where the model is missing, damaged, of an unknown kind, out of reach
    or needs code of its own to be run; `MissingExtraError` where a library is not installed.
    """
    _check_installed(location)
    if location.header is not None:
        check_whole(location.header)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name, gguf = location.name, location.gguf
    files: dict[str, str] = {"gguf_file": gguf.name} if gguf else {}
    with quiet_loggers(), quiet_transformers(progress):
        check_reachable(location)
        config = _configuration(location, trust_remote_code)
        # Before the weights: it is small, and fails at once where the weights take minutes.
        try:
            with explained(location, "tokenizer"):
                tokenizer = (
                    load_tokenizer(location.header)
                    if location.header is not None
                    else AutoTokenizer.from_pretrained(
                        location.source, config=config, trust_remote_code=trust_remote_code
                    )
                )
        except InvalidValueError:
            if not trust_remote_code and not gguf and _tokenizer_has_code(location):
                raise InvalidValueError(f"the model {name} {OWN_CODE}") from None
            raise
        with explained(location, "weights"):
            # transformers declares the answer without the second half that we ask for.
            answer: Any = AutoModelForCausalLM.from_pretrained(
                location.source,
                # Each reading of a GGUF file's header takes seconds.
                config=config,
                dtype=dtype or "auto",
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                # Weights of other shapes are an error below, which names the first.
                ignore_mismatched_sizes=True,
                **files,
            )
        model, report = answer
        _check_complete(name, report)
    return Pretrained(model, tokenizer, tuple(_unused(name, report)))


def _check_installed(location: Location) -> None:
    """Raise `MissingExtraError` without transformers, or for a GGUF file without gguf."""
    for library in ("transformers", *(("gguf",) if location.gguf else ())):
        try:
            __import__(library)
        except ImportError as error:
            raise MissingExtraError(
                f"the model {location.name} needs {error.name or library}: "
                "pip install 'kullback[hf]'"
            ) from error


def _configuration(location: Location, trust_remote_code: bool) -> PreTrainedConfig:
    """The configuration, of a causal language model that transformers knows."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig
    from transformers import PreTrainedConfig as Configuration

    name, gguf = location.name, location.gguf
    files: dict[str, str] = {}
    if gguf is None:
        with explained(location, "configuration"):
            stored, _ = Configuration.get_config_dict(location.source)
        _check_configuration(name, stored, trust_remote_code, known=CONFIG_MAPPING)
    else:
        files["gguf_file"] = gguf.name
    try:
        with explained(location, "configuration"):
            config: PreTrainedConfig = AutoConfig.from_pretrained(
                location.source, trust_remote_code=trust_remote_code, **files
            )
    except InvalidValueError:
        if location.header is not None:
            _check_architecture(name, location.header.architecture)
        raise
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return config
    if "AutoModelForCausalLM" not in (getattr(config, "auto_map", None) or {}):
        raise InvalidValueError(
            f"the model {name} is not a causal language model: transformers cannot predict text "
            "with it; choose a model that was trained to predict the next token"
        )
    if not trust_remote_code:
        raise InvalidValueError(f"the model {name} {OWN_CODE}")
    return config


def _check_configuration(
    name: str, stored: Mapping[str, Any], trust_remote_code: bool, known: Mapping[str, object]
) -> None:
    """Raise `InvalidValueError` for a type of model that transformers cannot make."""
    model_type = stored.get("model_type")
    if model_type in known:
        return
    if "AutoConfig" in (stored.get("auto_map") or {}):
        if trust_remote_code:
            return
        raise InvalidValueError(f"the model {name} {OWN_CODE}")
    if model_type is None:
        raise InvalidValueError(
            f"the model {name} has no config.json that names a model_type: choose a model in the "
            "form that transformers loads"
        )
    raise _unknown_kind(name, str(model_type))


def _check_architecture(name: str, architecture: str) -> None:
    """Raise `InvalidValueError` where transformers does not list `architecture` for GGUF files.

    Only after a failure: it loads some that are not in its list.
    """
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    # llama.cpp's "qwen3moe" is "qwen3_moe" there.
    listed = {kind.replace("_", "") for kind in GGUF_SUPPORTED_ARCHITECTURES}
    if re.sub("[-_]", "", architecture) not in listed:
        raise _unknown_kind(name, architecture) from None


def _unknown_kind(name: str, kind: str) -> InvalidValueError:
    return InvalidValueError(
        f"the model {name} is of a kind, {kind}, that this version of transformers does not know: "
        "pip install --upgrade transformers"
    )


def _tokenizer_has_code(location: Location) -> bool:
    """Whether the tokenizer's configuration names code of its own."""
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    try:
        stored = get_tokenizer_config(location.source)
    # It is asked only after a failure, which is shown where this fails, too.
    except Exception:
        return False
    return bool(stored.get("auto_map"))


def _check_complete(name: str, report: Mapping[str, Any]) -> None:
    """Raise where weights are missing or misshapen: transformers fills them with random numbers."""
    misshapen, missing = report.get("mismatched_keys"), report.get("missing_keys")
    if misshapen:
        weight, stored, expected = min(misshapen)
        raise InvalidValueError(
            f"the model {name} has weights of other shapes than its config.json asks for: "
            f"{len(misshapen)}, the first is {weight}, {tuple(stored)} instead of "
            f"{tuple(expected)}; that file belongs to another model"
        )
    if missing:
        raise InvalidValueError(
            f"the model {name} lacks {len(missing)} of its weights, the first is {min(missing)}: "
            "it is damaged, or its config.json belongs to another model"
        )


def _unused(name: str, report: Mapping[str, Any]) -> list[str]:
    """A note where the files hold weights that the configuration has no place for."""
    unused = report.get("unexpected_keys")
    if not unused:
        return []
    return [
        f"the configuration of {name} has no place for {len(unused)} of the weights in its files, "
        f"the first is {min(unused)}: the model runs without them"
    ]
