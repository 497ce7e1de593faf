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

import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kullback.errors import InvalidValueError, RunError
from kullback.models._context import context_of, context_probe
from kullback.models._known_rows import with_known_rows
from kullback.models._loading_errors import explained
from kullback.models._probes import probes_of
from kullback.models.batch_probe import SharedInputs
from kullback.models.hidden_states import HiddenStates
from kullback.models.huggingface import (
    TOLERANCE,
    HuggingFaceModel,
    bytes_a_token,
    check_repeatable,
    distance,
    output_matrix,
    use_exact_experts,
)
from kullback.models.interface import Sharing
from kullback.models.layer_probe import Layers
from kullback.models.layer_stream import LayerStream
from kullback.models.length_scaling import LengthScaling
from kullback.models.locate import Location
from kullback.models.stream_plan import Plan, Sizes, estimated_seconds
from kullback.models.streamed_text import Text
from kullback.models.streamed_weights import Part, StreamedWeights, parts_of
from kullback.predictions.base import Predictions
from kullback.runtime.fast_layers import FastLayers
from kullback.runtime.memory import kept_freed_memory, lacks_memory
from kullback.runtime.progress import Progress
from kullback.runtime.wording import count_of
from kullback.runtime.workers import ProcessGroup

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from kullback.text.tokenizer import TextTokenizer

__all__ = ["StreamedModel"]


