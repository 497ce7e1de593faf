"""Files of stationary processes: Markov chains and hidden Markov processes as TOML.

A chain states the distribution of the next symbol after each context; contexts of k symbols make a
chain of order k::

    name = "weather"
    [chain]
    sun = { sun = 0.8, rain = 0.2 }
    rain = { sun = 0.4, rain = 0.6 }

A hidden Markov process lists the steps of each state::

    name = "golden-mean"
    [states]
    A = [{ p = 0.5, write = "1", then = "A" }, { p = 0.5, write = "0", then = "B" }]
    B = [{ p = 1.0, write = "1", then = "A" }]
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kullback.errors import GrammarError
from kullback.sources.process import Process, Step

__all__ = ["is_process", "parse_process"]

MOST_SHOWN = 80  # characters of a value in a message


def is_process(data: Mapping[str, Any]) -> bool:
    """Whether the content of a TOML file is a process, and not a grammar."""
    return "chain" in data or "states" in data


def parse_process(path: Path, data: Mapping[str, Any]) -> Process:
    """The process of a TOML file; a `GrammarError` names what is malformed and where."""
    tables = [table for table in ("chain", "states", "rules") if table in data]
    if len(tables) > 1:
        raise GrammarError(f"{path} has the tables {', '.join(tables)}: keep one of them")
    name = data.get("name", path.stem)
    if not isinstance(name, str):
        raise GrammarError(f"{path}: the name is {_shortened(name)}: it must be a string")
    table = data[tables[0]]
    if not isinstance(table, dict) or not table:
        raise GrammarError(f"{path}: {tables[0]} is {_shortened(table)}: it must be a table")
    read = _chain if tables[0] == "chain" else _states
    return Process.from_steps(name, read(path, table))


def _chain(path: Path, table: Mapping[str, object]) -> dict[str, list[Step]]:
    orders = {len(context.split()) for context in table}
    if len(orders) > 1 or 0 in orders:
        raise GrammarError(
            f"{path}: the contexts of [chain] have {', '.join(map(str, sorted(orders)))} symbols: "
            "all must have the same number of symbols, at least one"
        )
    (order,) = orders
    steps: dict[str, list[Step]] = {}
    for context, row in table.items():
        if not isinstance(row, dict) or not row:
            raise GrammarError(
                f"{path}: after {context!r}, {_shortened(row)} must be a table of symbols and "
                "probabilities, e.g. { sun = 0.8, rain = 0.2 }"
            )
        words = context.split()
        steps[" ".join(words)] = [
            Step(symbol, _probability(path, context, p), " ".join([*words, symbol][-order:]))
            for symbol, p in row.items()
            if p != 0
        ]
    return steps


def _states(path: Path, table: Mapping[str, object]) -> dict[str, list[Step]]:
    steps: dict[str, list[Step]] = {}
    for state, body in table.items():
        if not isinstance(body, list) or not body:
            raise GrammarError(
                f"{path}: the state {state!r} is {_shortened(body)}: it must be a list of steps, "
                'e.g. [{ p = 1.0, write = "1", then = "A" }]'
            )
        steps[state] = []
        for i, entry in enumerate(body):
            match entry:
                case {"p": p, "write": str() as symbol, "then": str() as target, **others} if (
                    not others
                ):
                    steps[state].append(Step(symbol, _probability(path, state, p), target))
                case _:
                    raise GrammarError(
                        f"{path}: step {i} of the state {state!r} is {_shortened(entry)}: write "
                        '{ p = 0.5, write = "1", then = "A" }'
                    )
    return steps


def _probability(path: Path, where: str, p: object) -> float:
    if isinstance(p, bool) or not isinstance(p, int | float):
        raise GrammarError(f"{path}: in {where!r}, {_shortened(p)} must be a probability")
    return float(p)


def _shortened(value: object) -> str:
    """A value in a message: what it contains may be long."""
    return repr(value) if len(repr(value)) <= MOST_SHOWN else f"{repr(value)[:MOST_SHOWN]}..."
