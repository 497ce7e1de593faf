"""A text as models read it: documents, their tokens, the windows of a protocol, and their rows.

Axes: M scored tokens, W windows, G documents.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from jaxtyping import Float, Int, Shaped

from kullback.errors import RunError
from kullback.evaluation.batches import Batch
from kullback.evaluation.measures import Places
from kullback.runtime.columns import IN_MEMORY_EACH, PART_ROWS, Column
from kullback.runtime.progress import Progress
from kullback.runtime.temporary import shares_files
from kullback.runtime.threads import cores
from kullback.runtime.workers import ProcessGroup
from kullback.text.documents import Document
from kullback.text.encoded_documents import encode_documents
from kullback.text.plan import plan
from kullback.text.protocol import Protocol, count_words, prepare
from kullback.text.special_spellings import count_strings
from kullback.text.stored_encodings import StoredEncodings
from kullback.text.tokenizer import TextTokenizer
from kullback.text.windows import Coverage, Windows, coverage

__all__ = ["TokenizedText", "subsample"]

# Windows of about this many tokens represent the text where every window is much alike.
PART_TOKENS = 4096
# Bytes whose tokenisation takes seconds, and is shown.
LONG_TEXT = 4 << 20


@dataclass(frozen=True, eq=False)
class TokenizedText:
    """What is read and scored; everything but the models."""

    documents: list[Document]
    """As the protocol reads them: perhaps joined into one."""
    encodings: StoredEncodings
    protocol: Protocol
    """With nothing left open."""
    windows: Windows
    special_strings: tuple[str, ...] = ()
    """How the tokenizer's special tokens are spelled."""
    expected: int | None = None
    """Of the beginning of a text, about how many rows all of it will have."""

    @classmethod
    def of(
        cls,
        documents: Sequence[Document],
        protocol: Protocol,
        tokenizer: TextTokenizer,
        context: int | None,
        progress: Progress | None = None,
        processes: ProcessGroup | None = None,
    ) -> TokenizedText:
        """The windows of `documents` for a model with this tokenizer and longest input.

        Of a long text, `progress` is told of a stage and of its bytes.  One of the `processes` on
        each machine cuts the text into tokens, which the others read.  Raises `InvalidValueError`
        as `kullback.text.plan.plan` does, `RunError` where the disk is full.
        """
        resolved = protocol.resolve(context)
        prepared = prepare(documents, resolved)
        progress = progress or Progress()
        if sum(document.n_bytes for document in prepared) >= LONG_TEXT:
            progress.stage("tokenising the text")
        special_tokens = resolved.special_tokens or "text"
        encode = partial(encode_documents, tokenizer, prepared, progress.advance, special_tokens)
        encodings = _of_machine(encode, processes or ProcessGroup())
        windows = plan(encodings, resolved, tokenizer, context)
        return cls(prepared, encodings, resolved, windows, tokenizer.special_strings)

    @cached_property
    def coverage(self) -> Coverage:
        """How many tokens and bytes there are, and how many are scored."""
        return coverage(self.encodings, self.windows)

    @cached_property
    def spelled(self) -> Counter[str]:
        """How often the documents spell each special token."""
        counts: Counter[str] = Counter()
        for document in self.documents:
            counts += count_strings(self.special_strings, document.pieces())
        return counts

    @cached_property
    def starts(self) -> Int[np.ndarray, "windows+1"]:
        """The first row of each window, and the number of rows."""
        return np.concatenate([[0], np.cumsum(self.windows.scored())])

    def __len__(self) -> int:
        """M."""
        return int(self.starts[-1])

    @property
    def whole(self) -> TokenizedText:
        """Itself, as `TextAhead` has it: a text that is known."""
        return self

    @property
    def at_least(self) -> int:
        """M."""
        return len(self)

    @property
    def size(self) -> str:
        """M for people."""
        return f"{len(self):,}"

    @property
    def total(self) -> int:
        """M of the whole text, or about that."""
        return len(self) if self.expected is None else max(len(self), self.expected)

    @cached_property
    def targets(self) -> Int[np.ndarray, "M"]:
        """The token that each row is about."""
        return self._column(self.targets_of)

    @cached_property
    def byte_spans(self) -> Int[np.ndarray, "M 2"]:
        """Where each token is in its document."""
        spans = self._column(lambda windows: self.byte_spans_of(windows).reshape(-1))
        return spans.reshape(-1, 2)

    @cached_property
    def places(self) -> Places:
        """Document, position, bytes, words and weight of each row."""
        columns: dict[str, Column] = {}
        for windows in self.window_parts():
            for name, values in vars(self.places_of(windows)).items():
                columns.setdefault(name, Column(values.dtype, IN_MEMORY_EACH)).append(values)
        return Places(**{name: column.mapped() for name, column in columns.items()})

    def window_parts(self) -> Iterator[slice]:
        """All windows in order, of about `PART_ROWS` rows each time; at least once."""
        begin, count = 0, len(self.windows)
        while True:
            limit = int(self.starts[begin]) + PART_ROWS
            end = int(np.searchsorted(self.starts, limit, side="right")) - 1
            end = min(max(end, begin + 1), count)
            yield slice(begin, end)
            if end == count:
                return
            begin = end

    def _column(self, values_of: Callable[[slice], Shaped[np.ndarray, "n"]]) -> np.ndarray:
        """What `values_of` gives of all windows: read-only, memory-mapped where it is long."""
        parts = self.window_parts()
        column = Column.of(values_of(next(parts)), in_memory=IN_MEMORY_EACH)
        for windows in parts:
            column.append(values_of(windows))
        return column.mapped()

    def rows_of(self, window: int) -> slice:
        """The rows of a window."""
        return slice(int(self.starts[window]), int(self.starts[window + 1]))

    def batch(self, windows: Iterable[int]) -> Batch:
        """Some windows, by their numbers, to be read together."""
        numbers = list(windows)
        return Batch(
            tuple(self.windows[number] for number in numbers),
            tuple(self.rows_of(number) for number in numbers),
        )

    def targets_of(self, windows: slice) -> Int[np.ndarray, "M"]:
        """The target tokens of some windows."""
        part = self.windows[windows]
        ids_M = self.encodings.ids_of(part.targets())
        if (ids_M < 0).any():  # a preset that scores BOS
            return np.concatenate([window.targets for window in part])
        return ids_M

    def byte_spans_of(self, windows: slice) -> Int[np.ndarray, "M 2"]:
        """Where each token of some windows is in its document."""
        return self.encodings.spans_of(self.windows[windows].targets())

    def places_of(self, windows: slice) -> Places:
        """Document, position, bytes, words and weight of each row of some windows."""
        columns = self.columns_of(windows)
        return Places(**columns, words_M=self._words_a_row[columns["document_M"]])

    def columns_of(self, windows: slice) -> dict[str, Shaped[np.ndarray, "M"]]:
        """The columns of `places_of` for which the rest of the text need not be known."""
        part = self.windows[windows]
        size_W = part.scored()
        first_W = np.cumsum(size_W) - size_W
        document_M = np.repeat(part.document_W.astype(np.int64), size_W)
        # The scored predictions of a window are its last ones.
        before_W = part.read() - size_W + 1 - first_W
        return {
            "document_M": document_M,
            "position_M": np.arange(int(size_W.sum())) + np.repeat(before_W, size_W),
            "bytes_M": np.diff(self.byte_spans_of(windows), axis=1)[:, 0],
            "weight_M": np.repeat(part.weight_W, size_W),
        }

    @cached_property
    def _words_a_row(self) -> Float[np.ndarray, "G"]:
        """The words of each document, or of the part of it that is scored, over its rows."""
        document_W, size_W = self.windows.document_W, self.windows.scored()
        words = np.array([count_words(document, self.protocol) for document in self.documents])
        size = np.array([document.n_bytes for document in self.documents])
        rows = np.bincount(document_W, size_W, len(words))
        scored = self.coverage.scored_bytes_G.astype(np.float64)
        # A document that is scored in part has that part of its words.
        share: Float[np.ndarray, "G"] = np.divide(
            words * scored, size * rows, out=np.zeros(len(words)), where=rows > 0
        )
        return share

    def text_of(self, row: int) -> str:
        """The text of a scored token; bytes that are part of a character are shown as ▒."""
        document, begin, end = self._place(row)
        return document.content(begin, end).decode(errors="replace").replace("\ufffd", "▒")

    def text_around(self, row: int, n_bytes: int) -> tuple[str, str]:
        """The text before and after a scored token, `n_bytes` each at most."""
        document, begin, end = self._place(row)
        before = document.content(max(0, begin - n_bytes), begin)
        after = document.content(end, end + n_bytes)
        return before.decode(errors="ignore"), after.decode(errors="ignore")

    def _place(self, row: int) -> tuple[Document, int, int]:
        """The document of a scored token, and its bytes there."""
        index = int(np.searchsorted(self.starts, row, side="right")) - 1
        window = self.windows[index]
        spans_M2 = window.byte_spans(self.encodings[window.document])
        begin, end = spans_M2[row - int(self.starts[index])].tolist()
        return self.documents[window.document], begin, end


def _of_machine(encode: Callable[..., StoredEncodings], processes: ProcessGroup) -> StoredEncodings:
    """What `encode` gives the first process of this machine, in all of them."""
    if processes.local_world_size == 1 or not shares_files():
        return encode()
    first = processes.rank - processes.local_rank
    # The others wait, and need no core.
    own = encode(threads=cores()) if processes.rank == first else None
    files = processes.gather(None if own is None else own.shared())[first]
    if own is not None:
        return own
    assert files is not None, "torchrun numbers the processes of a machine one after the other"
    try:
        return StoredEncodings.opened(files)
    except RunError:  # a system that does not allow it
        return encode()


def subsample(tokenized: TokenizedText, tokens: int = PART_TOKENS) -> TokenizedText:
    """Every k-th window, so that about `tokens` tokens, spread over the text, are scored."""
    return replace(tokenized, windows=tokenized.windows[:: max(1, len(tokenized) // tokens)])
