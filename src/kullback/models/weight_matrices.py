"""The matrices of a model that multiply activations, and the weights that no scheme changes.

A scheme quantises the matrices of these layers, but not the head:

- ``nn.Linear``, (out, in);
- ``Conv1D`` of GPT-2, which keeps (in, out) and is shown transposed;
- experts that are one parameter of three axes: (experts, out, in), or (experts, in, out), which is
  shown transposed.  Each expert is quantised by itself.

Of a model that reads images, too, only those of its text model are quantised: nothing else reads
the text.  A matrix that several layers share counts once, and one that is also the embedding is the
embedding's.  Embeddings, the head, routers that are no ``nn.Linear``, convolutions (Mamba),
normalisation weights and biases are left as they are; `unquantised_weights` lists them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from kullback.results.quantised import UnquantisedWeights

__all__ = [
    "WeightMatrix",
    "modules_of",
    "unquantised_weights",
    "weight_matrices",
    "weights_count",
]

# Experts of transformers that do not say how their parameters are laid out: whether (in, out).
EXPERTS = {"Llama4TextExperts": True, "JetMoeParallelExperts": False}


@dataclass(frozen=True, eq=False)
class WeightMatrix:
    """A matrix that multiplies activations, or those of all experts of a layer."""

    name: str
    """Of its layer; of experts, of their parameter."""
    parameter: str
    matrix: Float[Tensor, "*experts out in"]
    """A view into the model."""
    is_linear: bool
    """Whether the layer is an ``nn.Linear``: torchao and transformers quantise no other."""


def modules_of(model: object) -> list[nn.Module]:
    """The modules of torch that a model consists of; none where another library runs it."""
    return [part for part in getattr(model, "__dict__", {}).values() if isinstance(part, nn.Module)]


def weights_count(model: object) -> int:
    """The numbers in the weights of a model, each shared one once; 0 where it has no modules."""
    return sum(weight.numel() for part in modules_of(model) for weight in part.parameters())


def weight_matrices(model: nn.Module) -> list[WeightMatrix]:
    """The matrices that a scheme quantises, in the order of the layers, each shared one once."""
    embeddings = {
        id(layer.weight)
        for layer in (_part(model, "get_output_embeddings"), _part(model, "get_input_embeddings"))
        if isinstance(getattr(layer, "weight", None), Tensor)
    }
    matrices: list[WeightMatrix] = []
    seen = set(embeddings)
    text = _text_model(model)
    for name, layer in model.named_modules():
        if not f"{name}.".startswith(text):
            continue
        for key, parameter in layer.named_parameters(recurse=False):
            matrix = _matrix(layer, key, parameter)
            if matrix is None or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            full = f"{name}.{key}" if name else key
            shown = full if parameter.ndim == 3 else name
            matrices.append(WeightMatrix(shown, full, matrix, isinstance(layer, nn.Linear)))
    return matrices


def _text_model(model: nn.Module) -> str:
    """The beginning of the names of the text model's layers; empty where that is all."""
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "get_text_config") or config.get_text_config(decoder=True) is config:
        return ""
    text = config.get_text_config(decoder=True)
    names = [
        name for name, part in model.named_modules() if name and getattr(part, "config", 0) is text
    ]
    # Layers have the configuration, too; the outermost is first.
    return f"{names[0]}." if names else ""


def _matrix(layer: nn.Module, key: str, parameter: Tensor) -> Tensor | None:
    """The parameter as (out, in), or None where it is no such matrix."""
    if parameter.ndim == 2 and key == "weight":
        if isinstance(layer, nn.Linear):
            return parameter.detach()
        if type(layer).__name__ == "Conv1D":
            return parameter.detach().T
    if parameter.ndim == 3:
        transposed = EXPERTS.get(type(layer).__name__)
        if transposed is None and hasattr(layer, "is_concatenated"):
            # Set by the decorator of transformers' classes of experts.
            transposed = getattr(layer, "is_transposed", None)
        if transposed is not None:
            return parameter.detach().mT if transposed else parameter.detach()
    return None


def _part(model: nn.Module, method: str) -> Any:
    return getattr(model, method, lambda: None)()


def unquantised_weights(model: nn.Module) -> list[UnquantisedWeights]:
    """The weights that are in none of `weight_matrices`, by name, the most first.

    Layers that differ only in their numbers are one entry: ``model.layers.*.norm.weight``.
    """
    quantised = {matrix.parameter for matrix in weight_matrices(model)}
    total = sum(parameter.numel() for parameter in model.parameters())
    sizes: dict[str, int] = {}
    for name, parameter in model.named_parameters():  # each shared one once
        if name not in quantised:
            pattern = re.sub(r"(?<=\.)\d+(?=\.)", "*", name)
            sizes[pattern] = sizes.get(pattern, 0) + parameter.numel()
    return [
        UnquantisedWeights(name=name, weights=size, share=size / total)
        for name, size in sorted(sizes.items(), key=lambda item: -item[1])
    ]
