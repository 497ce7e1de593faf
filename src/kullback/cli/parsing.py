"""How a command is declared: its parser, its examples, and what every command has."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    # What `add_subparsers` returns has no public name.
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

__all__ = ["Parser", "add_command", "seed"]

INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """Keeps the layout of examples, and ends every error with where to look."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            **settings, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, and exit with 2."""
        print(f"kullback: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def seed(text: str) -> int:
    """An integer that a generator of random numbers can start from: at least 0."""
    number = int(text) if text.removeprefix("-").isdecimal() else -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r}: it must be an integer of at least 0")
    return number


def add_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int | None],
    what: str,
    *examples: str,
    notes: str = "",
) -> argparse.ArgumentParser:
    """A command that calls `run`, with `--json`; its help ends with the examples and the notes."""
    epilog = "examples:\n" + "".join(f"  {example}\n" for example in examples) + notes
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=what, description=what, epilog=epilog
    )
    command.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    command.set_defaults(run=run)
    return command
