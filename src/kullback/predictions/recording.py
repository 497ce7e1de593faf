"""Recordings of a model's predictions on a text, and reading them.

Two kinds, both in the order of the text:

``exact``
    The hidden states, D numbers a token, and the head once: all predictions, in D instead of V
    numbers.  They are kept in the model's own 16-bit type where that loses nothing, and read back
    in the type of the live arithmetic, so logits computed from them are the same.  A model whose
    head cannot be separated is kept as V logits a token.
``top-k``
    The k largest logits, the target's, the logarithm of the normaliser and that of the mass of all
    other tokens.  A measure that needs the whole distribution raises an error; KL can be bounded
    (`kullback.scoring.kl_bounds`).

A recording is a safetensors file, which other tools read; `kullback.predictions.recording_writer`
writes it with checksums.  Reading checks them and maps the file into memory.

The metadata are the parts of a fingerprint (`kullback.text.fingerprint`) and whatever else the
writer adds: two recordings are comparable where text, tokenizer and protocol are the same.

Axes: M rows (scored tokens), D width, V vocabulary, K most probable tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import torch
from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kullback.errors import InvalidValueError
from kullback.predictions.base import (
    DensePredictions,
    FactoredPredictions,
    Head,
    Predictions,
    StoredHead,
)
from kullback.predictions.checks import check_recording
from kullback.predictions.checksums import check_checksums
from kullback.predictions.safetensors_stream import DTYPES, PADDING
from kullback.predictions.truncated import TruncatedPredictions
from kullback.runtime.decoding import Hash, decode_json
from kullback.runtime.inputs import open_regular
from kullback.runtime.weights import weights_fingerprint

__all__ = [
    "FORMAT",
    "HEAD",
    "KEY",
    "Kind",
    "Recording",
    "RecordingInfo",
    "head_weights",
    "read_header",
]

Kind = Literal["exact", "top-k"]
FORMAT = 2
# Format 1 called the column of the most probable tokens by another name.
OLD_NAMES = {"top_words": "top_tokens"}
KEY = "kullback_recording"
"""The entry of the file's metadata that describes the recording, as JSON."""
HEAD = ("head.weight", "head.bias")


_Positive = Annotated[float, msgspec.Meta(gt=0)]


class _About(msgspec.Struct):
    """The description in the header, as JSON."""

    format: int
    kind: Kind
    metadata: dict[str, Any]
    vocabulary_size: Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
    arithmetic: Literal["F64", "F32", "BF16", "F16"]
    head: Hash | None = None
    scale: _Positive = 1.0
    softcap: _Positive | None = None


@dataclass(frozen=True, eq=False)
class Recording:
    """A recording, mapped into memory: only the requested rows are read."""

    path: Path
    kind: Kind
    metadata: dict[str, object]
    """The writer's."""
    vocabulary_size: int
    head: Head | None
    """None in a top-k recording, and in an exact one that holds logits."""
    columns: dict[str, Tensor] = field(repr=False)
    """The tensors of the file."""
    arithmetic: torch.dtype
    """The type in which the live model's head computes."""

    @classmethod
    def open(cls, path: Path, head: Head | None = None) -> Recording:
        """Check the file and map it.

        `head` is for a recording that was written without its head: it must be the model's own.
        The file is read once, for its checksums; one of kullback 0.1 has none.  Raises
        `InvalidValueError` where the file is missing, of another format, truncated or damaged, and
        where the head is missing or that of another model.
        """
        with _explained(path), _opened(path) as (file, about):
            check_checksums(path, file.metadata())
            columns = {
                OLD_NAMES.get(name, name): file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118 - no mapping
            }
            weights = {name: columns.pop(name) for name in HEAD if name in columns}
            recording = cls(
                path,
                about.kind,
                about.metadata,
                about.vocabulary_size,
                _head(about, weights, head, path, columns),
                columns,
                DTYPES[about.arithmetic],
            )
            check_recording(recording.kind, columns, recording.head, recording.vocabulary_size)
        return recording

    def __len__(self) -> int:
        return len(self.columns["targets"])

    @property
    def name(self) -> str:
        """The model's, if the metadata have it; otherwise the file's."""
        return str(self.metadata.get("model", self.path.name))

    @cached_property
    def targets(self) -> Int[np.ndarray, "M"]:
        """The target token of each row."""
        return self.columns["targets"].long().numpy()

    @cached_property
    def documents(self) -> Int[np.ndarray, "M"]:
        """The document of each row."""
        return self.columns["documents"].long().numpy()

    @cached_property
    def positions(self) -> Int[np.ndarray, "M"]:
        """The position of each row."""
        return self.columns["positions"].long().numpy()

    def predictions(self, rows: slice) -> Predictions:
        """The model's predictions at some rows, copied from the file.

        Factored (or dense) from an exact recording, `TruncatedPredictions` from a top-k one.
        """
        part = {name: column[rows] for name, column in self.columns.items() if name != PADDING}
        if self.kind == "top-k":
            return TruncatedPredictions.from_columns(part, part["targets"], self.vocabulary_size)
        if self.head is None:
            return DensePredictions(part["logits"].clone())
        return FactoredPredictions(part["hidden"].to(self.arithmetic, copy=True), self.head)


