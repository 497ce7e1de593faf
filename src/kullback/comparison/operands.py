"""Operands of a comparison: a model that reads the text now, or a recording of one.

A comparison asks an operand for predictions, window by window, for what its numbers depend on, and
whether it is about the same tokens as the others.  A recording answers as its model would
(`kullback.predictions.recording`), but has no tokenizer: a model must tokenize the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol as Interface
from typing import cast

import numpy as np
import torch

from kullback.comparison.token_agreement import check_tokens
from kullback.errors import InvalidValueError
from kullback.evaluation.on_text import model_fingerprint
from kullback.evaluation.passes import Batch, ModelPredictor, Predictor, TokenizedText
from kullback.evaluation.text_ahead import PassText
from kullback.models.interface import Sharing, TextModel
from kullback.models.quantized import SizedModel
from kullback.predictions.base import Predictions, joined
from kullback.predictions.recording import Recording
from kullback.text.documents import Document
from kullback.text.fingerprint import Fingerprint, Part, check_same_text, text_fingerprint

__all__ = [
    "ModelOperand",
    "Operand",
    "RecordingOperand",
    "check_context",
    "check_is_text",
    "text_parts",
]

# What the metadata of a recording hold beside the parts of the fingerprint.
NO_PARTS = ("model", "size_bytes", "begins_with")


class Operand(Predictor, Interface):
    """A predictor, and what a comparison must know of it."""

    @property
    def model(self) -> TextModel | None:
        """The model itself; None where there are only its predictions."""

    @property
    def vocabulary_size(self) -> int:
        """V."""

    @property
    def size_bytes(self) -> int | None:
        """What the weights take; None where it is unknown."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that the user should read."""

    def fingerprint(self, documents: Sequence[Document], text: PassText) -> Fingerprint:
        """What this operand's numbers depend on."""

    def check(self, documents: Sequence[Document], text: PassText, reader: TextModel) -> None:
        """Raise `InvalidValueError` unless it is about the tokens of `text`.

        `documents` are those that `reader` tokenizes.
        """


def check_context(name: str, context: int | None, text: PassText) -> None:
    """Raise `InvalidValueError` where windows are longer than the model called `name` can read."""
    window = text.protocol.window
    if context is not None and window is not None and window > context:
        raise InvalidValueError(
            f"window is {window}: {name} reads at most {context} tokens; choose a window of "
            f"{context} or less (--window {context})"
        )


@dataclass(frozen=True, eq=False)
class ModelOperand:
    """A model that reads the text now."""

    sized: SizedModel

    @property
    def name(self) -> str:
        """The model's."""
        return self.model.name

    @property
    def device(self) -> torch.device:
        """The model's."""
        return self.model.device

    @property
    def model(self) -> TextModel:
        """The model."""
        return self.sized.model

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.model.vocabulary_size

    @property
    def size_bytes(self) -> int | None:
        """What the weights take."""
        return self.sized.size_bytes

    @property
    def notes(self) -> tuple[str, ...]:
        """The model's."""
        return self.model.notes

    def sharing(self, longest: int) -> Sharing:
        """The model's."""
        return ModelPredictor(self.model).sharing(longest)

    def predictions(self, batch: Batch) -> Predictions:
        """What the model predicts now."""
        return ModelPredictor(self.model).predictions(batch)

    def fingerprint(self, documents: Sequence[Document], text: PassText) -> Fingerprint:
        """Of this text under this protocol."""
        return model_fingerprint(self.model, documents, text)

    def check(self, documents: Sequence[Document], text: PassText, reader: TextModel) -> None:
        """Raise `InvalidValueError` where it reads other tokens, or shorter windows."""
        check_context(self.name, self.model.context, text)
        check_tokens(self.name, self.model.tokenizer, (reader.name, reader.tokenizer), text)


