"""Adapters (LoRA and its relatives) of the library peft, merged into the weights of their model.

An adapter is a folder, or a name on the hub, with adapter_config.json and
adapter_model.safetensors.  Where there are weights beside them it adapts these; otherwise its
configuration names the model.
The adapter is always applied, and always by peft: whether peft is installed decides only between a
number and an error.

Merging computes ``W + B·A`` in float32 and then runs the model as any other.  Before that the
adapted model predicts a few tokens: a merged model that predicts others is refused.  So are
adapters that are no change of weights (prompts, prefixes), adapters that peft would not load whole,
and settings that the installed version of peft does not know.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from kullback.errors import InvalidValueError, MissingExtraError
from kullback.models.locate import ADAPTER_CONFIG, TOKENIZERS, Location, locate, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["NO_ADAPTER", "Adapter", "apply_adapter", "find_adapter"]

#: For `from_pretrained`, which applies adapters by itself where peft is installed: a folder in
#: which it finds none.
NO_ADAPTER = {"subfolder": "no-adapter-here"}
# Settings that `PeftConfig.save_pretrained` adds, and that change no number.
ADDED = {"auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"}
# How far the merged logits may be from the adapted ones, over the largest: float32 differs by the
# order of sums.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Adapter:
    """Where an adapter and its model are."""

    name: str
    """As the user wrote it."""
    source: str
    """The folder or hub name that peft loads from."""
    settings: Mapping[str, object]
    base: Location | None
    """The model that it adapts; None where the weights are beside the adapter."""
    has_tokenizer: bool
    """Whether a tokenizer is beside it: that of its training, with the tokens that were added."""

    @property
    def kind(self) -> str:
        """peft's name of the method, such as LORA."""
        return str(self.settings.get("peft_type", "of an unnamed kind"))


def find_adapter(location: Location) -> Adapter | None:
    """The adapter at `location`, or None where there is none.

    Raises `InvalidValueError` where its configuration is damaged, names no model, or a model that
    is not there, `MissingExtraError` without peft.
    """
    if location.gguf is not None:
        return None
    path = location.path / ADAPTER_CONFIG if location.path else _cached(location)
    if path is None or not path.is_file():
        return None
    settings = read_json(path)
    alone = location.holds_only_adapter if location.path else not _has(location, "config.json")
    base = _base(location, settings) if alone else None
    _check_settings(location.name, settings)
    has_tokenizer = any(_has(location, file) for file in TOKENIZERS) or (
        location.path is not None and any(location.path.glob("*.tiktoken"))
    )
    return Adapter(location.name, location.source, settings, base, has_tokenizer)


def _cached(location: Location) -> Path | None:
    """The adapter's configuration on the hub or in its cache, if there is one."""
    from transformers.utils.peft_utils import find_adapter_config_file

    path = find_adapter_config_file(location.source)
    return Path(path) if path else None


