"""Whether a model's layers can be run one at a time: its data flow, read without its weights.

Layer by layer, only the hidden states that a layer returns are kept.  That gives the model's own
numbers where nothing else that depends on hidden states goes from one layer to another.  So the
model's own forward runs on a short input, with weights that have shapes and no numbers (torch's
meta device), while each operation is watched: layer i may read what it is given, what depends on
the token ids alone, and no older hidden state, whether that is handed over as an argument, in a
list or on a module.

Operations without weights among their inputs are computed as always (positions, masks), because
models decide by their values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from kullback.models.huggingface import output_matrix
from kullback.runtime.memory import is_out_of_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Layers", "Unstreamable", "find_layers"]

PROBE_TOKENS = 6
# Operations that make a new tensor and read only the shape and type of an old one.
CREATION = ("_like", "new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided")
LABEL = "_kullback_layer"


class Unstreamable(Exception):  # noqa: N818 - it is the reason, which the caller makes an error of
    """The reason why a model cannot be run layer by layer."""


@dataclass(frozen=True)
class Result:
    """What a layer returns: hidden states, or these before results that nothing reads."""

    kind: type[tuple[Any, ...]] | type[list[Any]] | None
    others: int = 0

    @classmethod
    def of(cls, result: Any) -> Result:
        """The form of a layer's result."""
        if isinstance(result, Tensor):
            return cls(None)
        return cls(list if isinstance(result, list) else tuple, len(result) - 1)

    def around(self, hidden: Tensor) -> Any:
        """Hidden states in that form, with None in place of the other results."""
        return hidden if self.kind is None else self.kind([hidden, *[None] * self.others])


@dataclass(frozen=True, eq=False)
class Layers:
    """The layers of a model, in the order in which they run."""

    modules: Sequence[nn.Module]
    name: str
    """Of the list that they are in, in the model."""
    results: Sequence[Result]
    """The form in which each returns its hidden states."""
    vocabulary_size: int
    """V, as the model's logits have it."""


def find_layers(model: PreTrainedModel) -> Layers:
    """The layers of `model`, whose weights are on the meta device, after its data flow is checked.

    Raises `Unstreamable` where there is no list of layers that run one after the other, where a
    layer reads more than what the layer before returned, and where the check cannot be made.
    """
    name, modules = _longest_list(model)
    watch = _Watch(modules)
    ids_1T = torch.arange(PROBE_TOKENS)[None]
    embedding: nn.Module = model.get_input_embeddings()
    with watch.layers(embedding), _experts_without_loops(model), torch.no_grad():
        try:
            with watch:
                logits = model(input_ids=ids_1T, use_cache=False, return_dict=True).logits
        except Unstreamable:
            raise
        # Of any class: it is the model's own code that runs, on tensors without numbers.
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise Unstreamable(
                f"its forward cannot be followed without weights ({type(error).__name__})"
            ) from error
    if watch.order != list(range(len(modules))):
        raise Unstreamable(f"the layers of {name} do not run one after the other, once each")
    return Layers(modules, name, tuple(watch.results), logits.shape[-1])


