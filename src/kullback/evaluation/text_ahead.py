"""A text whose first windows are read while the rest of it is still cut into tokens.

What is read first must be what is read of the whole text, bit for bit:

* *windows*: those of documents that are complete, and of the next one all but what its end may
  still change;
* *batches*: those of whole groups (`kullback.evaluation.batches`), whose bounds depend on the
  windows before them;
* *sharing*: how windows may share a batch depends on the longest of the text, so it must be the
  same for one of two tokens and for the longest that there may be;
* *cores*: on a CPU as many batches are read at a time as there are cores, of a longer text, too.

Where one of these is not known, the whole text is waited for, as for short texts, in several
processes, and for models that are read layer by layer.

Axes: W windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TypeAlias

import numpy as np

from kullback.errors import InvalidValueError
from kullback.evaluation.batches import plan_batches, windows_of_whole_groups
from kullback.evaluation.predictors import (
    Predictor,
    is_exclusive,
    is_streamed,
    joint_sharing,
    token_budget,
)
from kullback.evaluation.tokenized_text import TokenizedText
from kullback.models.interface import TextModel
from kullback.runtime.progress import Progress
from kullback.runtime.threads import cores
from kullback.runtime.workers import ProcessGroup
from kullback.text.documents import Document
from kullback.text.encoded_documents import EncodedAhead
from kullback.text.plan import plan
from kullback.text.protocol import Protocol, prepare
from kullback.text.stored_encodings import StoredEncodings
from kullback.text.windows import Windows

__all__ = ["PassText", "TextAhead"]

# Bytes of a text that takes no second to be cut into tokens.
SHORT = 1 << 20
# Bytes that are cut before the first window is read, and by what factor more before the next part.
FIRST, FACTOR = 1 << 19, 2


@dataclass(eq=False)
class TextAhead:
    """The text of a pass: its beginnings as they become known, then all of it.

    A context manager: what is not cut into tokens when it is left never is.
    """

    documents: list[Document]
    """As the protocol reads them: perhaps joined into one."""
    protocol: Protocol
    """With nothing left open."""
    model: TextModel
    progress: Progress = field(default_factory=Progress)
    processes: ProcessGroup = field(default_factory=ProcessGroup)
    _open: ExitStack = field(default_factory=ExitStack, repr=False)
    _encoded: EncodedAhead | None = None
    _given: Sequence[Document] = ()
    _whole: TokenizedText | None = None
    _expected: int = 0
    _least: int | None = None

    @classmethod
    def of(
        cls,
        documents: Sequence[Document],
        protocol: Protocol,
        model: TextModel,
        progress: Progress | None = None,
        processes: ProcessGroup | None = None,
    ) -> TextAhead:
        """That of `documents` for `model`; raises as `Protocol.resolve` does."""
        resolved = protocol.resolve(model.context)
        ahead = cls(
            prepare(documents, resolved), resolved, model, progress or Progress(),
            processes or ProcessGroup(), _given=documents,
        )  # fmt: skip
        if ahead._bytes > SHORT and ahead.processes.world_size == 1 and not is_streamed(model):
            encoded = EncodedAhead(
                model.tokenizer, ahead.documents, resolved.special_tokens or "text"
            )
            ahead._encoded = ahead._open.enter_context(encoded)
        return ahead

    def __enter__(self) -> TextAhead:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def begin(self) -> None:
        """Wait for what the first window needs; where that is all, raises as `whole`."""
        if self._encoded is None or self._encoded.known(FIRST) is None:
            _ = self.whole

    def check(self) -> None:
        """Raise what `whole` will raise, where that is known while the beginning is read."""
        if self._encoded is not None and self._encoded.has_failed:
            _ = self.whole

    @property
    def is_begun(self) -> bool:
        """Whether `size` is known, if only about."""
        return self._whole is not None or self._expected > 0

    @property
    def size(self) -> str:
        """How many rows it has, or about how many as far as is known."""
        known = self._whole
        return f"about {self._expected:,}" if known is None else known.size

    @property
    def total(self) -> int:
        """How many rows it has, or about how many; waits for its beginning."""
        least = self.at_least
        return max(least, self._expected) if self._whole is None else len(self._whole)

    @property
    def at_least(self) -> int:
        """How many rows it has at the least; waits for its beginning."""
        if self._whole is None and self._least is None:
            known = None if self._encoded is None else self._encoded.known(FIRST)
            windows = None if known is None else self._sure_windows(known[0])
            if known is None or not windows:
                return len(self.whole)
            self._least = int(windows.scored().sum())
            self._expected = round(self._least * self._bytes / known[1])
        return len(self._whole) if self._whole is not None else self._least or 0

    @property
    def whole(self) -> TokenizedText:
        """All of it; waits for it, and raises as `TokenizedText.of` does."""
        # A cached property would let texts in other threads wait for this one.
        if self._whole is None:
            self._whole = self._read()
        return self._whole

    def _read(self) -> TokenizedText:
        model = self.model
        if self._encoded is None:
            return TokenizedText.of(
                self._given, self.protocol, model.tokenizer, model.context, self.progress,
                self.processes,
            )  # fmt: skip
        encodings = self._encoded.all()
        windows = plan(encodings, self.protocol, model.tokenizer, model.context)
        return self._text(encodings, windows)

    def parts(
        self, first_window: int, *predictors: Predictor
    ) -> Iterator[tuple[TokenizedText, int]]:
        """What is read one after the other: texts, and from which window on each.

        Beginnings, unless a pass resumes after one, and all of it.
        """
        if first_window == 0:
            for beginning in self.beginnings(*predictors):
                yield beginning, first_window
                first_window = len(beginning.windows)
        yield self.whole, first_window

    def beginnings(self, *predictors: Predictor) -> Iterator[TokenizedText]:
        """Beginnings of the text, each longer than the one before; none where all is known."""
        enough = FIRST
        while self._encoded is not None and not any(map(is_streamed, predictors)):
            known = self._encoded.known(enough)
            if known is None:
                return
            encodings, n_bytes = known
            enough = FACTOR * max(n_bytes, enough)
            beginning = self._beginning(encodings, n_bytes, predictors)
            if beginning is not None:
                self._expected = beginning.total
                yield beginning

    def _sure_windows(self, encodings: StoredEncodings) -> Windows | None:
        """The windows that are those of the whole text; None where none is known."""
        if self.protocol.preset == "llama.cpp":  # an error says where a text is too short
            return None
        model = self.model
        try:
            windows = plan(encodings, self.protocol, model.tokenizer, model.context)
        except InvalidValueError:  # nothing is scored so far; of the whole text it is said
            return None
        # The last document may go on: its last windows may, too.
        last = len(encodings) - 1
        may_grow_W = (windows.document_W == last) & (windows.last_W >= len(encodings[last]))
        return windows[: int(np.argmax(may_grow_W)) if may_grow_W.any() else len(windows)]

    def _beginning(
        self, encodings: StoredEncodings, n_bytes: int, predictors: Sequence[Predictor]
    ) -> TokenizedText | None:
        """The windows that are read as they are of the whole text; None for none of them."""
        windows, budget = self._sure_windows(encodings), token_budget(*predictors)
        if windows is None:
            return None
        windows = windows[: windows_of_whole_groups(windows.read(), budget)]
        if not windows or not self._is_sure(windows, predictors, budget):
            return None
        beginning = self._text(encodings, windows)
        return replace(beginning, expected=round(len(beginning) * self._bytes / n_bytes))

    def _is_sure(self, windows: Windows, predictors: Sequence[Predictor], budget: int) -> bool:
        """Whether sharing and cores are those of the whole text."""
        n_inputs_W, longest = windows.read(), self.protocol.window
        assert longest is not None, "the protocol is resolved"
        full = int(n_inputs_W.sum()) // max(budget, longest)
        is_alone = any(p.device.type != "cpu" or is_exclusive(p) for p in predictors)
        if full < cores() and not is_alone:
            return False
        batches = plan_batches(n_inputs_W, budget, lambda longest: "padded").batches
        if all(len(batch.numbers_N) == 1 for batch in batches):
            return True
        # A batch of several windows is within the budget; a token has a byte.
        most = max(document.n_bytes for document in self.documents) + 2
        longest = max(2, min(longest, most, budget // 2))
        return joint_sharing(longest, *predictors) == joint_sharing(2, *predictors)

    def _text(self, encodings: StoredEncodings, windows: Windows) -> TokenizedText:
        return TokenizedText(
            self.documents, encodings, self.protocol, windows, self.model.tokenizer.special_strings
        )

    @property
    def _bytes(self) -> int:
        return sum(document.n_bytes for document in self.documents)


PassText: TypeAlias = TextAhead | TokenizedText
"""The text of a pass, which may not be known to its end."""