class StreamedModel:
    """A model whose layers are in memory one at a time: `prepare` first, then `predict`."""

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
        self.progress = Progress()
        """What is told of the plan and of each layer."""
        self._location, self._model, self._weights = location, model, weights
        self._longest, self._loading_notes = longest, tuple(notes)
        self._own_tokenizer = tokenizer
        model.train(False).requires_grad_(False)
        use_exact_experts(model)
        self._embedding, self._layers, self._head, self._rest = parts_of(model, layers)
        self._fast = FastLayers(model)
        self._stream = LayerStream(model, layers)
        self._load(self._rest)
        weights.place_buffers()
        self.tokenizer = with_known_rows(model, tokenizer, self.vocabulary_size, self.name)
        self._stream.install()
        self._matrix: Any = output_matrix(model)
        scaling = LengthScaling(model)
        scaling.forget()
        self.exclusive = scaling.is_used
        """Whether it reads one window at a time, as `HuggingFaceModel` does."""
        self._sharing: Sharing = "equal lengths" if self.exclusive else "padded"
        self._padded_to: int | None = None
        self._text: Text | None = None
        self._wrapped: HuggingFaceModel | None = None
        self._lock = threading.Lock()

    @cached_property
    def context(self) -> int | None:
        """The longest input; None where nothing limits it."""
        with self._stream.without_layers(self._matrix):
            return context_of(self._model, self._longest)

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of loading, and once there are predictions those of the whole model, too."""
        own = self.tokenizer.notes if self._wrapped is None else self._wrapped.notes
        return (*own, *self._loading_notes)

    def add_note(self, note: str) -> None:
        """Something else that the user should read."""
        self._loading_notes += (note,)

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

    def sharing(self, longest: int) -> Sharing:
        """As far as is known: `prepare` tries it with short inputs beside the text.

        It then tries padding to `longest`, the longest window that is in a batch with a shorter
        one, and none where that is a single token.
        """
        self._padded_to = longest
        return self._sharing

    @property
    def bytes_a_token(self) -> int:
        """As of `HuggingFaceModel`."""
        return bytes_a_token(self._model, *self._matrix.weight.shape)

    @torch.inference_mode()
    def predict(self, inputs_NT: Int[Tensor, "N T"]) -> Predictions:
        """Those at all N·T positions of one of the inputs that were prepared, row by row.

        The first call loads the head, and checks the model as `HuggingFaceModel.wrap` does.
        Raises `InvalidValueError` for other inputs.
        """
        if self._text is None or self._text.find(inputs_NT) is None:
            raise InvalidValueError(
                f"{self.name} is read layer by layer, and reads its text as a whole: leave out "
                "--stream"
            )
        with self._lock:
            wrapped = self._wrapped = self._wrapped or self._wrap()
        return wrapped.predict(inputs_NT)

    @property
    def text(self) -> Text:
        """What it has read."""
        assert self._text is not None, "a text passes through the layers first"
        return self._text

    def prepare(self, inputs: Sequence[Int[np.ndarray, "N T"]], at_once: int) -> bool:
        """Let all inputs pass through all layers, `at_once` of them at a time.

        Nothing where all of them did already; else earlier ones are forgotten.  False, with what
        may be shared in `sharing`, where sequences that share a batch do not get the hidden states
        and logits that they have alone: short ones beside the text are compared.  Raises
        `InvalidValueError` where weights are damaged, or a layer reads more than the layer before
        returns; `RunError` where there is no space for the hidden states, or for a layer.
        """
        if self._text is not None and self._text.has(inputs):
            return True
        probes = probes_of(self._model, self._own_tokenizer, self.device)
        shared = self._shared_inputs(inputs, probes[0])
        tried = [
            *(ids_1T for ids_1T in shared.alone.values() if ids_1T is not probes[0]),
            *(batch_NT for batch_NT, _, _ in shared.batches.values()),
        ]
        # The first one twice: what is random differs.
        probes += [context_probe(self._model, self.device), *tried, probes[0]]
        text = Text(inputs, probes)
        try:
            self._read(text, at_once, shared)
        except BaseException as error:  # Ctrl-C, too: a half-read text is none
            self._text = None
            self._weights.stop_reading()
            if isinstance(error, _NotSharedError):
                self._sharing = error.sharing
                self.progress.note(
                    f"{self.name} may read windows only "
                    f"{'alone' if error.sharing == 'alone' else 'beside others of their length'}: "
                    "it is read again from the first layer"
                )
                return False
            if not lacks_memory(error):
                raise
            raise RunError(
                f"the memory is too small for a layer of {self.name} and a window of "
                f"{text.longest:,} tokens: use a shorter --window, a narrower --dtype, or a device "
                "with more memory"
            ) from None
        return True

    def _shared_inputs(
        self, inputs: Sequence[Int[np.ndarray, "N T"]], probe_1T: Int[Tensor, "1 T"]
    ) -> SharedInputs:
        """What is tried beside these inputs; nothing where each is one sequence."""
        longest = max((ids_NT.shape[1] for ids_NT in inputs if len(ids_NT) > 1), default=0)
        if not longest or self._sharing == "alone":
            return SharedInputs({}, {})
        padded_to = longest if self._padded_to is None else self._padded_to
        is_padded = self._sharing == "padded" and padded_to > 1
        return SharedInputs.of(probe_1T, padded_to, padded=is_padded)

    def _read(self, text: Text, at_once: int, shared: SharedInputs) -> None:
        self._wrapped, self._text = None, None
        self._weights.free(self._head)
        self._text = text
        layers, count, progress = self._layers, len(text.shapes), self.progress
        progress.stage(f"passing the text through {count_of(len(layers), 'layer')} of {self.name}")
        began = time.perf_counter()
        self._load(self._embedding)
        reading = time.perf_counter() - began
        first_NTD = self._stream.embed(text.ids(text.first_probe))
        plan = self._plan(first_NTD, reading)
        text.hidden = HiddenStates(
            text.shapes, first_NTD.shape[2:], first_NTD.dtype, self.device, plan.place
        )
        following = [*layers[1:], self._head]
        fast = self._fast
        with ExitStack() as scopes:
            scopes.enter_context(self._weights.reused_memory(layers))
            if plan.ahead:  # what is free is not needed for weights
                scopes.enter_context(kept_freed_memory())
            self._read_ahead(plan, layers[0], beside=self._embedding)
            self._map(self._stream.embed, at_once, lambda done: None)
            self._weights.free(self._embedding)
            for i, part in enumerate(layers):
                self._load(part)
                self._read_ahead(plan, following[i], beside=part)
                if i == 0:
                    fast = self._fastest()

                def advance(done: int, before: int = i * count) -> None:
                    progress.advance(before + done, len(layers) * count)

                def run(ids_NT: Tensor, hidden_NTD: Tensor, layer: int = i) -> Tensor:
                    return self._stream.layer(layer, ids_NT, hidden_NTD)

                with fast.use():
                    self._map(run, at_once, advance, with_hidden=True)
                self._weights.free(part)
                self._check_numbers(i)
                self._check_shared(shared)
        first, again = text.hidden[text.first_probe], text.hidden[count - 1]
        check_repeatable(again, first, self.dtype, self.name)
        self._check_shared_logits(shared)

    def _read_ahead(self, plan: Plan, part: Part, beside: Part) -> None:
        """Begin to read a part beside a loaded one, where the plan has space for both."""
        weights, sizes = self._weights, plan.sizes
        if (
            plan.ahead
            and weights.loaded_bytes(beside) <= sizes.layer
            and weights.stored_bytes(part) <= sizes.stored_layer
        ):
            weights.read_ahead(part)

    def _plan(self, first_NTD: Tensor, reading: float) -> Plan:
        """Where everything goes; the user is told before it starts."""
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
        self.progress.note(plan.announcement(self.name, len(self._layers), tokens, seconds))
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

        # The largest first: no core waits for one that was begun last.
        order = sorted(range(len(read.shapes)), key=lambda i: -math.prod(read.shapes[i]))
        for done, _ in enumerate(ProcessGroup().map(step, order, at_once)):
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

    def _check_shared(self, shared: SharedInputs) -> None:
        """Raise `_NotSharedError` where a batch clearly changes hidden states of its sequences.

        Beside a massive activation small changes are not seen: those are seen in the logits.
        """
        self._check_same(shared, lambda ids_NT, n, length: self._known(ids_NT)[n, :length])

    def _check_shared_logits(self, shared: SharedInputs) -> None:
        """Raise `_NotSharedError` where a batch changes the logits, as of a model in memory."""
        if not shared.batches:
            return
        wrapped = self._wrapped = self._wrap()

        def logits(ids_NT: Tensor, n: int, length: int) -> Tensor:
            first = n * ids_NT.shape[1]
            return wrapped.predict(ids_NT).logits(slice(first, first + length))

        self._check_same(shared, logits)

    def _check_same(self, shared: SharedInputs, rows: Callable[[Tensor, int, int], Tensor]) -> None:
        near = TOLERANCE[self.dtype]
        allowed = shared.allowed(rows, lambda row, alone: distance(row, alone) <= near)
        if allowed != "padded":
            raise _NotSharedError(allowed)

    def _wrap(self) -> HuggingFaceModel:
        """The model after its layers, with its head."""
        self._load(self._head)
        self._stream.known(self._known)
        return HuggingFaceModel.wrap(self._model, self._own_tokenizer, self.name, self._longest)

    def _known(self, ids_NT: Int[Tensor, "N T"]) -> Float[Tensor, "N T D"]:
        """The hidden states of an input that passed through the layers read so far."""
        i = self.text.find(ids_NT)
        assert i is not None, "only what was prepared is read, and probes"
        return self.text.hidden[i]

    def _load(self, part: Part) -> None:
        with explained(self._location, "weights"):
            self._weights.load(part)


class _NotSharedError(Exception):
    """Windows may share batches only as `sharing` says."""

    def __init__(self, sharing: Sharing) -> None:
        super().__init__(sharing)
        self.sharing = sharing
