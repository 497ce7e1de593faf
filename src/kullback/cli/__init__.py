"""The command line: parses and calls; the arithmetic is elsewhere.

Results go to standard output (with ``--json``: one JSON document and nothing else), progress to
standard error.  Exit codes: 0 done, 2 something that the user can mend, 130 interrupted.  Each
command's parser stands beside the function that it calls, in a module of this room.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence

from kullback import __version__
from kullback.cli import compare, derive, evaluate, lab, quantise, record, source, train
from kullback.cli.parsing import INTERRUPTED, Parser
from kullback.errors import KullbackError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `argv` (default: the process's own) and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(arguments)
    options.command_line = shlex.join(["kullback", *arguments])
    try:
        run: Callable[[argparse.Namespace], int | None] = options.run
        return run(options) or 0
    except KullbackError as error:
        print(f"kullback: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("kullback: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader (head, less) has seen enough
        sys.stderr.close()
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="kullback",
        description="Language models with every nat accounted for: cross-entropy = entropy + KL.",
        epilog="examples:\n  kullback lab -o lab\n  kullback derive\n"
        "  kullback source describe conjugation\n"
        "  kullback train --source conjugation -o runs/mine\n  kullback evaluate runs/mine\n"
        "  kullback sample runs/mine --prompt 'yesterday she'\n"
        "  kullback evaluate FOLDER --text book.txt\n"
        "  kullback compare FOLDER FOLDER@int8 --text book.txt",
    )
    parser.add_argument("--version", action="version", version=f"kullback {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (lab, derive, source, train, evaluate, compare, record, quantise):
        command.add(commands)
    return parser
