"""A model that runs a layer at a time over many inputs, by its own forward.

No forward is written here.  Every time the model's own runs as a whole, on the ids of one input:
the embedding and all layers but one are stand-ins, and the one layer is given the hidden states
that the model gave it for that input when the layer before ran.  So positions, masks and whatever
else the model derives from the ids are made anew by the model itself, and what comes between the
layers or after them (a scale, a norm, the head) is computed in the same way.

Stand-ins return NaN.  Where a layer should read more than it is given in spite of the check of
`kullback.models.layer_probe`, its results are NaN, which is noticed.

Axes: N sequences, T positions, D width.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from kullback.models.layer_probe import Layers
from kullback.models.length_scaling import LengthScaling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["LayerStream"]

EMBEDDING = -1


@dataclass(eq=False)
class _Call:
    """What a thread is computing."""

    at: int
    """The layer that runs; `EMBEDDING` before all."""
    hidden_NTD: Tensor | None = None
    """What it is given; once it has run, what the next layer is given, of the last its result."""


class LayerStream:
    """Runs parts of `model`, which after `install` is not usable otherwise; in several threads."""

    def __init__(self, model: PreTrainedModel, layers: Layers) -> None:
        self._model, self._layers = model, layers
        self._embedding: Any = model.get_input_embeddings()
        # Of the embedding's results, which an architecture may project to another width.
        weight: Any = self._embedding.weight
        self._columns = int(weight.shape[-1])
        self._dtype = model.dtype
        self._scaling = LengthScaling(model)
        self._local = threading.local()
        self._hidden_of: Callable[[Tensor], Tensor | None] | None = None

    def install(self) -> None:
        """Replace the `forward` of embedding and layers, for good."""
        forwards = [self._embed(self._embedding)]
        forwards += [self._layer(i, module) for i, module in enumerate(self._layers.modules)]
        modules = [self._embedding, *self._layers.modules]
        for module, forward in zip(modules, forwards, strict=True):
            vars(module)["forward"] = forward

    def known(
        self, hidden_of: Callable[[Int[Tensor, "N T"]], Float[Tensor, "N T D"] | None]
    ) -> None:
        """From now on calls of the model continue from what `hidden_of` gives for their ids.

        None stands for what the embedding's stand-in returned.
        """
        self._hidden_of = hidden_of

    @contextmanager
    def without_layers(self, head: nn.Module) -> Iterator[None]:
        """Inside, calls of the model compute neither embedding nor layers nor head."""
        vars(head)["forward"] = lambda hidden: hidden
        self.known(lambda ids_NT: None)
        try:
            yield
        finally:
            vars(head).pop("forward")

    def embed(self, ids_NT: Int[Tensor, "N T"]) -> Float[Tensor, "N T D"]:
        """The hidden states that the first layer is given; needs the embedding's weights."""
        return self._run(_Call(EMBEDDING), ids_NT)

    def layer(
        self, i: int, ids_NT: Int[Tensor, "N T"], hidden_NTD: Float[Tensor, "N T D"]
    ) -> Float[Tensor, "N T D"]:
        """The hidden states after layer `i`; needs its weights."""
        return self._run(_Call(i, hidden_NTD), ids_NT)

    def _run(self, call: _Call, ids_NT: Tensor) -> Tensor:
        self._local.call = call
        try:
            with torch.inference_mode(), self._scaling.anew():
                self._model.base_model(input_ids=ids_NT, use_cache=False, return_dict=True)
        finally:
            self._local.call = None
        assert call.hidden_NTD is not None, "the embedding and every layer run once"
        return call.hidden_NTD

    def _embed(self, embedding: nn.Module) -> Callable[..., Any]:
        own = embedding.forward

        def run(ids_NT: Tensor, *arguments: Any, **named: Any) -> Tensor:
            call: _Call | None = getattr(self._local, "call", None)
            if call is None:
                assert self._hidden_of is not None, "outside of a pass only known inputs are read"
                self._local.known = self._hidden_of(ids_NT)
            elif call.at == EMBEDDING:
                embedded: Tensor = own(ids_NT, *arguments, **named)
                self._columns, self._dtype = embedded.shape[-1], embedded.dtype
                return embedded
            shape = (*ids_NT.shape, self._columns)
            return torch.full(shape, float("nan"), dtype=self._dtype, device=ids_NT.device)

        return run

    def _layer(self, i: int, module: nn.Module) -> Callable[..., Any]:
        own, result, last = module.forward, self._layers.results[i], len(self._layers.modules) - 1

        def run(*arguments: Any, **named: Any) -> Any:
            call: _Call | None = getattr(self._local, "call", None)
            given = arguments[0] if arguments else named["hidden_states"]
            if call is None:
                if i == last and self._local.known is not None:
                    given = self._local.known
            elif call.at == i - 1:  # what the model has made of the embedding, or of that result
                call.hidden_NTD = given
            elif call.at == i:
                if arguments:
                    arguments = (call.hidden_NTD, *arguments[1:])
                else:
                    named["hidden_states"] = call.hidden_NTD
                returned = own(*arguments, **named)
                given = call.hidden_NTD = returned if result.kind is None else returned[0]
            return result.around(given)

        return run
