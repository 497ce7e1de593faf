"""The longest input of a transformers model: what its configuration and its weights allow.

Architectures with an embedding of positions read as many tokens as it has rows, less those before
the first token's: RoBERTa's first position is row 2 of `max_position_embeddings`, OPT's is row 2 of
two more.  The row is not looked up by the name of the architecture: a short input shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.overrides import TorchFunctionMode

from kullback.models.placement import computing_device

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

__all__ = ["configured_context", "context_of", "context_probe"]

NAMES = (
    "max_position_embeddings", "n_positions", "max_seq_len", "context_length",
    "max_target_positions", "n_ctx",
)  # fmt: skip
# Of a tokenizer; transformers writes 10³⁰ where it knows none.
LONGEST = 10_000_000
PROBE_TOKENS = 4


def configured_context(config: PreTrainedConfig | Mapping[str, object]) -> int | None:
    """The longest input that the configuration names; None where it names none."""
    for name in NAMES:
        value = config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def context_of(model: PreTrainedModel, of_tokenizer: float | None = None) -> int | None:
    """The longest input of a model, in tokens; None where nothing limits it.

    `of_tokenizer` is the `model_max_length` of its tokenizer, which counts where the configuration
    names no length.
    """
    config = model.config.get_text_config(decoder=True)
    context = configured_context(config)
    if context is None and of_tokenizer is not None and 0 < of_tokenizer <= LONGEST:
        context = int(of_tokenizer)
    limits = [limit for limit in (context, *_positions(model)) if limit is not None]
    return min(limits, default=None)


def context_probe(model: PreTrainedModel, device: torch.device) -> Int[Tensor, "1 T"]:
    """The input with which `context_of` tries a model."""
    config = model.config.get_text_config(decoder=True)
    # Some do not count padding as a position.
    token = 1 if getattr(config, "pad_token_id", None) == 0 else 0
    return torch.full((1, PROBE_TOKENS), token, device=device)


def _positions(model: PreTrainedModel) -> list[int]:
    """How many positions each embedding of positions has."""
    matrix = model.get_output_embeddings()  # type: ignore[no-untyped-call] # theirs
    inputs_1T = context_probe(model, computing_device(model, matrix))
    with torch.inference_mode(), _Lookups() as lookups:
        model(input_ids=inputs_1T, use_cache=False)
    own = model.get_input_embeddings()
    token_weight = getattr(own, "weight", None)
    ascending = torch.arange(PROBE_TOKENS)
    limits = []
    for rows_T, weight in lookups.made:
        if weight is token_weight or rows_T.shape[-1:] != (PROBE_TOKENS,):
            continue
        first = rows_T.flatten()[:PROBE_TOKENS].cpu()
        if torch.equal(first - first[0], ascending):
            limits.append(weight.shape[0] - int(first[0]))
    return limits


class _Lookups(TorchFunctionMode):
    """Notes the rows that are looked up in embeddings, and the embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        arguments: tuple[Any, ...] = (),
        named: dict[str, Any] | None = None,
    ) -> Any:
        """Call it, and note what an embedding was asked for."""
        if function is torch.nn.functional.embedding and len(arguments) > 1:
            self.made.append((arguments[0], arguments[1]))
        return function(*arguments, **(named or {}))
