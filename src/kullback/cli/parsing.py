"""Declaration of commands: parser, examples, and the options that every command has."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from kullback.cli.output import print_error
from kullback.runtime.ranges import Range
from kullback.runtime.wording import suggestion

if TYPE_CHECKING:
    # What `add_subparsers` returns has no public name.
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

__all__ = [
    "Parser",
    "add_command",
    "add_force",
    "given",
    "input_name",
    "number",
    "output_name",
]


class Parser(argparse.ArgumentParser):
    """Keeps the layout of examples, and ends every error with a suggestion or where to look."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            **settings, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, and exit with 2."""
        choice = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if choice:
            known = re.findall(r"[\w.@-]+", choice[2])
            meant = suggestion(choice[1], known) or f": choose from {', '.join(known)}"
            message = message.split(" (choose from")[0] + meant
        print_error(f"{message} (see {self.prog} --help)")
        raise SystemExit(2)

    def check_all_known(self, extra: Sequence[str], command: str | None) -> None:
        """Exit with 2 where arguments are left over, with the option that was perhaps meant."""
        if not extra:
            return
        parser = self._command(command) or self
        first = extra[0].split("=")[0]
        meant = suggestion(first, parser._option_string_actions) if first.startswith("-") else ""
        parser.error(f"unrecognised argument {extra[0]!r}{meant}")

    def _command(self, name: str | None) -> Parser | None:
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction) and name in action.choices:
                parser = action.choices[name]
                return parser if isinstance(parser, Parser) else None
        return None


@dataclass(frozen=True)
class number:  # noqa: N801 - used as a function: `type=number(SEEDS)`
    """The `type` of an option whose number must be in the range."""

    limits: Range

    def __call__(self, text: str) -> int | float:
        """The number; `ArgumentTypeError` says why it is refused."""
        try:
            return self.limits.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None


def input_name(text: str) -> Path:
    """The path of an input; an empty one would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty: give the name of what is to be read")
    return Path(text)


def output_name(text: str) -> Path:
    """The path of an output; an empty one would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty: give the name of what is to be written")
    return Path(text)


def add_force(command: argparse.ArgumentParser, what: str) -> None:
    """The option that permits the replacement of a file of another kind; absent if not given."""
    command.add_argument(
        "--force", action="store_true", default=argparse.SUPPRESS,
        help=f"replace an existing file even if it is not {what} of kullback",
    )  # fmt: skip


def given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those of the options that were given: their default is `argparse.SUPPRESS`."""
    return {name: getattr(options, name) for name in names if hasattr(options, name)}


def add_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int | None],
    what: str,
    *examples: str,
    notes: str = "",
    aliases: Sequence[str] = (),
) -> argparse.ArgumentParser:
    """A command that calls `run`, with `--json`; its help ends with the examples and the notes."""
    epilog = "examples:\n" + "".join(f"  {example}\n" for example in examples) + notes
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=what, description=what, epilog=epilog, aliases=list(aliases)
    )
    command.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    command.set_defaults(run=run)
    return command