def _has(location: Location, file: str) -> bool:
    """Whether the file is there, or on the hub."""
    if location.path is not None:
        return (location.path / file).is_file()
    from transformers.utils.hub import cached_file

    return bool(
        cached_file(
            location.source,
            file,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    )


def _base(location: Location, settings: Mapping[str, object]) -> Location:
    """The model that an adapter without weights beside it names."""
    named = settings.get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise InvalidValueError(
            f"the adapter {location.name} names no model: write that which it was trained on into "
            f"base_model_name_or_path of its {ADAPTER_CONFIG}"
        )
    # As peft reads it, or beside the adapter, where a folder was moved with its model.
    beside = location.path.parent / named if location.path else None
    if beside and not Path(named).exists() and beside.is_dir():
        named = str(beside)
    try:
        base = locate(named)
    except InvalidValueError as error:
        raise InvalidValueError(
            f"the adapter {location.name} belongs to the model {named} (base_model_name_or_path in "
            f"its {ADAPTER_CONFIG}), which cannot be used: {error}"
        ) from None
    if base.path is not None and location.path is not None and base.path.samefile(location.path):
        raise InvalidValueError(
            f"the adapter {location.name} names itself as its model: write that which it was "
            f"trained on into base_model_name_or_path of its {ADAPTER_CONFIG}"
        )
    return base


def _check_settings(name: str, settings: Mapping[str, object]) -> None:
    """Raise for adapters that cannot be merged, and for settings that peft would ignore."""
    try:
        import peft
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    except ImportError as error:
        raise MissingExtraError(
            f"the model {name} has an adapter ({ADAPTER_CONFIG}), which needs peft: "
            "pip install 'kullback[peft]'"
        ) from error
    kind, kinds = settings.get("peft_type"), cast("dict[object, Any]", PEFT_TYPE_TO_CONFIG_MAPPING)
    upgrade = f"the installed peft {peft.__version__} does not know: pip install --upgrade peft"
    if kind not in kinds:
        raise InvalidValueError(f"the adapter {name} is of a kind, {kind}, that {upgrade}")
    task = settings.get("task_type")
    if task not in (None, "CAUSAL_LM"):
        raise InvalidValueError(
            f"the adapter {name} was trained for the task {task}, not to predict text (CAUSAL_LM): "
            "choose another adapter"
        )
    kind_of_settings = kinds[kind]
    if kind_of_settings().is_prompt_learning or kind_of_settings().is_adaption_prompt:
        raise InvalidValueError(
            f"the adapter {name} is of the kind {kind}, which adds inputs instead of changing "
            "weights, and moves the positions of the text: it cannot be measured; give the model "
            "without it"
        )
    known = {setting.name for setting in dataclasses.fields(kind_of_settings)} | ADDED
    unknown = sorted(key for key, value in settings.items() if key not in known and value)
    if unknown:
        raise InvalidValueError(f"the adapter {name} has a setting, {unknown[0]}, that {upgrade}")


def apply_adapter(model: PreTrainedModel, adapter: Adapter) -> PreTrainedModel:
    """`model`, in float32 or float64, with the adapter merged into its weights.

    Raises `InvalidValueError` where the adapter does not fit the model, and where the merged model
    does not predict what the adapted one does.
    """
    from peft import PeftModel
    from peft.utils.save_and_load import load_peft_weights

    if getattr(model, "hf_quantizer", None) is not None:
        raise InvalidValueError(
            f"the adapter {adapter.name} belongs to a model whose weights are quantised, and would "
            "be rounded with them: write the name of the model that is not quantised into "
            f"base_model_name_or_path of its {ADAPTER_CONFIG}"
        )
    stored: dict[str, Tensor] = load_peft_weights(adapter.source, device="cpu")
    _add_tokens(model, stored, adapter)
    try:
        # What it warns of is refused here, or done here.
        with warnings.catch_warnings(action="ignore"):
            adapted: Any = PeftModel.from_pretrained(
                model, adapter.source, autocast_adapter_dtype=False
            )
    # peft's classes of errors for layers that are not there, and weights of other shapes.
    except (ValueError, RuntimeError, KeyError) as error:
        raise InvalidValueError(
            f"the adapter {adapter.name} does not fit its model ({str(error).splitlines()[0]}): "
            "give the adapter of this model"
        ) from error
    _check_loaded(adapted, stored, adapter)
    adapted.train(False)
    probe = torch.arange(min(8, model.config.get_text_config(decoder=True).vocab_size))[None]
    with torch.inference_mode():
        before: Tensor = adapted.base_model.model(input_ids=probe, use_cache=False).logits
    was_tied = bool(model.config.get_text_config(decoder=True).tie_word_embeddings)
    if was_tied:
        _untie(adapted)
    try:
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            merged: Any = adapted.merge_and_unload()
    # What peft raises where a kind of adapter has no merge, or not into this kind of layer.
    except (AttributeError, NotImplementedError, ValueError, TypeError) as error:
        raise InvalidValueError(
            f"the adapter {adapter.name} is of the kind {adapter.kind}, which peft cannot merge "
            f"into the weights of this model ({error}): give the model without it"
        ) from error
    with torch.inference_mode():
        after: Tensor = merged(input_ids=probe, use_cache=False).logits
    largest = max(float(before.abs().max()), 1e-30)
    change = float((after - before).abs().max()) / largest
    if not change <= TOLERANCE:
        raise InvalidValueError(
            f"the adapter {adapter.name} cannot be merged into its model: the logits would differ "
            f"by {change:.1e} of the largest from those of the model with the adapter beside it"
        )
    if was_tied:
        _tie_if_equal(merged)
    return merged  # type: ignore[no-any-return]


def _untie(model: nn.Module) -> None:
    """Give each layer a weight of its own: an adapter of the embedding must not change the head."""
    seen: set[int] = set()
    for layer in model.modules():
        weight = layer._parameters.get("weight")
        if weight is not None and id(weight) in seen:
            layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        seen.add(id(weight))


def _tie_if_equal(model: PreTrainedModel) -> None:
    """Let the head be the embedding again where they are equal, and say which in the settings."""
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call] # theirs
    embedding: Any = model.get_input_embeddings()
    tied = torch.equal(head.weight, embedding.weight)
    if tied:
        head.weight = embedding.weight
    for config in (model.config, model.config.get_text_config(decoder=True)):
        config.tie_word_embeddings = tied


def _add_tokens(model: PreTrainedModel, stored: Mapping[str, Tensor], adapter: Adapter) -> None:
    """Give embedding and head as many rows as those that the adapter's files bring."""
    rows = {
        len(weight)
        for key, weight in stored.items()
        if key.endswith(("embed_tokens.weight", "wte.weight", "lm_head.weight"))
        and weight.ndim == 2
    }
    embedding: Any = model.get_input_embeddings()
    if not rows or rows == {len(embedding.weight)}:
        return
    if len(rows) > 1:
        raise InvalidValueError(
            f"the adapter {adapter.name} is damaged: its embedding and its head have "
            f"{min(rows):,} and {max(rows):,} rows; download it again"
        )
    model.resize_token_embeddings(rows.pop(), mean_resizing=False)


def _places(key: str) -> tuple[str, ...]:
    """Where peft has a whole layer of an adapter's file, an embedding for example."""
    return (
        key,
        key.replace(".weight", ".base_layer.weight"),
        key.replace(".modules_to_save.", ".modules_to_save.default."),
    )


def _check_loaded(adapted: Any, stored: Mapping[str, Tensor], adapter: Adapter) -> None:
    """Raise unless every weight of the files is in the model, and every one of peft's in the files.

    peft only warns of both, and leaves at random what is missing.
    """
    from peft.utils.save_and_load import get_peft_model_state_dict

    with warnings.catch_warnings(action="ignore"):
        wanted: dict[str, Tensor] = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    whole: dict[str, Tensor] = adapted.state_dict()
    missing = sorted(key for key in wanted if key not in stored)
    unused = sorted(
        key
        for key, weight in stored.items()
        if key not in wanted
        and not any(
            place in whole and torch.equal(whole[place].float(), weight.float())
            for place in _places(key)
        )
    )
    if missing or unused:
        what = (
            f"lacks {missing[0]}"
            if missing
            else f"has {unused[0]}, which the model has no place for"
        )
        raise InvalidValueError(
            f"the adapter {adapter.name} does not fit its model ({len(missing) + len(unused)} of "
            f"its weights): it {what}; give the adapter of this model, or a whole one"
        )
