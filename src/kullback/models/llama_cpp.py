"""GGUF files as llama.cpp runs them: integer products, its own attention, its own KV cache.

A window is read in batches: first what is not scored, whose logits are not computed, then as many
scored positions at a time as `LOGITS_BYTES` holds.  Logits are computed when they are asked for, in
order; earlier rows, or another window, begin from the first token again.  The KV cache is that of
the window that is read.

llama.cpp computes with threads of its own, so that a model reads one window at a time.

Axes: N sequences, T positions, M rows (positions of all sequences), B rows that are asked for, V
vocabulary, P positions whose logits llama.cpp holds.
"""

from __future__ import annotations

import ctypes
import hashlib
import threading
import weakref
from collections.abc import Callable
from ctypes import c_int8, c_int32
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kullback.errors import InvalidValueError, RunError
from kullback.models._llama_cpp_errors import no_context, no_model
from kullback.models._llama_cpp_library import Batch, Library, collected_errors, load_library
from kullback.models._llama_cpp_placement import place
from kullback.models._llama_cpp_rope import RopeFactors
from kullback.models._llama_cpp_tokenizer import tokenizer_of
from kullback.models.gguf_file import GGUFFile
from kullback.models.interface import Sharing
from kullback.models.llama_cpp_options import CACHE_TYPES, FLASH_ATTENTION, LlamaCppOptions
from kullback.predictions.base import ALL
from kullback.runtime.workers import own_cores
from kullback.text.tokenizer import TextTokenizer

__all__ = ["LlamaCppModel", "LlamaCppPredictions", "read_tokenizer"]

# Logits that llama.cpp computes at a time, and again as many in its output.
LOGITS_BYTES = 32 << 20
# Tokens at a time, as llama.cpp's own tools have it.
BATCH = 512


