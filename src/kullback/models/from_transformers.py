"""Loading through transformers: configuration, tokenizer, weights, each with its own errors.

Code that comes with a model runs only on request.  What transformers refuses with a bare
`ValueError` is seen beforehand in the configuration: code of the model's own, an unknown type of
model, one that is not a causal language model.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch

from kullback.errors import InvalidValueError, MissingExtraError
from kullback.models._implementations import pin_implementations
from kullback.models._known_kinds import check_architecture, unknown_kind
from kullback.models._loading_errors import explained, first_sentence, not_streamed
from kullback.models._loading_report import check_complete, unused_weights
from kullback.models._tokenizers import check_files, text_tokenizer
from kullback.models._wrappers import (
    auto_class,
    model_class,
    of_text_alone,
    reads_images,
    wrapped,
)
from kullback.models.adapters import NO_ADAPTER, Adapter, apply_adapter, find_adapter
from kullback.models.devices import check_dtype
from kullback.models.gguf_in_transformers import (
    check_placed,
    check_readable,
    header_defaults,
    load_tokenizer,
    loading_options,
    prepare,
    release_quantiser,
)
from kullback.models.hub import check_reachable
from kullback.models.huggingface import HuggingFaceModel
from kullback.models.locate import Location
from kullback.models.placement import ON_CPU, Place, is_spread, placement_note
from kullback.models.prequantized import StoredForm, stored_form, without_form
from kullback.models.quiet import no_steps, quiet_loggers, quiet_transformers
from kullback.models.streamed_weights import Loader
from kullback.models.weights_identity import WeightsIdentity, stored_key
from kullback.runtime.progress import Steps

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Pretrained", "load_from_transformers", "load_pretrained"]

OWN_CODE = (
    "comes with code of its own, which is not run unless asked: read its .py files, then add "
    "--trust-remote-code"
)

# Models that are in memory, by what identifies their files and by their device: of the same files
# again, to be quantised, the same tokenizer is read, and `HuggingFaceModel.wrap` finds the same.
_tried: WeakValueDictionary[tuple[str, torch.device], HuggingFaceModel] = WeakValueDictionary()


@dataclass(frozen=True, eq=False)
class Pretrained:
    """What transformers loaded."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    notes: tuple[str, ...]
    name: str = ""
    """What to call it where that is not the location's name: of a model with an adapter."""
    file_bytes: int | None = None
    """The size of the files of weights that were dequantised; None for others."""
    tokenizer_of: Location | None = None
    """Where the tokenizer is from where that is another place: an adapter's model."""


def load_from_transformers(
    location: Location,
    dtype: torch.dtype | None,
    place: Place,
    trust_remote_code: bool,
    progress: Steps = no_steps,
) -> HuggingFaceModel:
    """The model at `location`, ready to be measured; raises as `load_pretrained` does."""
    if dtype is None and place.device.type == "cpu":
        dtype = torch.float32
    read_at = time.time()
    loaded = load_pretrained(location, dtype, trust_remote_code, progress, place)
    # Code of the model's own, and an adapter, make other weights of the same files.
    known = not (loaded.name or trust_remote_code)
    key = stored_key(location, loaded.model, read_at) if known else None
    same = None if key is None or is_spread(loaded.model) else _tried.get((key, place.device))
    with explained(location, "tokenizer"):
        tokenizer = (
            text_tokenizer(loaded.tokenizer_of or location, loaded.tokenizer)
            if same is None
            else same.tokenizer
        )
    # The type that transformers declares for `to` is not that of torch.
    model: Any = loaded.model
    check_dtype(model.dtype, place.device)
    if not is_spread(model):
        with explained(location, "weights"):
            model = model.to(place.device)
    gguf = location.gguf
    name = loaded.name or (gguf.name if gguf else location.name)
    if same is not None and same.name == name:
        return replace(same.of_same_weights(model), _identity=WeightsIdentity(key))
    # At the first prediction it advises to install kernels, which would not be used.
    with quiet_transformers():
        longest = getattr(loaded.tokenizer, "model_max_length", None)
        ready = wrapped(model, tokenizer, name, longest)
    ready = replace(
        ready,
        _identity=ready._identity.stored_as(key),
        notes=(*ready.notes, *loaded.notes, *placement_note(name, model)),
        file_bytes=location.header.file_bytes if location.header else loaded.file_bytes,
    )
    if key is not None:
        _tried[key, place.device] = ready
    return ready