@dataclass(frozen=True, eq=False)
class RecordingOperand:
    """What a model predicted of the text when it was recorded."""

    recording: Recording
    model: None = None

    @classmethod
    def open(cls, path: Path) -> RecordingOperand:
        """The recording at `path`; raises as `Recording.open` does."""
        return cls(Recording.open(path))

    @property
    def name(self) -> str:
        """The file's, as it was given."""
        return str(self.recording.path)

    @property
    def device(self) -> torch.device:
        """Where recordings are read."""
        return torch.device("cpu")

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.recording.vocabulary_size

    @property
    def size_bytes(self) -> int | None:
        """What the model's weights took, where the recording says so."""
        size = self.recording.metadata.get("size_bytes")
        return size if isinstance(size, int) else None

    @property
    def notes(self) -> tuple[str, ...]:
        """Of what the file is a recording."""
        known = [
            str(self.identity.parts[n]) for n in ("dtype", "device") if n in self.identity.parts
        ]
        made = f", made in {' on '.join(known)}" if known else ""
        return (f"{self.name} is a recording of {self.recording.name}{made}",)

    @cached_property
    def identity(self) -> Fingerprint:
        """What the numbers depended on when they were recorded."""
        metadata = cast("Mapping[str, Part]", self.recording.metadata)
        return Fingerprint({name: part for name, part in metadata.items() if name not in NO_PARTS})

    def sharing(self, longest: int) -> Sharing:
        """All of an exact recording: rows are read, not windows."""
        return "padded" if self.recording.kind == "exact" else "alone"

    def predictions(self, batch: Batch) -> Predictions:
        """What the model predicted."""
        return joined([self.recording.predictions(rows) for rows in batch.rows])

    def fingerprint(self, documents: Sequence[Document], text: PassText) -> Fingerprint:
        """Of the text and protocol that were recorded."""
        return self.identity

    def check(self, documents: Sequence[Document], text: PassText, reader: TextModel) -> None:
        """Raise `InvalidValueError` where text, tokenizer or protocol are not those recorded."""
        tokenized = text.whole
        now = text_parts(documents, tokenized, reader)
        if self._has_tokens_of(tokenized, reader):
            now["tokenizer"] = cast("Part", self.recording.metadata.get("tokenizer"))
        check_same_text(self.recording.metadata, now, (self.name, f"the reading of {reader.name}"))
        if not np.array_equal(self.recording.targets, tokenized.targets):
            raise InvalidValueError(
                f"{self.name} has {len(self.recording):,} rows that are not about the "
                f"{len(tokenized):,} tokens of its own text: it is damaged; record it again"
            )

    def _has_tokens_of(self, tokenized: TokenizedText, reader: TextModel) -> bool:
        """Whether the tokens are the same although llama.cpp's tokenizer read them for one of both.

        What begins a text is no target, and must be known to be the same.
        """
        metadata, tokenizer = self.recording.metadata, reader.tokenizer
        backends = (metadata.get("backend"), getattr(reader, "backend", None))
        own = tokenizer.bos_id if tokenizer.adds_bos else None
        return (
            any(backends)
            and "begins_with" in metadata
            and metadata["begins_with"] == own
            and np.array_equal(self.recording.targets, tokenized.targets)
        )


def text_parts(
    documents: Sequence[Document], tokenized: TokenizedText, reader: TextModel
) -> dict[str, Part]:
    """The parts of a fingerprint that say which tokens are read."""
    return {
        "text": text_fingerprint(documents),
        "tokenizer": reader.tokenizer.fingerprint,
        "protocol": asdict(tokenized.protocol),
    }


def check_is_text(name: str, parts: Mapping[str, object], documents: Sequence[Document]) -> None:
    """Raise `InvalidValueError` unless `documents` are the text that `parts` are a fingerprint of.

    For what was recorded under `name` and is not read again.
    """
    if parts.get("text") != text_fingerprint(documents):
        raise InvalidValueError(
            f"the texts are not the same: {name} was recorded on another text than the one given; "
            "give the text that was recorded, or leave it out (--text)"
        )
