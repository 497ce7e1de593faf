"""Passes of one model or two over a text: windows in, one row a scored token out.

:class:`TokenizedText` is what is read: documents, their tokens, the windows of a protocol, and
where each scored token is.  `token_rows` and `divergence_rows` send the windows through one
model or two; a window's logits are made and used up where its hidden states are, so memory does not
grow with the text or the vocabulary, but for the rows themselves (about 60 bytes a token).

Axes: T tokens that a model reads at once, M scored tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol as Interface
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Int

from kullback.errors import InvalidValueError
from kullback.evaluation.measures import Places
from kullback.models.interface import TextModel
from kullback.predictions.base import Predictions
from kullback.runtime.progress import Tokens
from kullback.runtime.workers import ProcessGroup
from kullback.scoring.divergence import DivergenceStatistics, divergence_statistics
from kullback.scoring.token_statistics import TokenStatistics, token_statistics
from kullback.text.documents import Document
from kullback.text.protocol import Protocol, count_words, prepare
from kullback.text.tokenizer import Encoding, TextTokenizer
from kullback.text.windows import Coverage, Window, coverage, plan

__all__ = [
    "ModelPredictor",
    "Predictor",
    "TokenizedText",
    "divergence_rows",
    "subsample",
    "token_rows",
]

# Windows of about this many tokens represent the text where every window is much alike.
PART_TOKENS = 4096


@dataclass(frozen=True, eq=False)
class TokenizedText:
    """What is read and scored; everything but the models."""

    documents: list[Document]
    """As the protocol reads them: perhaps joined into one."""
    encodings: list[Encoding]
    protocol: Protocol
    """With nothing left open."""
    windows: list[Window]

    @classmethod
    def of(
        cls,
        documents: Sequence[Document],
        protocol: Protocol,
        tokenizer: TextTokenizer,
        context: int | None,
    ) -> TokenizedText:
        """The windows of `documents` for a model with this tokenizer and longest input.

        Raises `InvalidValueError` as `kullback.text.windows.plan` does.
        """
        resolved = protocol.resolve(context)
        prepared = prepare(documents, resolved)
        encodings = [tokenizer.encode(document.text) for document in prepared]
        return cls(prepared, encodings, resolved, plan(encodings, resolved, tokenizer, context))

    @cached_property
    def coverage(self) -> Coverage:
        """How many tokens and bytes there are, and how many are scored."""
        return coverage(self.encodings, self.windows)

    @cached_property
    def starts(self) -> Int[np.ndarray, "windows+1"]:
        """The first row of each window, and the number of rows."""
        return np.concatenate([[0], np.cumsum([len(window) for window in self.windows])])

    def __len__(self) -> int:
        """M."""
        return int(self.starts[-1])

    @cached_property
    def full_windows(self) -> int:
        """How many windows as long as the longest would be as much to read; at least one."""
        lengths = [window.n_inputs for window in self.windows]
        return max(1, round(sum(lengths) / max(lengths, default=1)))

    @cached_property
    def targets(self) -> Int[np.ndarray, "M"]:
        """The token that each row is about."""
        return np.concatenate([window.targets for window in self.windows])

    @cached_property
    def byte_spans(self) -> Int[np.ndarray, "M 2"]:
        """Where each token is in its document."""
        spans = [window.byte_spans(self.encodings[window.document]) for window in self.windows]
        return np.concatenate(spans)

    @cached_property
    def places(self) -> Places:
        """Document, position, bytes, words and weight of each row."""
        document_M = np.repeat(
            [window.document for window in self.windows], np.diff(self.starts)
        ).astype(np.int64)
        bytes_M = np.diff(self.byte_spans, axis=1)[:, 0]
        words = np.array([count_words(document, self.protocol) for document in self.documents])
        size = np.array([document.n_bytes for document in self.documents])
        rows, scored = (
            np.bincount(document_M, weights, minlength=len(words)) for weights in (None, bytes_M)
        )
        # A document that is scored in part has that part of its words.
        share = np.divide(words * scored, size * rows, out=np.zeros(len(words)), where=rows > 0)
        return Places(
            document_M=document_M,
            position_M=np.concatenate([window.positions for window in self.windows]),
            bytes_M=bytes_M,
            words_M=share[document_M],
            weight_M=np.repeat([window.weight for window in self.windows], np.diff(self.starts)),
        )

    def text_of(self, row: int) -> str:
        """The text of a scored token; bytes that are part of a character are shown as ▒."""
        begin, end = self.byte_spans[row]
        document = self.places.document_M[row]
        text: bytes = self._bytes[document][begin:end]
        return text.decode(errors="replace").replace("\ufffd", "▒")

    def text_around(self, row: int, n_bytes: int) -> tuple[str, str]:
        """The text before and after a scored token, `n_bytes` each at most."""
        begin, end = (int(place) for place in self.byte_spans[row])
        text = self._bytes[self.places.document_M[row]]
        before, after = text[max(0, begin - n_bytes) : begin], text[end : end + n_bytes]
        return before.decode(errors="ignore"), after.decode(errors="ignore")

    @cached_property
    def _bytes(self) -> list[bytes]:
        return [document.text.encode() for document in self.documents]


def subsample(tokenized: TokenizedText, tokens: int = PART_TOKENS) -> TokenizedText:
    """Every k-th window, so that about `tokens` tokens, spread over the text, are scored."""
    return replace(tokenized, windows=tokenized.windows[:: max(1, len(tokenized) // tokens)])


class Predictor(Interface):
    """Whatever predicts the scored tokens of a text: a model, or a recording of one."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def device(self) -> torch.device:
        """Where the predictions are made."""

    def predictions(self, window: Window, rows: slice) -> Predictions:
        """The predictions of the scored tokens of `window`, rows `rows` of the text."""