def load_pretrained(
    location: Location,
    dtype: torch.dtype | None,
    trust_remote_code: bool,
    progress: Steps = no_steps,
    place: Place = ON_CPU,
    loader: Loader | None = None,
) -> Pretrained:
    """Model and tokenizer as transformers loads them; `dtype` None is that stored.

    Weights in torch's own types are read straight to `place`; what is computed of the files first
    (GGUF, quantised forms, adapters, which are merged into the weights: `kullback.models.adapters`)
    is on the CPU.  `loader` gives the class that loads a model layer by layer, which none of these
    forms allows.

    Raises `InvalidValueError` where the model is missing, damaged, of an unknown kind, out of reach
    or needs code of its own to be run; `MissingExtraError` where a library is not installed.
    """
    _check_installed(location)
    if location.header is not None:
        check_readable(location.header)
    with quiet_loggers(), quiet_transformers():
        check_reachable(location)
        with explained(location, "configuration"):
            adapter = find_adapter(location)
    if adapter is not None or location.gguf is not None:
        what = "has an adapter" if adapter is not None else "is a .gguf file"
        place.check_stored(location.name, what)
    if adapter is None:
        return _load(location, dtype, trust_remote_code, progress, place, loader)
    if loader is not None:
        raise not_streamed(location.name, "an adapter is merged into its weights")
    # The sum of weight and adapter is computed in float32 and then rounded.
    wide = dtype if dtype in (None, torch.float64) else torch.float32
    loaded = (
        _load(location, wide, trust_remote_code, progress)
        if adapter.base is None
        else _load_base(adapter, adapter.base, wide, trust_remote_code, progress)
    )
    # The type that transformers declares for `to` is not that of torch.
    model: Any = loaded.model
    narrow, tokenizer = dtype or model.dtype, loaded.tokenizer
    base = loaded.name or (adapter.base or location).name
    tokenizer_of = loaded.tokenizer_of or adapter.base
    with quiet_loggers(), quiet_transformers():
        if adapter.base is not None and adapter.has_tokenizer:
            tokenizer = _tokenizer(location, model.config, trust_remote_code)
            tokenizer_of = None
        with explained(location, "weights"):
            model = apply_adapter(model.to(wide or torch.float32), adapter)
            model = model.to(narrow)
    note = f"the adapter {adapter.name} ({adapter.kind}) is merged into the weights of {base}"
    return Pretrained(
        model,
        tokenizer,
        (*loaded.notes, note),
        name=f"{base} + adapter {adapter.name}",
        tokenizer_of=tokenizer_of,
    )


def _load_base(
    adapter: Adapter,
    base: Location,
    dtype: torch.dtype | None,
    trust_remote_code: bool,
    progress: Steps,
) -> Pretrained:
    """The model that an adapter names: its weights, without an adapter that is beside them."""
    _check_installed(base)
    with quiet_loggers(), quiet_transformers():
        check_reachable(base)
        with explained(base, "configuration"):
            other = find_adapter(base)
    if other is None or other.base is not None:
        return load_pretrained(base, dtype, trust_remote_code, progress)
    loaded = _load(base, dtype, trust_remote_code, progress)
    note = (
        f"the adapter beside the weights of {base.name} is not used: {adapter.name} names its "
        "model, and is applied to the weights alone"
    )
    return replace(loaded, notes=(*loaded.notes, note))


