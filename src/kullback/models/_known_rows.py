"""Ids of a tokenizer that a model has rows for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from kullback.errors import InvalidValueError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from kullback.text.tokenizer import TextTokenizer

__all__ = ["with_known_rows"]


def with_known_rows(
    model: PreTrainedModel, tokenizer: TextTokenizer, V: int, name: str
) -> TextTokenizer:
    """The tokenizer, with a note where it has ids that the model has no row for."""
    own = model.get_input_embeddings()
    weight = getattr(own, "weight", None)
    rows = min(V, weight.shape[0]) if isinstance(weight, Tensor) and weight.dim() == 2 else V
    if tokenizer.vocabulary_size <= rows:
        return tokenizer
    limited = tokenizer.with_rows(rows)
    if tokenizer.adds_bos and limited.bos_id is None:
        raise InvalidValueError(
            f"the tokenizer of {name} begins texts with the token {tokenizer.bos_id} and the model "
            f"has {rows} of them: they do not belong together; give the model's own tokenizer"
        )
    return limited.with_notes(
        f"the tokenizer of {name} has {tokenizer.vocabulary_size} ids and the model {rows}: no "
        "text was read that uses the others"
    )
