"""Models larger than memory: all inputs pass through one layer, then through the next.

A layer's weights are read when all inputs have passed the layer before, and are freed after it; so
one layer is in memory at a time, or two where there is space to read ahead, and the embedding
before the layers and the head after them.  Numbers are those of the whole model, bit for bit, at
equal batches: the forward is the model's own (`kullback.models.layer_stream`), the weights are
converted by transformers (`kullback.models.streamed_weights`).

After the last layer the hidden states are kept, and the model is wrapped as any other: all checks
of `HuggingFaceModel.wrap` run on short inputs that passed through the layers with the text.

Axes: N sequences, T positions, D width, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kullback.errors import InvalidValueError
from kullback.models._context import context_of, context_probe
from kullback.models._loading_errors import explained
from kullback.models._probes import probes_of
from kullback.models.hidden_states import HiddenStates
from kullback.models.huggingface import (
    TOLERANCE,
    HuggingFaceModel,
    check_repeatable,
    distance,
    output_matrix,
    use_exact_experts,
    with_known_rows,
)
from kullback.models.layer_probe import Layers
from kullback.models.layer_stream import LayerStream
from kullback.models.locate import Location
from kullback.models.stream_plan import Plan, Sizes, estimated_seconds
from kullback.models.streamed_weights import Part, StreamedWeights
from kullback.predictions.base import Predictions
from kullback.runtime.fast_layers import FastLayers
from kullback.runtime.progress import Progress
from kullback.runtime.workers import ProcessGroup

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from kullback.text.tokenizer import TextTokenizer

__all__ = ["Inputs", "StreamedModel"]


class Inputs(Protocol):
    """Token ids that are read together, by their number."""

    @property
    def shapes(self) -> Sequence[tuple[int, int]]:
        """N and T of each."""

    def ids(self, i: int) -> Int[Tensor, "N T"]:
        """Input `i`."""


class StreamedModel:
    """A model whose layers are in memory one at a time: `stream` first, then `predictions`."""

    factored = True

    def __init__(
        self,
        location: Location,
        model: PreTrainedModel,
        layers: Layers,
        weights: StreamedWeights,
        tokenizer: TextTokenizer,
        longest: float | None,
        notes: Sequence[str],
    ) -> None:
        """`longest` is as for `HuggingFaceModel.wrap`, which raises as this does.

        Raises `InvalidValueError` where weights are damaged, too.
        """
        self.name, self.dtype, self.device = location.name, model.dtype, model.device
        self.vocabulary_size = layers.vocabulary_size
        self._location, self._model, self._weights = location, model, weights
        self._longest, self._loading_notes = longest, tuple(notes)
        self._own_tokenizer = tokenizer
        model.train(False).requires_grad_(False)
        use_exact_experts(model)
        self._embedding, self._layers, self._head, self._rest = _parts(model, layers)
        self._fast = FastLayers(model)
        self._stream = LayerStream(model, layers)
        self._load(self._rest)
        for name, buffer in list(model.named_buffers()):
            owner, _, attribute = name.rpartition(".")
            if not buffer.is_meta:
                setattr(model.get_submodule(owner), attribute, buffer.to(self.device))
        self.tokenizer = with_known_rows(model, tokenizer, self.vocabulary_size, self.name)
        self._stream.install()
        self._matrix: Any = output_matrix(model)
        self._text: _Text | None = None
        self._wrapped: HuggingFaceModel | None = None

    @cached_property
    def context(self) -> int | None:
        """The longest input; None where nothing limits it."""
        with self._stream.without_layers(self._matrix):
            return context_of(self._model, self._longest)

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of loading, and once there are predictions those of the whole model."""
        own = self.tokenizer.notes if self._wrapped is None else self._wrapped.notes
        return (*own, *self._loading_notes)

    @property
    def size_bytes(self) -> int:
        """What all weights take when they are loaded."""
        parts = [self._embedding, *self._layers, self._rest]
        if not set(self._weights.keys_of(self._head)) & set(self._weights.keys_of(self._embedding)):
            parts.append(self._head)
        return sum(map(self._weights.loaded_bytes, parts))

    @property
    def read(self) -> Sequence[str]:
        """The names in the files of all tensors that were read so far, in order."""
        return self._weights.read

    def weights_fingerprint(self) -> str:
        """SHA-256 of the files' headers, times and samples: all of them are not read twice."""
        return self._weights.fingerprint

    def predict(self, inputs_NT: Int[Tensor, "N T"]) -> Predictions:
        """Not possible: raises `InvalidValueError`."""
        raise InvalidValueError(
            f"{self.name} is read layer by layer, and reads its text as a whole: leave out --stream"
        )

    def predictions(self, i: int) -> Predictions:
        """Those at all N·T positions of input `i` of the last `stream`, row by row.

        The first call loads the head, and checks the model as `HuggingFaceModel.wrap` does.
        """
        wrapped = self._wrapped or self._wrap()
        with self._stream.after_layers(self.text.hidden[i]):
            return wrapped.predict(self.text.ids(i).to(self.device))

    @property
    def text(self) -> _Text:
        """What it reads."""
        assert self._text is not None, "a text passes through the layers first"
        return self._text

    def stream(self, inputs: Inputs, at_once: int, progress: Progress) -> None:
        """Let all inputs pass through all layers, `at_once` of them at a time.

        Raises `InvalidValueError` where weights are damaged, or a layer reads more than the layer
        before returns; `RunError` where there is no space for the hidden states.
        """
        probes = probes_of(self._model, self._own_tokenizer, self.device)
        # The first one twice: what is random differs.
        probes += [context_probe(self._model, self.device), probes[0]]
        self._text = text = _Text(inputs, probes)
        began = time.perf_counter()
        self._load(self._embedding)
        reading = time.perf_counter() - began
        first_NTD = self._stream.embed(text.probes[0])
        plan = self._plan(first_NTD, reading, progress)
        text.hidden = HiddenStates(
            text.shapes, first_NTD.shape[2:], first_NTD.dtype, self.device, plan.place
        )
        self._map(self._stream.embed, at_once, lambda done: None)
        self._weights.free(self._embedding)
        fast = self._fast
        for i, part in enumerate(self._layers):
            self._load(part)
            if plan.ahead and i + 1 < len(self._layers):
                self._weights.read_ahead(self._layers[i + 1])
            if i == 0:
                fast = self._fastest()
            count = len(text.shapes)

            def advance(done: int, layer: int = i, count: int = count) -> None:
                progress.advance(layer * count + done, len(self._layers) * count)

            def run(ids_NT: Tensor, hidden_NTD: Tensor, layer: int = i) -> Tensor:
                return self._stream.layer(layer, ids_NT, hidden_NTD)

            with fast.use():
                self._map(run, at_once, advance, with_hidden=True)
            self._weights.free(part)
            self._check_numbers(i)
        first, again = (text.hidden[text.first_probe + i] for i in (0, len(probes) - 1))
        check_repeatable(again, first, self.dtype, self.name)

    def _plan(self, first_NTD: Tensor, reading: float, progress: Progress) -> Plan:
        """Where everything goes; `progress` is told before it starts."""
        weights, tokens = self._weights, self.text.tokens
        ends = [self._embedding, self._head]
        sizes = Sizes(
            read=sum(map(weights.stored_bytes, [*ends, *self._layers, self._rest])),
            kept=weights.loaded_bytes(self._rest),
            ends=max(map(weights.loaded_bytes, ends)),
            layer=max(map(weights.loaded_bytes, self._layers)),
            stored_layer=max(map(weights.stored_bytes, self._layers)),
            hidden=tokens * first_NTD[0, 0].numel() * first_NTD.dtype.itemsize,
        )
        plan = Plan.of(sizes, self.device)
        speed = max(weights.stored_bytes(self._embedding), 1) / max(reading, 1e-6)
        seconds = estimated_seconds(
            self.size_bytes // self.dtype.itemsize, tokens, sizes.read, speed, self.dtype,
            self.device,
        )  # fmt: skip
        progress.note(plan.announcement(self.name, len(self._layers), tokens, seconds))
        return plan

    def _map(
        self,
        run: Callable[..., Tensor],
        at_once: int,
        advance: Callable[[int], None],
        with_hidden: bool = False,
    ) -> None:
        """Replace the hidden states of every input."""
        read, hidden = self.text, self.text.hidden

        def step(i: int) -> None:
            ids_NT = read.ids(i).to(self.device)
            hidden[i] = run(ids_NT, hidden[i]) if with_hidden else run(ids_NT)

        for done, _ in enumerate(ProcessGroup().map(step, range(len(read.shapes)), at_once)):
            advance(done + 1)

    def _fastest(self) -> FastLayers:
        """Fast layers with attention, where the first layer gives the same numbers with them."""
        attending = FastLayers(self._model, attention=True)
        if not attending.has_attention:
            return self._fast
        i = self.text.first_probe
        ids_NT, hidden_NTD = self.text.ids(i).to(self.device), self.text.hidden[i]
        outputs = []
        for layers in (attending, self._fast):
            with layers.use():
                outputs.append(self._stream.layer(0, ids_NT, hidden_NTD))
        return attending if distance(*outputs) <= TOLERANCE[self.dtype] else self._fast

    def _check_numbers(self, layer: int) -> None:
        """Raise `InvalidValueError` where layer `layer` has read what only stand-ins gave it."""
        for i in range(self.text.first_probe, len(self.text.shapes)):
            if bool(self.text.hidden[i].isnan().any()):
                raise InvalidValueError(
                    f"layer {layer} of {self.name} returns NaN when it runs alone: it is damaged, "
                    "or reads more than the layer before returns; leave out --stream"
                )

    def _wrap(self) -> HuggingFaceModel:
        """The model after its layers, with its head."""
        self._load(self._head)
        with self._stream.known(self._hidden_of_probe):
            self._wrapped = HuggingFaceModel.wrap(
                self._model, self._own_tokenizer, self.name, self._longest
            )
        return self._wrapped

    def _hidden_of_probe(self, ids_NT: Int[Tensor, "N T"]) -> Float[Tensor, "N T D"]:
        """The last layer's hidden states of a short input that passed through all of them."""
        text = self.text
        known = [i for i, probe_NT in enumerate(text.probes) if torch.equal(probe_NT, ids_NT)]
        assert known, "only probes are read"
        return text.hidden[text.first_probe + known[0]]

    def _load(self, part: Part) -> None:
        with explained(self._location, "weights"):
            self._weights.load(part)