@dataclass(frozen=True, eq=False)
class ModelPredictor:
    """A model that reads the windows now."""

    model: TextModel

    @property
    def name(self) -> str:
        """The model's."""
        return self.model.name

    @property
    def device(self) -> torch.device:
        """The model's."""
        return self.model.device

    def predictions(self, window: Window, rows: slice) -> Predictions:
        """Read the window's tokens, keep the scored positions."""
        inputs_1T = torch.from_numpy(window.inputs.astype(np.int64))[None].to(self.model.device)
        wanted_M = torch.arange(window.rows.start, window.rows.stop, device=self.model.device)
        return self.model.predict(inputs_1T).select(wanted_M)


def token_rows(
    predictor: Predictor,
    tokenized: TokenizedText,
    processes: ProcessGroup | None = None,
    progress: Tokens = lambda done, total: None,
    first_window: int = 0,
    top_k: int = 0,
    top_rows: int = 0,
) -> Iterator[TokenStatistics]:
    """The statistics of each window from `first_window` on, in order.

    Windows that begin before row `top_rows` have the `top_k` most probable tokens, too.  Raises
    `InvalidValueError` naming document and token where a model's logits are damaged.
    """

    def measure(index: int) -> TokenStatistics:
        window = tokenized.windows[index]
        rows = slice(int(tokenized.starts[index]), int(tokenized.starts[index + 1]))
        targets_M = torch.from_numpy(window.targets.astype(np.int64))
        with _placed(tokenized, index):
            k = top_k if rows.start < top_rows else 0
            return token_statistics(predictor.predictions(window, rows), targets_M, k)

    at_once = _at_once(tokenized, predictor)
    yield from _each_window(
        measure, tokenized, processes or ProcessGroup(), at_once, progress, first_window
    )


def divergence_rows(
    reference: Predictor,
    candidate: Predictor,
    tokenized: TokenizedText,
    processes: ProcessGroup | None = None,
    progress: Tokens = lambda done, total: None,
    vocabulary_size: int | None = None,
) -> Iterator[DivergenceStatistics]:
    """How two models differ at each scored token, window by window; nothing is stored.

    Raises `InvalidValueError` as `token_rows` does, and where the vocabularies do not fit.
    """

    def measure(index: int) -> DivergenceStatistics:
        window = tokenized.windows[index]
        rows = slice(int(tokenized.starts[index]), int(tokenized.starts[index + 1]))
        targets_M = torch.from_numpy(window.targets.astype(np.int64))
        with _placed(tokenized, index):
            return divergence_statistics(
                reference.predictions(window, rows),
                candidate.predictions(window, rows),
                targets_M,
                vocabulary_size,
            )

    at_once = _at_once(tokenized, reference, candidate)
    yield from _each_window(measure, tokenized, processes or ProcessGroup(), at_once, progress, 0)


Rows = TypeVar("Rows", TokenStatistics, DivergenceStatistics)


def _at_once(tokenized: TokenizedText, *predictors: Predictor) -> int:
    """How many windows a machine works on at a time.

    It depends on all windows, not on those left to do: where a run resumes, the same cores share a
    window as in one that was never stopped.
    """
    if any(predictor.device.type != "cpu" for predictor in predictors):
        return 1  # an accelerator is filled by one, and has its memory for one
    return tokenized.full_windows


def _each_window(
    measure: Callable[[int], Rows],
    tokenized: TokenizedText,
    processes: ProcessGroup,
    at_once: int,
    progress: Tokens,
    first_window: int,
) -> Iterator[Rows]:
    done = int(tokenized.starts[first_window])
    for rows in processes.map(measure, range(first_window, len(tokenized.windows)), at_once):
        done += len(rows)
        progress(done, len(tokenized))
        yield rows


@contextmanager
def _placed(tokenized: TokenizedText, index: int) -> Iterator[None]:
    """Say where in the text it was that a model's predictions could not be measured."""
    try:
        yield
    except InvalidValueError as error:
        window = tokenized.windows[index]
        name = tokenized.documents[window.document].name
        first, last = int(window.tokens[0]), int(window.tokens[-1])
        raise InvalidValueError(f"{name}, tokens {first} to {last}: {error}") from None