@dataclass(frozen=True, eq=False)
class LlamaCppModel:
    """A GGUF file that llama.cpp runs: see `load`."""

    paths: tuple[Path, ...]
    """The file, or all its parts."""
    name: str
    tokenizer: TextTokenizer
    options: LlamaCppOptions
    library: Library
    session: Session
    trained_context: int
    notes: tuple[str, ...] = ()
    factored: bool = False
    exclusive: bool = True
    """It computes on all cores itself: one window is read at a time."""
    device: torch.device = field(default=torch.device("cpu"))
    """Where inputs and logits are; llama.cpp may compute elsewhere."""
    dtype: torch.dtype = torch.float32
    """Of the logits; the arithmetic is that of the types in the file."""

    @classmethod
    def load(
        cls,
        header: GGUFFile,
        name: str,
        options: LlamaCppOptions | None = None,
        device: str = "auto",
    ) -> LlamaCppModel:
        """The model of which `header` was read, in a file or in all its parts.

        `device` is "auto" (an accelerator, where llama.cpp was built for it), "cpu" or "cuda".

        Raises `InvalidValueError` saying in one sentence why llama.cpp rejects the file or
        the options, `MissingExtraError` where no llama.cpp is installed.
        """
        options = options or LlamaCppOptions()
        library = load_library()
        c = library.c
        parameters = c.llama_model_default_params()
        on_gpu = place(parameters, library, name, options, device)
        path = header.parts[0]
        handle = _Handle.open(library, path, parameters, RopeFactors.of(header), on_gpu)
        pointer = handle.pointer
        if (
            not c.llama_model_has_decoder(pointer)
            or c.llama_model_has_encoder(pointer)
            or c.llama_model_is_diffusion(pointer)
        ):
            raise InvalidValueError(
                f"the model {path} is not a causal language model: choose one that was trained "
                "to predict the next token"
            )
        tokenizer = tokenizer_of(library, pointer, header, handle)
        session = Session(library, handle, name, options, tokenizer.vocabulary_size)
        notes = [f"GGUF runs in {library.name}: weights are used as they are stored"]
        if handle.factors is not None:
            notes.append(handle.factors.note(name, options.ctx))
        trained = int(c.llama_model_n_ctx_train(pointer))
        return cls(header.parts, name, tokenizer, options, library, session, trained, tuple(notes))

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.tokenizer.vocabulary_size

    @property
    def context(self) -> int | None:
        """The longest input that the model was trained for, or that the options allow."""
        limits = [limit for limit in (self.trained_context, self.options.ctx) if limit]
        return min(limits, default=None)

    @property
    def backend(self) -> str:
        """The library and its version, a GPU, and the options on which numbers depend."""
        gpu = "on a GPU" if self.session.handle.on_gpu else ""
        given = [self.library.name, gpu, str(self.options)]
        return ", ".join(part for part in given if part)

    @cached_property
    def file_bytes(self) -> int:
        """The size of the file, or of all its parts."""
        return sum(path.stat().st_size for path in self.paths)

    def sharing(self, longest: int) -> Sharing:
        """Alone: llama.cpp has one window in its cache."""
        return "alone"

    def weights_fingerprint(self) -> str:
        """SHA-256 of the bytes of the file, or of all its parts; computed once."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for path in self.paths:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def in_batches(self, batch: int) -> LlamaCppModel:
        """The same weights in a context of its own, which reads `batch` tokens at a time."""
        options = replace(self.options, batch=batch)
        session = Session(
            self.library, self.session.handle, self.name, options, self.vocabulary_size
        )
        return replace(self, options=options, session=session)

    def predict(self, inputs_NT: Int[Tensor, "N T"]) -> LlamaCppPredictions:
        """Predictions at all N·T positions, row by row, computed when they are asked for.

        Raises `InvalidValueError` where the inputs are longer than the context.
        """
        N, T = inputs_NT.shape
        if self.context is not None and self.context < T:
            raise InvalidValueError(
                f"inputs_NT has {T} positions: {self.name} reads at most {self.context}; use a "
                "shorter window"
            )
        tokens_NT = np.ascontiguousarray(inputs_NT.cpu().numpy(), dtype=np.int32)
        return LlamaCppPredictions(self.session, tokens_NT, np.arange(N * T))


@dataclass(frozen=True, eq=False)
class LlamaCppPredictions:
    """Rows that llama.cpp computes, one after the other, when they are asked for."""

    session: Session
    tokens_NT: Int[np.ndarray, "N T"]
    rows_M: Int[np.ndarray, "M"]

    def __len__(self) -> int:
        return len(self.rows_M)

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.session.vocabulary_size

    def logits(self, rows: slice, columns: slice = ALL) -> Float[Tensor, "B W"]:
        """A copy of the rows; what follows them is computed with them, as far as it fits."""
        first, stop, _ = rows.indices(len(self))
        parts = self.session.read(self.tokens_NT, self.rows_M[first:], stop - first, columns)
        return torch.from_numpy(parts)

    def select(self, rows_M: Int[Tensor, "M"]) -> LlamaCppPredictions:
        """Some of the positions."""
        return LlamaCppPredictions(self.session, self.tokens_NT, self.rows_M[rows_M.cpu().numpy()])


def read_tokenizer(header: GGUFFile) -> TextTokenizer:
    """The tokenizer of a file, without its weights; raises as `LlamaCppModel.load` does."""
    library = load_library()
    parameters = library.c.llama_model_default_params()
    parameters.vocab_only = True
    handle = _Handle.open(library, header.parts[0], parameters)
    return tokenizer_of(library, handle.pointer, header, handle)


class _Handle:
    """llama.cpp's model, freed when nothing refers to it, and what its contexts depend on."""

    @classmethod
    def open(
        cls,
        library: Library,
        path: Path,
        parameters: ctypes.Structure,
        factors: RopeFactors | None = None,
        on_gpu: bool = False,
    ) -> _Handle:
        """The model in the file, or in all parts of which it is the first."""
        with collected_errors(library) as errors:
            pointer = library.c.llama_model_load_from_file(str(path).encode(), parameters)
            if not pointer:
                raise no_model(str(path), errors, library.name)
        return cls(library, pointer, factors, on_gpu)

    def __init__(
        self, library: Library, pointer: int, factors: RopeFactors | None, on_gpu: bool
    ) -> None:
        self.pointer, self.factors, self.on_gpu = pointer, factors, on_gpu
        weakref.finalize(self, _free, library, library.c.llama_model_free, pointer)


