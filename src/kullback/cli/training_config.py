"""The TOML file of `kullback train --config`: fields named as the keywords of `kullback.train`."""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from kullback.errors import InvalidValueError
from kullback.runtime.decoding import read_bounded
from kullback.runtime.wording import suggestion

__all__ = ["read_config"]

MOST_BYTES = 1 << 20
# What is given beside the file, as a user might name it in it.
ON_COMMAND_LINE = {
    "text": "--text FILE",
    "source": "--source NAME",
    "output": "-o RUN",
    "resume": "--resume RUN",
    "config": "--config FILE",
    "log": "--log NAME",
}


def read_config(
    path: Path, known: Collection[str], texts: Collection[str], switches: Collection[str] = ()
) -> dict[str, Any]:
    """The fields of the file, of which `known` are numbers or names, `texts` names only,
    and `switches` true or false.

    Raises `InvalidValueError` where it cannot be read, is no TOML, or has an unknown field or one
    of another type; numbers are checked where they are used.
    """
    try:
        data = tomllib.loads(read_bounded(path, MOST_BYTES).decode("utf-8-sig"))
    except OSError as error:
        raise InvalidValueError(
            f"the configuration {path} cannot be read: {error.strerror}; check its name"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(f"the configuration {path} is not a TOML file: {error}") from None
    for name, value in data.items():
        if name in ON_COMMAND_LINE:
            raise InvalidValueError(
                f"the configuration {path} has the field {name}, which is no hyperparameter: give "
                f"it on the command line ({ON_COMMAND_LINE[name]}), and remove it from the file"
            )
        if name not in known:
            meant = suggestion(name, known) or f": it may have {', '.join(sorted(known))}"
            raise InvalidValueError(f"the configuration {path} has the unknown field {name}{meant}")
        items = value if isinstance(value, list) and name == "validation" else [value]
        kinds: tuple[type, ...] = (int, float)
        kind = "a number"
        if name in texts:
            kind, kinds = "a text", (str,)
        elif name in switches:
            kind, kinds = "true or false", (bool,)
        if not items or not all(isinstance(item, kinds) for item in items):
            raise InvalidValueError(
                f"{name} in the configuration {path} is {value!r:.60}: it must be {kind}"
            )
    return data
