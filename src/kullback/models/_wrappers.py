"""Models that read images, too, and predict text: their text models are measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kullback.errors import InvalidValueError, KullbackError
from kullback.models._loading_errors import DOES_NOT_FIT, first_sentence
from kullback.models.huggingface import HuggingFaceModel
from kullback.runtime.memory import is_out_of_memory
from kullback.text.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

__all__ = ["auto_class", "model_class", "of_text_alone", "reads_images", "wrapped"]


def auto_class(config: PreTrainedConfig) -> Any:
    """The class of transformers that loads a model of this configuration.

    Some causal language models are part of one that reads images, too, which is then loaded whole.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    return AutoModelForImageTextToText if reads_images(config) else AutoModelForCausalLM


def model_class(config: PreTrainedConfig) -> Any:
    """The class of the model itself."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    mapping = (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        if reads_images(config)
        else MODEL_FOR_CAUSAL_LM_MAPPING
    )
    return mapping[type(config)]


def reads_images(config: PreTrainedConfig) -> bool:
    """Whether only a class that reads images, too, predicts text after text with it."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    return (
        type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING
        and type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        and not getattr(config, "is_encoder_decoder", False)
    )


def of_text_alone(name: str, model: PreTrainedModel) -> list[str]:
    """A note where only a part of the model reads text."""
    if model.config.get_text_config(decoder=True) is model.config:
        return []
    return [
        f"{name} is a {type(model).__name__}, which reads more than text: its text model was "
        "measured, on text alone"
    ]


def wrapped(
    model: PreTrainedModel, tokenizer: TextTokenizer, name: str, longest: float | None
) -> HuggingFaceModel:
    """The model ready to be measured; one sentence where it cannot read a text alone.

    `longest` is as for `HuggingFaceModel.wrap`, which raises as this does.
    """
    try:
        return HuggingFaceModel.wrap(model, tokenizer, name, longest)
    except KullbackError:
        raise
    # Of any class: it is the model's own code that runs.
    except Exception as error:
        if is_out_of_memory(error):
            raise InvalidValueError(f"the model {name} {DOES_NOT_FIT}") from error
        raise InvalidValueError(
            f"the model {name} ({type(model).__name__}) cannot read a text in {model.dtype} "
            f"({type(error).__name__}: {first_sentence(error)}): try another --dtype, or choose a "
            "model of text"
        ) from error
