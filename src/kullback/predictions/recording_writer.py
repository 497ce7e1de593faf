"""Writing of recordings (`kullback.predictions.recording` reads them and says what they contain).

The file grows with every `append` and takes its name at the end
(`kullback.predictions.safetensors_stream`), so memory does not grow with the text, and a recording
that was killed leaves nothing under its name, but rows beside it from which the same one resumes.

Axes: M rows (scored tokens), B rows of a chunk, V vocabulary.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import get_args

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from kullback.errors import InvalidValueError
from kullback.predictions.base import FactoredPredictions, Head, Predictions
from kullback.predictions.checks import PLACES, check_rows
from kullback.predictions.recording import FORMAT, KEY, Kind, head_weights
from kullback.predictions.safetensors_stream import DTYPES, SafetensorsStream
from kullback.predictions.truncated import truncate
from kullback.runtime.weights import weights_fingerprint

__all__ = ["RecordingWriter"]

DEFAULT_K = 64
# Bytes of the header for the description of the head, which is written at the end.
HEAD_BYTES = 1024
CHUNK_BYTES = 32 << 20


class RecordingWriter:
    """Writes a recording: a context manager; `append` the rows in the order of the text.

    `metadata` is plain data for JSON: the parts of the fingerprint and "model", the name.
    `vocabulary_size` is V; a top-k recording may leave out tokens that only pad the vocabulary and
    is then about the distribution over the first V.  `k` is for top-k only.  With `head=False`
    only the SHA-256 of the head is stored: whoever opens the recording gives the head.
    `hidden_dtype` is the type of hidden states on disk; None takes the head's own 16-bit type if
    the first rows lose nothing in it, otherwise the type that they have.

    After an exception or a kill, `path` holds what it held before.  What was recorded is kept in a
    folder beside it (but after an `InvalidValueError`), and a writer with the same arguments begins
    with these `rows`: append those after them, and where none are left, `take_head`.  Raises
    `RunError` where the file cannot be written.
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
            raise InvalidValueError(
                f"kind is {kind!r}: it must be one of {', '.join(get_args(Kind))}"
            )
        if kind == "top-k" and not 1 <= k <= vocabulary_size:
            raise InvalidValueError(
                f"k is {k}: it must be in [1, {vocabulary_size}], the size of the vocabulary"
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
            # In the header it is JSON within JSON.
            size = len(json.dumps(_json(self._about)))
        except (TypeError, ValueError) as error:
            raise InvalidValueError(f"metadata cannot be written as JSON: {error}") from None
        whole = [_json(self._about), k if kind == "top-k" else None, head, str(hidden_dtype)]
        identity = hashlib.sha256(json.dumps(whole).encode()).hexdigest()
        self._stream = SafetensorsStream(path, size + HEAD_BYTES, identity)
        self._live: Head | None = None

    def __enter__(self) -> RecordingWriter:
        self._stream.__enter__()
        self.rows = self._stream.kept
        notes = self._stream.notes
        self._about |= {name: notes[name] for name in ("arithmetic",) if name in notes}
        if "hidden_dtype" in notes:
            self.hidden_dtype = DTYPES[notes["hidden_dtype"]]
        return self

    @property
    def kept(self) -> int:
        """Rows on the disk from which another writer would resume, also after the end."""
        return self._stream.kept

    @torch.inference_mode()
    def append(
        self,
        predictions: Predictions,
        targets_M: Int[np.ndarray, "M"],
        document_M: Int[np.ndarray, "M"],
        position_M: Int[np.ndarray, "M"],
    ) -> None:
        """Add rows, with the target token of each, its document and its position.

        Raises `InvalidValueError` where lengths or token ids do not fit, where a logit is NaN or
        +inf, where the head is not that of the rows before, and where hidden states lose digits in
        the type chosen by the first rows.
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
        notes = {"arithmetic": str(self._about["arithmetic"])}
        if self.hidden_dtype is not None:
            notes["hidden_dtype"] = _name(self.hidden_dtype)
        self._stream.mark(notes)

    def take_head(self, predictions: Predictions) -> None:
        """Take the head of predictions whose rows are there already."""
        if self.kind == "exact" and isinstance(predictions, FactoredPredictions):
            self._live = predictions.head

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
                f"vocabulary_size is {self.vocabulary_size} and the predictions are over "
                f"{predictions.vocabulary_size} tokens: an exact recording contains all of them"
            )
        if isinstance(predictions, FactoredPredictions):
            yield {"hidden": self._hidden(predictions)}
            return
        size = max(1, CHUNK_BYTES // (4 * self.vocabulary_size))
        for start in range(0, len(predictions), size):
            logits_BV = predictions.logits(slice(start, min(start + size, len(predictions))))
            check_rows(logits_BV.amax(dim=1), self.rows + start)
            self._about["arithmetic"] = _name(logits_BV.dtype)
            yield {"logits": logits_BV}

    def _hidden(self, predictions: FactoredPredictions) -> Tensor:
        """Hidden states in the type that they are stored in."""
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
        return hidden_MD.to(dtype)

    def _finish(self) -> None:
        if not self.rows:
            raise InvalidValueError(f"nothing was recorded: {self.path} would have no rows")
        weights: dict[str, Tensor] = {}
        if self._live is not None:
            weights = head_weights(self._live)
            self._about |= {
                "head": weights_fingerprint(weights),
                "scale": self._live.scale,
                "softcap": self._live.softcap,
            }
        self._stream.publish(weights if self.head else {}, {KEY: _json(self._about)})


def _check_head(head: Head) -> None:
    """Raise `InvalidValueError` for a head that a safetensors file cannot hold as it is."""
    for part in (head.weight_VD, head.bias_V):
        if part is None:
            continue
        if hasattr(part, "__tensor_flatten__") or part.dtype not in DTYPES.values():
            raise InvalidValueError(
                f"the head is {type(part).__name__} of {part.dtype}, which cannot be stored as it "
                "is: record with --distributions top-k"
            )


def _same_head(first: Head, second: Head) -> bool:
    def key(head: Head) -> list[object]:
        parts = [part for part in (head.weight_VD, head.bias_V) if part is not None]
        return [head.scale, head.softcap, *((part.data_ptr(), part.shape) for part in parts)]

    return key(first) == key(second)


def _fits(values: Tensor, dtype: torch.dtype) -> bool:
    """Whether the values come back from `dtype` unchanged."""
    return dtype == values.dtype or torch.equal(values.to(dtype).to(values.dtype), values)


def _check_places(name: str, values: np.ndarray, rows: int, vocabulary_size: int) -> None:
    if values.shape != (rows,) or not np.issubdtype(values.dtype, np.integer):
        raise InvalidValueError(
            f"{name} has shape {values.shape} and type {values.dtype}: give one integer for each "
            f"of the {rows} rows"
        )
    limit = vocabulary_size if name == "targets" else np.iinfo(np.int32).max
    if rows and (values.min() < 0 or values.max() >= limit):
        bad = int(np.flatnonzero((values < 0) | (values >= limit))[0])
        raise InvalidValueError(f"{name}[{bad}] is {values[bad]}: it must be in [0, {limit})")


def _name(dtype: torch.dtype) -> str:
    return next(name for name, known in DTYPES.items() if known == dtype)


def _json(about: Mapping[str, object]) -> str:
    return json.dumps(about, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
