"""A source in a file of arrays, from which it is read again without its grammar or text."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from safetensors.numpy import load, save

from kullback.errors import InvalidValueError
from kullback.runtime.decoding import decode_json, read_bounded
from kullback.sources.catalogue import AnySource, Source
from kullback.sources.language import Language
from kullback.sources.process import Process

__all__ = ["load_source", "save_source"]

_ARRAYS = ("offsets", "arc_tokens", "arc_slots", "probabilities", "targets", "known_visits")
MOST_BYTES = 8 << 30


class _Words(msgspec.Struct, forbid_unknown_fields=True):
    """The strings of a source."""

    name: str
    vocabulary: tuple[str, ...] = ()
    slots: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    states: tuple[str, ...] = ()


def save_source(source: AnySource, path: Path) -> None:
    """Write the process, or the training language, to a safetensors file."""
    if isinstance(source, Process):
        words = _Words(source.name, symbols=source.symbols, states=source.states)
        arrays = {"transitions": source.transitions}
    else:
        language = source.training
        words = _Words(source.name, language.vocabulary, language.slots)
        arrays = {name: array for name in _ARRAYS if (array := getattr(language, name)) is not None}
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    arrays["words"] = np.frombuffer(msgspec.json.encode(words), dtype=np.uint8)
    path.write_bytes(save(arrays))


def load_source(path: Path) -> AnySource:
    """The source of such a file; `InvalidValueError` where it is none, or is inconsistent."""
    try:
        arrays = load(read_bounded(path, MOST_BYTES))
        words = decode_json(arrays.pop("words").tobytes(), _Words)
        if "transitions" in arrays:
            return _process(words, arrays["transitions"])
        return _source(words, arrays)
    except OSError as error:
        raise InvalidValueError(
            f"the source {path} cannot be read: {error.strerror or error}; export it again"
        ) from None
    except Exception as error:  # safetensors has an exception of its own
        raise InvalidValueError(f"{path} is no source: {error}; export it again") from None


def _process(words: _Words, transitions: np.ndarray) -> Process:
    wanted = (len(words.symbols), len(words.states), len(words.states))
    if transitions.shape != wanted or transitions.dtype != np.float64:
        raise ValueError(f"the table has shape {transitions.shape}, not {wanted}")
    _check_sums(transitions.sum(axis=(0, 2)), transitions)
    return Process.from_arrays(words.name, words.symbols, words.states, transitions)


def _source(words: _Words, arrays: dict[str, np.ndarray]) -> Source:
    visits = arrays.get("known_visits")
    of_arcs = {name: arrays[name] for name in _ARRAYS[:-1]}
    language = Language(words.name, words.vocabulary, words.slots, **of_arcs, known_visits=visits)
    states, arcs = len(language.offsets) - 1, len(language.targets)
    sizes = np.diff(language.offsets)
    consistent = (
        states >= 1
        and language.offsets[0] == 0
        and language.offsets[-1] == arcs
        and bool((sizes > 0).all())
        and all(len(arrays[name]) == arcs for name in _ARRAYS[1:5])
        and _within(language.arc_tokens, 0, len(words.vocabulary))
        and _within(language.arc_slots, 0, len(words.slots))
        and _within(language.targets, -1, states)
        and (visits is None or len(visits) == states)
    )
    if not consistent:
        raise ValueError("its arrays do not belong together")
    sums = np.add.reduceat(language.probabilities, language.offsets[:-1])
    _check_sums(sums, language.probabilities)
    return Source(words.name, language)


def _within(array: np.ndarray, low: int, high: int) -> bool:
    return bool(np.issubdtype(array.dtype, np.integer) and ((array >= low) & (array < high)).all())


def _check_sums(sums: np.ndarray, probabilities: np.ndarray) -> None:
    if not (np.abs(sums - 1) < 1e-6).all() or not (probabilities >= 0).all():
        raise ValueError("its probabilities do not sum to 1")
