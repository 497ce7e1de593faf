"""The source that a model was trained on, by the tokenizer that is beside its weights.

The exports that are looked at are the ``floor.json`` in the model's folder, in the folder above,
in the folders beside it, in the current folder, and in the folders there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from kullback.errors import InvalidValueError
from kullback.sources.catalogue import NAMES, AnySource, open_any_source
from kullback.sources.floor import FLOOR, Floor, read_floor, vocabulary_fingerprint, vocabulary_of
from kullback.sources.known_processes import KNOWN
from kullback.sources.process import Process

__all__ = ["find_source", "open_named"]

# Of a folder: a place with more entries is not one where exports are kept.
MOST_ENTRIES = 1000


def open_named(name: str) -> tuple[AnySource, int | None]:
    """The source of that name, file, ``floor.json`` or folder of an export, and its window.

    Raises `InvalidValueError` as `open_any_source` and `read_floor` do.
    """
    if name and name not in NAMES and (Path(name).name == FLOOR or os.path.isdir(name)):
        floor = read_floor(Path(name))
        return floor.open(), floor.window
    return open_any_source(name), None


def find_source(folder: Path, window: int | None = None) -> tuple[AnySource, int | None] | None:
    """The source whose vocabulary the tokenizer in `folder` has, and the symbols of its windows.

    None where no export and no embedded source has it; `InvalidValueError` where several have, or
    where exports of it have windows of different lengths and `window` is not given instead.
    """
    known = vocabulary_of(folder)
    if known is None:
        return None
    vocabulary, named = known
    fingerprint = vocabulary_fingerprint(vocabulary)
    floors: dict[tuple[str, int | None], Floor] = {}
    for path in _exports(folder):
        try:
            floor = read_floor(path)
        except InvalidValueError:  # a file of another program: it is not the one looked for
            continue
        if floor.tokenizer_fingerprint == fingerprint and named in (None, floor.fingerprint):
            symbols = floor.window if window is None else None
            floors.setdefault((floor.fingerprint, symbols), floor)
    if len(floors) == 1:
        (floor,) = floors.values()
        return floor.open(), floor.window
    if floors:
        places = ", ".join(sorted(map(_shown, floors.values())))
        raise InvalidValueError(
            f"the tokenizer in {folder} belongs to several exports, {places}: name one of them "
            "(--source FOLDER/floor.json)"
        )
    embedded = [name for name in KNOWN if _is_of(name, vocabulary, named)]
    # Building it takes two seconds; every sentence of it has an arrow.
    if not embedded and "→" in vocabulary and _is_of("conjugation", vocabulary, named):
        embedded = ["conjugation"]
    if not embedded and "cue-1" in vocabulary and _is_of("associations", vocabulary, named):
        embedded = ["associations"]
    if len(embedded) > 1:
        raise InvalidValueError(
            f"the tokenizer in {folder} belongs to several sources, {', '.join(embedded)}: name "
            "one of them (--source NAME)"
        )
    return (open_any_source(embedded[0]), None) if embedded else None


def _shown(floor: Floor) -> str:
    windows = "" if floor.window is None else f" (windows of {floor.window} symbols)"
    return f"{floor.path}{windows}"


def _is_of(name: str, vocabulary: tuple[str, ...], named: str | None) -> bool:
    """Whether an embedded source has that vocabulary and, where one is named, that fingerprint."""
    source = open_any_source(name)
    own = source.vocabulary if isinstance(source, Process) else source.training.vocabulary
    return own == vocabulary and named in (None, source.fingerprint())


def _exports(folder: Path) -> Iterator[Path]:
    """The ``floor.json`` files near a model, each once."""
    above = folder.resolve().parent
    seen: set[Path] = set()
    for place in (folder, above, *_folders(above), Path(), *_folders(Path())):
        path = (place / FLOOR).resolve()
        if path not in seen and path.is_file():
            seen.add(path)
            yield path


def _folders(folder: Path) -> list[Path]:
    try:
        return [path for path in islice(folder.iterdir(), MOST_ENTRIES) if path.is_dir()]
    except OSError:  # one that may not be listed has no export for us
        return []