class _Context:
    """llama.cpp's context: the KV cache for `size` tokens and the memory of a batch."""

    def __init__(self, library: Library, model: _Handle, pointer: int, size: int) -> None:
        self.model, self.pointer, self.size = model, pointer, size
        self.memory = library.c.llama_get_memory(pointer)
        weakref.finalize(self, _free, library, library.c.llama_free, pointer)


class Session:
    """One model's context, and what it has read: some tokens, and the logits of the last batch."""

    def __init__(
        self, library: Library, handle: _Handle, name: str, options: LlamaCppOptions, V: int
    ) -> None:
        self.vocabulary_size = V
        self.batch = options.batch or BATCH
        self.rows = max(1, min(self.batch, LOGITS_BYTES // (4 * V)))
        """Positions whose logits are computed at a time."""
        self.handle = handle
        self._library, self._name, self._options = library, name, options
        self._lock = threading.Lock()
        self._context: _Context | None = None
        self._tokens_T = np.empty(0, np.int32)
        self._n_read = 0
        self._held_P = np.empty(0, np.int64)
        self._logits_PV = np.empty((0, V), np.float32)

    def read(
        self,
        tokens_NT: Int[np.ndarray, "N T"],
        rows_M: Int[np.ndarray, "M"],
        count: int,
        columns: slice,
    ) -> Float[np.ndarray, "B W"]:
        """The logits of the first `count` of the rows, which are all that may be asked for next.

        Raises `RunError` where llama.cpp cannot compute them.
        """
        T = tokens_NT.shape[1]
        width = len(range(*columns.indices(self.vocabulary_size)))
        logits_BW = np.empty((count, width), np.float32)
        with self._lock:
            i = 0
            while i < count:
                sequence, position = divmod(int(rows_M[i]), T)
                at = self._place(tokens_NT[sequence], position)
                if at is None:
                    ahead = rows_M[i : i + self.rows]
                    self._decode(tokens_NT[sequence], ahead[ahead // T == sequence] % T)
                    at = self._place(tokens_NT[sequence], position)
                    assert at is not None, "the first of the positions is decoded"
                # Rows that follow each other are copied at once.
                held_M = sequence * T + self._held_P[at : at + count - i]
                differs_M = held_M != rows_M[i : i + len(held_M)]
                n = int(differs_M.argmax()) if differs_M.any() else len(held_M)
                logits_BW[i : i + n] = self._logits_PV[at : at + n, columns]
                i += n
        return logits_BW

    def _place(self, tokens_T: Int[np.ndarray, "T"], position: int) -> int | None:
        """Where the logits of a position are held, where they are."""
        at = int(np.searchsorted(self._held_P, position))
        if at == len(self._held_P) or self._held_P[at] != position:
            return None
        return at if np.array_equal(tokens_T, self._tokens_T) else None

    def _decode(self, tokens_T: Int[np.ndarray, "T"], ahead_P: Int[np.ndarray, "P"]) -> None:
        """Read tokens up to the first of the positions ahead, and as many as a batch takes."""
        first = int(ahead_P[0])
        self._held_P = ahead_P[:0]
        if first < self._n_read or not np.array_equal(tokens_T, self._tokens_T):
            context = self._context_of(len(tokens_T))
            self._library.c.llama_memory_clear(context.memory, True)
            self._tokens_T, self._n_read = tokens_T, 0
        while self._n_read < first:
            self._batch(self._tokens_T[self._n_read : first][: self.batch], ahead_P[:0])
        last = first + self.batch
        rising = np.concatenate([[True], np.diff(ahead_P) > 0])
        stop = len(ahead_P) if rising.all() else int(np.argmin(rising))
        held_P = ahead_P[:stop][ahead_P[:stop] < last]
        self._batch(self._tokens_T[first : int(held_P[-1]) + 1], held_P - first)
        assert self._context is not None, "it was made above"
        pointer = self._library.c.llama_get_logits(self._context.pointer)
        if not pointer:
            raise RunError(
                f"llama.cpp computes no logits for {self._name}: it may be a model of embeddings; "
                "choose one that was trained to predict the next token"
            )
        shape = (len(held_P), self.vocabulary_size)
        self._logits_PV, self._held_P = np.ctypeslib.as_array(pointer, shape), held_P

    def _batch(self, tokens_B: Int[np.ndarray, "B"], outputs_P: Int[np.ndarray, "P"]) -> None:
        """Let llama.cpp read some tokens; `outputs_P` are those of them whose logits it gives."""
        n = len(tokens_B)
        is_output_B = np.zeros(n, np.int8)
        is_output_B[outputs_P] = 1
        position_B = np.arange(self._n_read, self._n_read + n, dtype=np.int32)
        batch = Batch(
            n_tokens=n,
            token=_pointer(tokens_B, c_int32),
            pos=_pointer(position_B, c_int32),
            logits=_pointer(is_output_B, c_int8),
        )
        assert self._context is not None, "tokens follow others, or the context was made for them"
        with collected_errors(self._library) as errors:
            code = self._library.c.llama_decode(self._context.pointer, batch)
            if code != 0:
                self._n_read, self._tokens_T = 0, self._tokens_T[:0]
                why = errors[-1] if errors else f"llama_decode gave {code}"
                raise RunError(
                    f"llama.cpp cannot read {self._name} any further ({why}): try a shorter "
                    "--window, or a smaller batch (FILE.gguf@batch=64)"
                )
        self._n_read += n

    def _context_of(self, length: int) -> _Context:
        """A context for `length` tokens at least; raises `RunError` where there is no memory."""
        options, c, factors = self._options, self._library.c, self.handle.factors
        if options.ctx is not None:
            factors = None  # one size for all windows
        kept = self._context.size if self._context is not None else 0
        if kept >= length and (factors is None or factors.fits(kept, length)):
            assert self._context is not None, "it has a size"
            return self._context
        self._context = None  # freed before the next one is made
        size = options.ctx or max(BATCH, 1 << (length - 1).bit_length())
        size = size if factors is None else factors.sized(size, length)
        parameters = c.llama_context_default_params()
        parameters.n_ctx = size
        parameters.n_batch = parameters.n_ubatch = self.batch
        parameters.n_outputs_max = self.rows
        parameters.n_threads = parameters.n_threads_batch = options.threads or own_cores()
        parameters.flash_attn_type = FLASH_ATTENTION[options.fa or "auto"]
        parameters.op_offload = parameters.offload_kqv = self.handle.on_gpu
        parameters.type_k = CACHE_TYPES[options.ctk or "f16"]
        parameters.type_v = CACHE_TYPES[options.ctv or "f16"]
        with collected_errors(self._library) as errors:
            pointer = c.llama_init_from_model(self.handle.pointer, parameters)
            if not pointer:
                raise no_context(self._name, size, errors)
        self._context = _Context(self._library, self.handle, pointer, size)
        return self._context


def _free(library: Library, function: Callable[[int], None], pointer: int) -> None:
    with collected_errors(library):
        function(pointer)


def _pointer(values: np.ndarray, kind: Any) -> Any:
    return values.ctypes.data_as(ctypes.POINTER(kind))
