"""Predictions on disk: what a model said of a text, to be compared later or elsewhere.

Two kinds, both in the order of reading:

``exact``
    The hidden states, D numbers a token, and the head once: everything that the model said, in D
    instead of V numbers.  They are kept in the model's own 16-bit type where that loses nothing,
    and read back in the type of the live arithmetic, so what is recomputed is the same.  A model
    that has no head that can be taken off is kept as V logits a token.
``top-k``
    The k largest logits, the target's, the logarithm of the normaliser and that of the mass of all
    other words.  A measure of the whole distribution cannot be computed from it and says so; KL can
    be bounded (`kullback.scoring.kl_bounds`).

A file is a safetensors file, which other tools read.  It grows with every `append` and takes its
name at the end (`kullback.predictions.safetensors_stream`), so that the text's length does not show
in memory and a recording that was killed has no name.  Reading maps the file into memory.

The metadata are the parts of a fingerprint (`kullback.text.fingerprint`) and what else the
writer knows: two recordings are comparable where text, tokenizer and protocol are the same.

Axes: M rows (scored tokens), B rows of a chunk, D width, V vocabulary, K most probable words.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kullback.errors import InvalidValueError
from kullback.predictions.base import DensePredictions, FactoredPredictions, Head, Predictions
from kullback.predictions.checks import check_rows
from kullback.predictions.safetensors_stream import DTYPES, PADDING, SafetensorsStream
from kullback.predictions.truncated import TruncatedPredictions, truncate
from kullback.runtime.weights import weights_fingerprint

__all__ = [
    "Kind",
    "Recording",
    "RecordingWriter",
    "TruncatedPredictions",
    "check_same_text",
    "is_recording",
]

Kind = Literal["exact", "top-k"]
FORMAT = 1
KEY = "kullback_recording"
DEFAULT_K = 64
# What is known of the head, and written of it, only at the end.
HEAD_ROOM = 1024
CHUNK_BYTES = 32 << 20
PLACES = ("targets", "documents", "positions")
TOP = ("top_words", "top_logits", "target_logits", "log_normaliser", "log_rest")
HEAD = ("head.weight", "head.bias")
# What must be the same for two models' rows to be about the same tokens.
SAME = {
    "text": "the texts are not the same",
    "tokenizer": "the tokenizers are not the same (compare models at byte boundaries: --by-bytes)",
    "protocol": "it was not read in the same way (--protocol, --joined, --window, --stride, --bos)",
}


class RecordingWriter:
    """Writes a recording: a context manager; `append` the rows in the order of reading.

    `metadata` is plain data for JSON: the parts of the fingerprint and "model", the name.
    `vocabulary_size` is V; a top-k recording may leave out words that only pad the vocabulary and
    is then about the distribution over the first V.  `k` counts for top-k only.  With `head=False`
    the head is not stored, only its SHA-256: whoever opens the recording brings it.  `hidden_dtype`
    is the type of hidden states on disk; None takes the head's own 16-bit type if the first rows
    lose nothing in it, otherwise the type that they have.

    Leaving with an exception, or being killed, leaves nothing at `path` but what was there before.
    Raises `RunError` where the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        kind: Kind,
        metadata: Mapping[str, object],
        vocabulary_size: int,
        k: int = DEFAULT_K,
        head: bool = True,
        hidden_dtype: torch.dtype | None = None,
    ) -> None:
        if kind not in get_args(Kind):
            raise InvalidValueError(f"kind is {kind!r}: it must be one of {get_args(Kind)}")
        if kind == "top-k" and not 1 <= k <= vocabulary_size:
            raise InvalidValueError(
                f"k is {k}: it must lie in [1, {vocabulary_size}], the words of the vocabulary"
            )
        if path.is_dir():
            raise InvalidValueError(f"the recording {path} is a folder: give the name of a file")
        self.path, self.kind, self.k = path, kind, k
        self.vocabulary_size, self.head, self.hidden_dtype = vocabulary_size, head, hidden_dtype
        self.rows = 0
        self._about: dict[str, object] = {
            "format": FORMAT,
            "kind": kind,
            "vocabulary_size": vocabulary_size,
            "arithmetic": "F64",
            "metadata": dict(metadata),
        }
        try:
            # As it stands in the header: JSON within JSON.
            size = len(json.dumps(_json(self._about)))
        except (TypeError, ValueError) as error:
            raise InvalidValueError(f"metadata cannot be written as JSON: {error}") from None
        self._stream = SafetensorsStream(path, size + HEAD_ROOM)
        self._live: Head | None = None

    def __enter__(self) -> RecordingWriter:
        self._stream.__enter__()
        return self

    @torch.inference_mode()
    def append(
        self,
        predictions: Predictions,
        targets_M: Int[np.ndarray, "M"],
        document_M: Int[np.ndarray, "M"],
        position_M: Int[np.ndarray, "M"],
    ) -> None:
        """Add rows, with the token that each is about, its document and its position.

        Raises `InvalidValueError` where lengths or words do not fit, where a logit is NaN or +inf,
        where the head is not that of the rows before, and where hidden states lose digits in the
        type chosen by the first rows.
        """
        given = zip(PLACES, (targets_M, document_M, position_M), strict=True)
        places = {name: np.asarray(values) for name, values in given}
        for name, values in places.items():
            _check_places(name, values, len(predictions), self.vocabulary_size)
        if self.kind == "exact":
            parts = self._exact(predictions)
        else:
            targets = torch.from_numpy(places["targets"].astype(np.int64))
            parts = truncate(predictions, targets, self.vocabulary_size, self.k, self.rows)
        for part in parts:
            for name, column in part.items():
                self._stream.append(name, column)
        for name, values in places.items():
            self._stream.append(name, torch.from_numpy(values.astype(np.int32)))
        self.rows += len(predictions)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._stream.__exit__(kind, error, trace)

    def _exact(self, predictions: Predictions) -> Iterator[dict[str, Tensor]]:
        """The main column of some rows."""
        if predictions.vocabulary_size != self.vocabulary_size:
            raise InvalidValueError(
                f"vocabulary_size is {self.vocabulary_size} and the predictions have "
                f"{predictions.vocabulary_size} words: an exact recording holds all"
            )
        if not isinstance(predictions, FactoredPredictions):
            size = max(1, CHUNK_BYTES // (4 * self.vocabulary_size))
            for start in range(0, len(predictions), size):
                logits_BV = predictions.logits(slice(start, min(start + size, len(predictions))))
                check_rows(logits_BV.amax(dim=1), self.rows + start)
                self._about["arithmetic"] = _name(logits_BV.dtype)
                yield {"logits": logits_BV}
            return
        head, hidden_MD = predictions.head, predictions.hidden_MD.cpu()
        check_rows(hidden_MD.abs().amax(dim=1), self.rows, numbers="hidden states")
        if self._live is None:
            _check_head(head)
            self._live = head
            if self.hidden_dtype is None:
                own = head.weight_VD.dtype
                narrow = own.itemsize < hidden_MD.dtype.itemsize and _fits(hidden_MD, own)
                self.hidden_dtype = own if narrow else hidden_MD.dtype
            self._about["arithmetic"] = _name(hidden_MD.dtype)
        elif not _same_head(head, self._live):
            raise InvalidValueError(
                "the head of these rows is not that of the rows before: a recording is of one model"
            )
        dtype = self.hidden_dtype or hidden_MD.dtype
        if not _fits(hidden_MD, dtype):
            raise InvalidValueError(
                f"hidden states from row {self.rows} on lose digits in {dtype}, the type of this "
                f"recording: record with hidden_dtype={hidden_MD.dtype}"
            )
        yield {"hidden": hidden_MD.to(dtype)}

    def _finish(self) -> None:
        if not self.rows:
            raise InvalidValueError(f"nothing was recorded: {self.path} would have no rows")
        weights: dict[str, Tensor] = {}
        if self._live is not None:
            weights = _weights(self._live)
            self._about |= {
                "head": weights_fingerprint(weights),
                "scale": self._live.scale,
                "softcap": self._live.softcap,
            }
        self._stream.publish(weights if self.head else {}, {KEY: _json(self._about)})


@dataclass(frozen=True, eq=False)
class Recording:
    """A recording, mapped into memory: only the rows that are asked for are read."""

    path: Path
    kind: Kind
    metadata: dict[str, object]
    """As the writer got them."""
    vocabulary_size: int
    head: Head | None
    """Of an exact recording of a model that has one."""
    columns: dict[str, Tensor] = field(repr=False)
    """The tensors of the file."""
    arithmetic: torch.dtype
    """The type in which the live model's head computes."""

    @classmethod
    def open(cls, path: Path, head: Head | None = None) -> Recording:
        """Read the header, map the rest.

        `head` is for a recording that was written without: it must be the model's own.  Raises
        `InvalidValueError` where the file is missing, foreign, cut short or damaged, and where the
        head is missing or another.
        """
        try:
            with safe_open(path, framework="pt") as file:
                content = (file.metadata() or {}).get(KEY)
                if content is None:
                    raise InvalidValueError(
                        f"{path} is a safetensors file, but no recording: write one with kullback "
                        "record"
                    )
                columns = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            about = json.loads(content)
            if about["format"] != FORMAT:
                raise ValueError(f"format {about['format']} is not {FORMAT}")
            weights = {name: columns.pop(name) for name in HEAD if name in columns}
            head = _head(about, weights, head, path)
            found = cls(
                path,
                about["kind"],
                about["metadata"],
                int(about["vocabulary_size"]),
                head,
                columns,
                DTYPES[about["arithmetic"]],
            )
            found._check()
        except OSError as error:
            why = error.strerror or "no such file"
            raise InvalidValueError(f"the recording {path} cannot be read: {why}") from None
        except SafetensorError as error:
            raise InvalidValueError(
                f"{path} is no recording, or it was cut short ({error}); write it again with "
                "kullback record"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, InvalidValueError):
                raise
            raise InvalidValueError(
                f"the recording {path} is damaged or of another version ({error}): write it again"
            ) from None
        return found

    def __len__(self) -> int:
        return len(self.columns["targets"])

    @property
    def name(self) -> str:
        """The model's, where the metadata have it; else the file's."""
        return str(self.metadata.get("model", self.path.name))

    @cached_property
    def targets(self) -> Int[np.ndarray, "M"]:
        """The token that each row is about."""
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
        """What the model said at some rows, copied from the file.

        Factored (or dense) from an exact recording, `TruncatedPredictions` from a top-k one.
        """
        part = {name: column[rows] for name, column in self.columns.items() if name != PADDING}
        if self.kind == "top-k":
            return TruncatedPredictions.from_columns(part, part["targets"], self.vocabulary_size)
        if self.head is None:
            return DensePredictions(part["logits"].clone())
        return FactoredPredictions(part["hidden"].to(self.arithmetic, copy=True), self.head)

    def _check(self) -> None:
        """`ValueError` or `KeyError` where the columns are not those of a recording."""
        main = TOP if self.kind == "top-k" else ("logits" if self.head is None else "hidden",)
        needed = (*PLACES, *main)
        lengths = {len(self.columns[name]) for name in needed}
        if len(lengths) != 1:
            raise ValueError(f"its columns have {sorted(lengths)} rows")
        words = [self.columns["targets"], *(c for n, c in self.columns.items() if n == "top_words")]
        for column in words:
            if column.min() < 0 or column.max() >= self.vocabulary_size:
                raise ValueError(f"it holds words outside of [0, {self.vocabulary_size})")


def is_recording(path: Path) -> bool:
    """Whether the file is one of ours; false for folders, for models, and where there is none."""
    try:
        with safe_open(path, framework="pt") as file:
            return KEY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def check_same_text(
    first: Mapping[str, object],
    second: Mapping[str, object],
    names: tuple[str, str] = ("the first", "the second"),
) -> None:
    """Raise `InvalidValueError` unless two recordings, called `names`, are about the same tokens.

    Both are metadata; `text`, `tokenizer` and `protocol` must be there and the same.  Weights,
    types and versions may differ: that is what is compared.

    >>> check_same_text({"text": "a"}, {"text": "b"})
    Traceback (most recent call last):
    kullback.errors.InvalidValueError: the texts are not the same: text is 'a' in the first ...
    """
    for part, why in SAME.items():
        missing = [n for n, one in zip(names, (first, second), strict=True) if part not in one]
        if first.get(part) != second.get(part):
            raise InvalidValueError(
                f"{why}: {_difference(part, (first.get(part), second.get(part)), names)}; "
                f"record both with the same {part}, or read what was recorded"
            )
        if missing:
            raise InvalidValueError(
                f"the metadata of {' and '.join(missing)} do not say which {part} it was: "
                "nobody can tell whether the rows are about the same tokens; record it again"
            )


def _difference(part: str, values: tuple[object, object], names: tuple[str, str]) -> str:
    """What differs, field by field where the part has fields."""
    one, two = values
    if isinstance(one, dict) and isinstance(two, dict):
        differ = sorted(n for n in one.keys() | two.keys() if one.get(n) != two.get(n))
        found = [_difference(f"{part}.{n}", (one.get(n), two.get(n)), names) for n in differ]
        return ", ".join(found)
    return f"{part} is {_short(one)} in {names[0]} and {_short(two)} in {names[1]}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 24 else f"{text[:17]}…{text[-1]}"


def _head(
    about: dict[str, object], weights: dict[str, Tensor], given: Head | None, path: Path
) -> Head | None:
    """The head of the file, or the one that was brought for it."""
    known = about.get("head")
    if known is None:
        return None
    if weights:
        scale, softcap = float(str(about["scale"])), about["softcap"]
        cap = None if softcap is None else float(str(softcap))
        return Head(weights["head.weight"], weights.get("head.bias"), scale, cap)
    if given is None:
        raise InvalidValueError(
            f"the recording {path} was written without the model's head: open it with the head of "
            "the same model, or record again with it"
        )
    same = (given.scale, given.softcap) == (about["scale"], about["softcap"])
    if not same or weights_fingerprint(_weights(given)) != known:
        raise InvalidValueError(
            f"the head is not that of the model that {path} is a recording of: its SHA-256, scale "
            "or soft-cap differs; give that model's own head"
        )
    return given


def _check_head(head: Head) -> None:
    for part in (head.weight_VD, head.bias_V):
        plain = part is None or not hasattr(part, "__tensor_flatten__")
        if part is not None and not (plain and part.dtype in DTYPES.values()):
            raise InvalidValueError(
                f"the head is {type(part).__name__} of {part.dtype}, which cannot be stored as it "
                "is: record with --distributions top-k"
            )


def _weights(head: Head) -> dict[str, Tensor]:
    parts = zip(HEAD, (head.weight_VD, head.bias_V), strict=True)
    return {name: part.detach().cpu() for name, part in parts if part is not None}


def _same_head(one: Head, other: Head) -> bool:
    def key(head: Head) -> list[object]:
        parts = [part for part in (head.weight_VD, head.bias_V) if part is not None]
        return [head.scale, head.softcap, *((part.data_ptr(), part.shape) for part in parts)]

    return key(one) == key(other)


def _fits(values: Tensor, dtype: torch.dtype) -> bool:
    """Whether the values come back from `dtype` as they were."""
    return dtype == values.dtype or torch.equal(values.to(dtype).to(values.dtype), values)


def _check_places(name: str, values: np.ndarray, rows: int, V: int) -> None:
    if values.shape != (rows,) or not np.issubdtype(values.dtype, np.integer):
        raise InvalidValueError(
            f"{name} has shape {values.shape} and type {values.dtype}: give one integer for each "
            f"of the {rows} rows"
        )
    limit = V if name == "targets" else np.iinfo(np.int32).max
    if rows and (values.min() < 0 or values.max() >= limit):
        bad = int(np.flatnonzero((values < 0) | (values >= limit))[0])
        raise InvalidValueError(f"{name}[{bad}] is {values[bad]}: it must lie in [0, {limit})")


def _name(dtype: torch.dtype) -> str:
    return next(name for name, known in DTYPES.items() if known == dtype)


def _json(about: Mapping[str, object]) -> str:
    return json.dumps(about, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