class _Text:
    """The inputs of a text, then short ones to check the model with; and their hidden states."""

    hidden: HiddenStates

    def __init__(self, inputs: Inputs, probes: Sequence[Int[Tensor, "1 T"]]) -> None:
        self.probes = probes
        self.shapes = [*inputs.shapes, *((len(ids_NT), ids_NT.shape[1]) for ids_NT in probes)]
        self._own = inputs
        self.first_probe = len(inputs.shapes)

    @property
    def tokens(self) -> int:
        """All of them."""
        return sum(n * t for n, t in self.shapes)

    def ids(self, i: int) -> Int[Tensor, "N T"]:
        """Input `i`."""
        first = self.first_probe
        return self._own.ids(i) if i < first else self.probes[i - first]


def _parts(model: PreTrainedModel, layers: Layers) -> tuple[Part, list[Part], Part, Part]:
    """Embedding, layers, head, and what is left: by the names of their weights."""
    names = list(model.state_dict())
    modules = {id(module): name for name, module in model.named_modules(remove_duplicate=False)}

    def part(name: str, module: object) -> Part:
        prefix = f"{modules[id(module)]}."
        return Part(name, tuple(weight for weight in names if weight.startswith(prefix)))

    embedding = part("embedding", model.get_input_embeddings())
    head = part("head", output_matrix(model))
    inner = [part(f"layer {i}", layer) for i, layer in enumerate(layers.modules)]
    taken = {weight for one in (embedding, head, *inner) for weight in one.weights}
    return embedding, inner, head, Part("rest", tuple(n for n in names if n not in taken))
