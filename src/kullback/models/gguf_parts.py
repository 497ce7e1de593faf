"""The parts of a split GGUF file, as llama.cpp's llama-gguf-split names and numbers them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from kullback.errors import InvalidValueError

__all__ = ["part_number", "part_paths"]

NAME = re.compile(r"(?P<prefix>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


def part_paths(path: Path, name: str) -> tuple[Path, ...]:
    """All parts of the file of which `path` is one, in order; `path` alone where it is whole.

    Raises `InvalidValueError` where parts are missing; `name` is what it calls the model.
    """
    match = NAME.fullmatch(path.name)
    if match is None or int(match["count"]) <= 1:
        return (path,)
    count = int(match["count"])
    if not 1 <= int(match["number"]) <= count:
        raise InvalidValueError(
            f"the model {name} is called part {int(match['number'])} of {count}: give the parts "
            "the names that llama-gguf-split gave them"
        )
    # The names in the folder, because a name may say any number of parts.
    present = {entry.name for entry in path.parent.iterdir()}

    def names() -> Iterator[str]:
        return (f"{match['prefix']}-{i:05d}-of-{count:05d}.gguf" for i in range(1, count + 1))

    missing = [part for part in names() if part not in present]
    if missing:
        raise InvalidValueError(
            f"the model {name} is incomplete: {len(missing)} of its {count} parts are missing, the "
            f"first is {missing[0]}; download it into the same folder"
        )
    return tuple(path.with_name(part) for part in names())


def part_number(metadata: Mapping[str, object], name: str) -> tuple[int, int]:
    """The number of a part, from 0, and how many there are, by its header; 0 of 1 if it is whole.

    Raises `InvalidValueError` where the two are no such numbers.
    """
    number, count = metadata.get("split.no", 0), metadata.get("split.count", 1)
    # llama-gguf-split writes 0 parts for one that was joined again.
    if count == 0:
        return 0, 1
    if not isinstance(number, int) or not isinstance(count, int) or not 0 <= number < count:
        raise InvalidValueError(
            f"the model {name} is damaged: its header says part {number!r} of {count!r}; download "
            "it again"
        )
    return number, count
