"""Ranges of the numeric options of all commands, at their ends."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import pytest

from kullback.cli import make_parser
from kullback.cli.parsing import number
from kullback.runtime.ranges import Range

# What `add_subparsers` returns has no public name.
Commands = argparse._SubParsersAction


def options(parser: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, object]]:
    """The name and the type of every option and argument, of the commands inside, too."""
    for action in parser._actions:
        if isinstance(action, Commands):
            for command, inner in action.choices.items():
                yield from options(inner, f"{name} {command}".strip())
        else:
            yield f"{name} {'/'.join(action.option_strings) or action.dest}", action.type


NUMERIC = {name: kind for name, kind in options(make_parser()) if hasattr(kind, "limits")}


def test_every_number_has_a_range() -> None:
    """No option takes any integer or float, and the numeric ones are all here."""
    kinds = dict(options(make_parser()))
    assert not [name for name, kind in kinds.items() if kind in (int, float, complex)]
    assert len(NUMERIC) == 68
    for name in ("lab --steps", "train --threads", "sample -n", "record -k", "compare --window"):
        assert name in NUMERIC


@pytest.mark.parametrize("name", NUMERIC)
def test_the_ends_of_each_range(name: str) -> None:
    """Both ends are taken, and what is beyond them, NaN, infinity and no number are refused."""
    parse = NUMERIC[name]
    limits: Range = parse.limits  # type: ignore[attr-defined]
    assert callable(parse)
    ends = (limits.low + 1e-9 if limits.above else limits.low, limits.high)
    assert [parse(str(end)) for end in ends] == list(ends)
    assert type(parse(str(limits.high))) is (int if limits.whole else float)
    step = 1 if limits.whole else 1e-6
    above = limits.high + step if limits.whole else limits.high * (1 + 1e-9) + step
    beyond = [limits.low - step, above] + [limits.low] * limits.above
    for text in (*map(str, beyond), "nan", "inf", "-inf", "1e999", "", "x", "9" * 5000):
        with pytest.raises(argparse.ArgumentTypeError, match="and must be a "):
            parse(text)


def test_a_number_is_refused_in_words() -> None:
    """The sentence has the value and both ends."""
    with pytest.raises(argparse.ArgumentTypeError, match=r"'7' .* at least 1 and at most 5"):
        number(Range(1, 5))("7")