def _longest_list(model: PreTrainedModel) -> tuple[str, list[nn.Module]]:
    """The list of modules with the most weights in it, below the body of the model."""
    lists = {
        name: list(module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) > 0
    }
    if not lists or model.base_model is model or output_matrix(model) is None:
        raise Unstreamable("its body, the list of its layers, or its output matrix is not known")

    def weights(name: str) -> int:
        return sum(weight.numel() for layer in lists[name] for weight in layer.parameters())

    name = max(lists, key=weights)
    return name, lists[name]


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call] # theirs
    """Computes on the meta device what depends on weights, and labels it with its layer."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # theirs
        self._modules = modules
        self._now = 0
        self.order: list[int] = []
        self.results: list[Result] = []

    @contextmanager
    def layers(self, embedding: nn.Module) -> Iterator[None]:
        """Follow the embedding and the layers: their `forward` is replaced."""
        targets = [embedding, *self._modules]
        wrapped = [self._of_embedding(embedding)]
        wrapped += [self._of_layer(i, layer) for i, layer in enumerate(self._modules)]
        for module, forward in zip(targets, wrapped, strict=True):
            vars(module)["forward"] = forward
        try:
            yield
        finally:
            for module in targets:
                vars(module).pop("forward", None)

    def _of_embedding(self, embedding: nn.Module) -> Callable[..., Any]:
        forward = embedding.forward

        def run(*arguments: Any, **named: Any) -> Any:
            hidden = forward(*arguments, **named)
            setattr(hidden, LABEL, 0)
            return hidden

        return run

    def _of_layer(self, i: int, layer: nn.Module) -> Callable[..., Any]:
        forward = layer.forward

        def run(*arguments: Any, **named: Any) -> Any:
            hidden = arguments[0] if arguments else named.get("hidden_states")
            if not isinstance(hidden, Tensor):
                raise Unstreamable(f"layer {i} is not given hidden states first")
            self.order.append(i)
            self._now = i
            setattr(hidden, LABEL, i)
            result = forward(*arguments, **named)
            first = result[0] if isinstance(result, tuple | list) else result
            if not isinstance(first, Tensor) or first.shape != hidden.shape:
                raise Unstreamable(f"layer {i} does not return hidden states of its own shape")
            if first.dtype != hidden.dtype:
                raise Unstreamable(f"layer {i} returns hidden states of another type")
            # What follows may read this alone, as when layers run one at a time.
            self._now = i + 1
            setattr(first, LABEL, i + 1)
            self.results.append(Result.of(result))
            return result

        return run

    def __torch_dispatch__(
        self,
        function: Any,
        types: Sequence[type],
        arguments: tuple[Any, ...] = (),
        named_or_none: dict[str, Any] | None = None,
    ) -> Any:
        """Run one operation."""
        named = named_or_none or {}
        tensors = [value for value in tree_flatten((arguments, named))[0] if type(value) in TENSORS]
        on_meta = any(tensor.device.type == "meta" for tensor in tensors)
        name = str(function).split(".")[1]
        labels = [vars(tensor)[LABEL] for tensor in tensors if LABEL in vars(tensor)]
        if name.endswith(CREATION):
            labels = []
        if function._schema.is_mutable and isinstance(arguments[0], nn.Parameter):
            raise Unstreamable("its forward changes its weights")
        if any(label < self._now for label in labels):
            raise Unstreamable(
                f"layer {self._now} reads hidden states other than those that it is given"
            )
        device = named.get("device")
        if on_meta:
            arguments, named = tree_map(_to_meta, (arguments, named))
        if device is not None:
            # The ids are on the CPU, and so is all that is made of them alone.
            named["device"] = torch.device("meta" if on_meta else "cpu")
        result = function(*arguments, **named)
        if labels:
            for value in tree_flatten(result)[0]:
                if isinstance(value, Tensor):
                    setattr(value, LABEL, max(labels))
        return result


TENSORS = (Tensor, nn.Parameter)


def _to_meta(value: Any) -> Any:
    if isinstance(value, Tensor) and value.device.type != "meta" and value.dim() > 0:
        return torch.empty_like(value, device="meta")
    return value


@contextmanager
def _experts_without_loops(model: PreTrainedModel) -> Iterator[None]:
    """Experts in one product: their loops look at values that the router computes."""
    parts = [model.config, model.config.get_text_config(decoder=True)]
    before = [getattr(part, "_experts_implementation", None) for part in parts]
    try:
        with suppress(ValueError):  # of a model whose experts have one implementation
            model.set_experts_implementation("batched_mm")
        yield
    finally:
        for part, implementation in zip(parts, before, strict=True):
            if hasattr(part, "_experts_implementation"):
                part._experts_implementation = implementation