def _load(
    location: Location,
    dtype: torch.dtype | None,
    trust_remote_code: bool,
    progress: Steps,
    place: Place = ON_CPU,
    loader: Loader | None = None,
) -> Pretrained:
    """The model at `location` without an adapter."""
    name = location.name
    with quiet_loggers(), quiet_transformers(progress, gguf=location.gguf is not None):
        config = _configuration(location, trust_remote_code)
        pinned = pin_implementations(name, config)
        # Before the weights: it is small, and fails at once where the weights take minutes.
        tokenizer = _tokenizer(location, config, trust_remote_code)
        if location.header is not None:
            with explained(location, "configuration"):
                prepare(location.header, config)
        form = stored_form(location, config)
        if loader is not None and form is not None:
            raise not_streamed(name, "its weights are quantised")
        options: dict[str, Any] = {"dtype": dtype or "auto", "trust_remote_code": trust_remote_code}
        stored = dtype or config.dtype
        if isinstance(stored, torch.dtype):
            check_dtype(stored, place.device)
        if location.gguf:
            options |= loading_options(location.gguf.name)
        elif form is None:
            options |= place.options
        else:
            place.check_stored(name, "is quantised")
        source: str | None = location.source
        file_bytes = None
        if form is not None and form.dequantises:
            source, options["dtype"] = None, dtype or config.dtype or torch.float32
            options["state_dict"], file_bytes = form.weights(location, options["dtype"])
            without_form(config)
        with header_defaults(location.header):
            model, report = _from_pretrained(location, source, config, form, options, loader)
        check_complete(name, report)
        if location.header is not None:
            check_placed(location.header, sorted(report.get("unexpected_keys") or ()))
            release_quantiser(model)
    notes = [
        *pinned,
        *of_text_alone(name, model),
        *unused_weights(name, report),
        *([form.note(model.dtype)] if form else []),
    ]
    return Pretrained(model, tokenizer, tuple(notes), file_bytes=file_bytes)


def _from_pretrained(
    location: Location,
    source: str | None,
    config: PreTrainedConfig,
    form: StoredForm | None,
    options: dict[str, Any],
    streaming: Loader | None,
) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    """The model with the weights of `source`, or of the options, and what is missing or unused."""
    loader = (streaming or auto_class)(config)
    if source is None:
        # It looks for files even where there is no name.
        loader = model_class(config)
        if loader.config_class is not type(config):
            config = config.get_text_config(decoder=True)
        options.pop("trust_remote_code")
    else:
        options["adapter_kwargs"] = NO_ADAPTER
    try:
        with explained(location, "weights"):
            # transformers declares the answer without the second half that we ask for.
            answer: Any = loader.from_pretrained(
                source,
                # Each reading of a GGUF file's header takes seconds.
                config=config,
                output_loading_info=True,
                # Weights of other shapes are an error of its own, which names the first.
                ignore_mismatched_sizes=True,
                **options,
            )
    except InvalidValueError as error:
        if form is None or form.dequantises or error.__cause__ is None:
            raise
        raise form.unusable(f"transformers: {first_sentence(error.__cause__)}") from error
    model, report = answer
    return model, report


def _tokenizer(
    location: Location, config: PreTrainedConfig, trust_remote_code: bool
) -> PreTrainedTokenizerBase:
    """The tokenizer at `location`, of a model with `config`."""
    from transformers import AutoTokenizer

    try:
        check_files(location)
        with explained(location, "tokenizer"):
            tokenizer: PreTrainedTokenizerBase = (
                load_tokenizer(location.header)
                if location.header is not None
                else AutoTokenizer.from_pretrained(
                    location.source, config=config, trust_remote_code=trust_remote_code
                )
            )
    except InvalidValueError:
        if not trust_remote_code and not location.gguf and _tokenizer_has_code(location):
            raise InvalidValueError(f"the model {location.name} {OWN_CODE}") from None
        raise
    return tokenizer


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
            check_architecture(name, location.header.architecture)
        raise
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or reads_images(config):
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
    raise unknown_kind(name, str(model_type))


def _tokenizer_has_code(location: Location) -> bool:
    """Whether the tokenizer's configuration names code of its own."""
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    try:
        stored = get_tokenizer_config(location.source)
    # It is asked only after a failure, which is shown where this fails, too.
    except Exception:
        return False
    return bool(stored.get("auto_map"))