@dataclass(frozen=True)
class RecordingInfo:
    """What the header of a recording says."""

    kind: Kind
    metadata: dict[str, object]
    """The writer's."""


def read_header(path: Path) -> RecordingInfo:
    """The header of a recording, without its tensors; raises as `Recording.open` does."""
    with _explained(path), _opened(path) as (file, about):
        check_checksums(path, file.metadata(), tensors=False)
        return RecordingInfo(about.kind, about.metadata)


def head_weights(head: Head) -> dict[str, Tensor]:
    """The tensors of a head by the names that they have in a file."""
    parts = zip(HEAD, (head.weight_VD, head.bias_V), strict=True)
    return {name: part.detach().cpu() for name, part in parts if part is not None}


def _head(
    about: _About,
    weights: Mapping[str, Tensor],
    given: Head | None,
    path: Path,
    columns: Mapping[str, Tensor],
) -> Head | None:
    """The head in the file, or the one that was given for it."""
    if about.head is None:
        return None
    if weights:
        # Hidden states are kept in 16 bits where that is exact: they had these bits.
        hidden = columns["hidden"].dtype if "hidden" in columns else torch.float32
        return StoredHead(
            weights["head.weight"],
            weights.get("head.bias"),
            about.scale,
            about.softcap,
            hidden if hidden.itemsize == 2 and about.arithmetic == "F32" else None,
        )
    if given is None:
        raise InvalidValueError(
            f"the recording {path} was written without the model's head: open it with the head of "
            "the same model, or record again with the head"
        )
    same = (given.scale, given.softcap) == (about.scale, about.softcap)
    if not same or weights_fingerprint(head_weights(given)) != about.head:
        raise InvalidValueError(
            f"the head is not that of the model recorded in {path}: its SHA-256, scale or soft-cap "
            "differs; give that model's own head"
        )
    return given


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, _About]]:
    """The file, which has no types, and its description."""
    with open_regular(path):  # before the library, which would wait at a pipe
        pass
    with safe_open(path, framework="pt") as file:
        content = (file.metadata() or {}).get(KEY)
        if content is None:
            raise InvalidValueError(
                f"{path} is a safetensors file, but not a recording: write one with "
                "`kullback record`"
            )
        about = decode_json(content, _About)
        if about.format not in (1, FORMAT):
            raise ValueError(f"format {about.format} is not {FORMAT}")
        yield file, about


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn the errors of reading a file into one sentence."""
    try:
        yield
    except InvalidValueError:
        raise
    except OSError as error:
        why = error.strerror or "no such file"
        raise InvalidValueError(f"the recording {path} cannot be read: {why}") from None
    except SafetensorError as error:
        raise InvalidValueError(
            f"{path} is not a recording, or it is truncated ({error}); write it again with "
            "`kullback record`"
        ) from None
    except (ValueError, KeyError) as error:
        raise InvalidValueError(
            f"the recording {path} is damaged or of another version ({error}): write it again"
        ) from None
