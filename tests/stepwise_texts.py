"""Texts of which tests know a beginning before the end, and passes in small steps over them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from kullback.errors import InvalidValueError
from kullback.evaluation import batches, predictors, text_ahead
from kullback.text import encoded_documents
from kullback.text.documents import Document
from kullback.text.encoded_documents import EncodedAhead, _Encoder
from kullback.text.protocol import Protocol
from kullback.text.stored_encodings import StoredEncodings
from kullback.text.tokenizer import TextTokenizer
from tiny_models import TEXT

LONG = [Document("long", TEXT * 12 + "\n\n")]
SHORT = [Document(f"line {i}", TEXT[i : i + 5 + 7 * (i % 9)]) for i in range(120)]
MIXED = [*SHORT[:40], Document("empty", ""), *LONG, Document("last", ""), *SHORT[40:]]
PROTOCOL = Protocol(window=32)


class Stepwise(EncodedAhead):
    """Encodes in the caller's thread, no further than it is asked to."""

    def __init__(
        self, tokenizer: TextTokenizer, documents: list[Document], special_tokens: str = "text"
    ) -> None:
        self._encoder = _Encoder(tokenizer.encode, documents)
        self._error: InvalidValueError | None = None
        self._steps = self._encoder.run(ThreadPoolExecutor(1), 1)

    def known(self, enough: int) -> tuple[StoredEncodings, int] | None:
        """As of the thread: None after an error, too."""
        try:
            for _ in self._steps:
                if self._encoder.done.bytes >= enough:
                    return self._encoder.encodings(self._encoder.done), self._encoder.done.bytes
        except InvalidValueError as error:
            self._error = error
        return None

    @property
    def has_failed(self) -> bool:
        """Whether a step has."""
        return self._error is not None

    def all(self) -> StoredEncodings:
        """The rest in one go."""
        for _ in self._steps:
            pass
        if self._error is not None:
            raise self._error
        return self._encoder.encodings()

    def __exit__(self, *exception: object) -> None:
        pass


class Failing(Stepwise):
    """Fails while the first beginning is read, of which it knows 1,500 bytes."""

    def known(self, enough: int) -> tuple[StoredEncodings, int] | None:
        """Much of the text."""
        return super().known(1500)

    @property
    def has_failed(self) -> bool:
        """At once."""
        return True

    def all(self) -> StoredEncodings:
        """Nothing."""
        raise InvalidValueError("no token at byte 1600")


def read_in_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces, groups and beginnings of a few hundred tokens."""
    monkeypatch.setattr(text_ahead, "EncodedAhead", Stepwise)
    monkeypatch.setattr(text_ahead, "SHORT", 0)
    monkeypatch.setattr(text_ahead, "FIRST", 300)
    monkeypatch.setattr(text_ahead, "cores", lambda: 2)
    monkeypatch.setattr(encoded_documents, "PIECE", 400)
    monkeypatch.setattr(encoded_documents, "OVERLAP", 100)
    monkeypatch.setattr(encoded_documents, "AGREEMENT", 8)
    monkeypatch.setattr(batches, "TOKENS_A_GROUP", 256)
    monkeypatch.setattr(predictors, "CPU_TOKENS", 64)


def read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts are known to their end before they are read."""
    monkeypatch.setattr(text_ahead, "SHORT", 1 << 30)
