"""The command line: parses, calls the API, prints.

Results go to standard output (with ``--json``: one JSON document and nothing else), progress to
standard error.  Exit codes: 0 done, 2 a user-correctable error, 130 interrupted (143 by SIGTERM).
Each command has a module of its own.
"""

from __future__ import annotations

import argparse
import errno
import glob
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from kullback import __version__
from kullback.cli import (
    compare,
    derive,
    doctor,
    evaluate,
    lab,
    quantise,
    record,
    sample,
    scaling,
    source,
    train,
)
from kullback.cli.output import print_error, visible_warnings
from kullback.cli.parsing import Parser
from kullback.cli.streams import StandardOutputError, checked_streams
from kullback.errors import KullbackError, LostProcessError
from kullback.runtime.interruption import exit_code
from kullback.runtime.ranks import is_rank_zero, others_said

__all__ = ["main", "make_parser"]

# What a system says of a disk that is full, over quota or read-only, and of a file at its limit.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def main(
    argv: Sequence[str] | None = None, interrupted: Callable[[int], object] = lambda code: None
) -> int:
    """Run the command `argv` (default: the process's own) and return its exit code.

    Where a signal stops it, `interrupted` is given that code as soon as what is kept was said.
    """
    try:
        with checked_streams():
            return _run(argv, interrupted)
    except StandardOutputError as error:  # what was still in the buffer
        with suppress(OSError):
            print_error(str(error))
        return 2
    except BrokenPipeError:  # the reader (head, less) has seen enough
        return 0


def _run(argv: Sequence[str] | None, interrupted: Callable[[int], object]) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    _check_encoding(arguments)
    parser = make_parser()
    options, extra = parser.parse_known_args(arguments)
    parser.check_all_known(extra, options.command)
    if options.command is None:
        parser.print_help()
        return 0
    options.command_line = shlex.join(["kullback", *arguments])
    try:
        run: Callable[[argparse.Namespace], int | None] = options.run
        with visible_warnings():
            return run(options) or 0
    except LostProcessError as error:
        if not others_said():
            print_error(f"{error}{_kept(error)}")
        return 2
    except KullbackError as error:
        print_error(str(error), _kept(error))
        return 2
    except KeyboardInterrupt as error:
        # Rank 0 alone keeps what is done; torchrun ends it after another process has ended.
        if is_rank_zero() and (_notes(error) or not others_said()):
            print_error(_interrupted(error, options))
        interrupted(exit_code())
        return exit_code()
    except MemoryError as error:
        print_error(_too_little_memory(error, options))
        return 2
    except RuntimeError as error:
        sentence = _of_device(error, options)
        if sentence is None:
            raise
        print_error(sentence)
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError) or error.errno is None:
            raise
        place = f" of {error.filename}" if error.filename else ""
        remedy = "free some space" if error.errno in FULL else "check its name and permissions"
        print_error(
            f"the system says {error.strerror!r}{place}: {remedy}, then run the command again"
        )
        return 2


def _too_little_memory(error: Exception, options: argparse.Namespace) -> str:
    """That the memory is too small, and what the command can do."""
    first = str(error).partition("\n")[0].rstrip(". ")
    reason = f"the memory is too small{f' ({first})' if first else ''}"
    if options.command == "train":
        return (
            f"{reason}: train with a smaller --batch or --size, --accumulate K, "
            "--checkpoint-activations, fewer --threads or more memory; a run that is finished is "
            "measured again by --resume"
        )
    on_source = options.command == "evaluate" and options.text is None
    if on_source or options.command not in ("evaluate", "compare", "record"):
        return f"{reason}: choose smaller sizes, or use more memory"
    from kullback.evaluation.memory_remedies import memory_remedies

    if options.command == "compare":
        models = [options.reference, *options.candidate]
    else:
        models = [options.model]
    remedies = memory_remedies(models, vars(options), options.command != "record")
    return f"{reason}: {remedies}{_kept(error)}"


def _of_device(error: RuntimeError, options: argparse.Namespace) -> str | None:
    """What an error of torch says about the memory or an accelerator; None for others."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    from kullback.runtime.memory import is_out_of_memory

    if is_out_of_memory(error):
        return _too_little_memory(error, options)
    first, kept = str(error).partition("\n")[0].rstrip(". "), _kept(error)
    failed = isinstance(error, getattr(torch, "AcceleratorError", ()))
    if failed or first.startswith(("CUDA error", "NCCL error")):
        return (
            f"the device failed ({first}): see whether nvidia-smi lists it, then run the command "
            f"again{', which resumes' if kept else ''}, or give --device cpu{kept}"
        )
    return None


def _kept(error: BaseException) -> str:
    """What of an unfinished pass is kept, after a semicolon; libraries have notes of their own."""
    kept = [note for note in getattr(error, "__notes__", []) if " kept" in note]
    return f"; {'; '.join(kept)}" if kept else ""


def _notes(error: KeyboardInterrupt) -> list[str]:
    """What is kept: torchrun ends a process that is already failing, and says so by itself."""
    if hasattr(error, "__notes__"):
        return list(error.__notes__)
    return [kept for earlier in _contexts(error) if (kept := _kept(earlier).removeprefix("; "))]


def _contexts(error: BaseException) -> Iterator[BaseException]:
    """The exceptions that were being handled when this one was raised, the last one first."""
    while (earlier := error.__context__) is not None:
        yield earlier
        error = earlier


def _check_encoding(arguments: Sequence[str]) -> None:
    """End with a sentence where an argument is not UTF-8, so that no result could name it."""
    for argument in arguments:
        if any("\ud800" <= character <= "\udfff" for character in argument):
            print_error(f"the argument {argument!r} is not UTF-8: rename the file, or leave it out")
            raise SystemExit(2)


def _interrupted(error: KeyboardInterrupt, options: argparse.Namespace) -> str:
    """What is on disk, and how it is resumed."""
    kept, command = _notes(error), options.command_line
    if kept:
        return f"interrupted: {'; '.join(kept)}; resume with: {command}"
    output = getattr(options, "output", None)
    if (
        options.command == "train"
        and output is not None
        and (Path(output) / "training.json").exists()
    ):
        from kullback.training.interruption import Interrupted

        return str(Interrupted(Path(output), None))
    if options.command in ("evaluate", "compare", "record") and _may_have_kept(error, options):
        return f"interrupted: rows of it that are kept, if any, are resumed with: {command}"
    return "interrupted: nothing of this run is on disk"


def _may_have_kept(error: KeyboardInterrupt, options: argparse.Namespace) -> bool:
    """Whether rows may be kept of which nothing was noted.

    Those of an earlier run, before or after its pass, and of one that ended when it kept them.
    """
    from kullback.runtime.interrupted import STOPS, is_anything_kept

    if is_anything_kept() or any(isinstance(earlier, STOPS) for earlier in _contexts(error)):
        return True
    for option in ("records", "output"):
        name = getattr(options, option, None)
        if name is not None:
            target = Path(os.path.realpath(name))
            beside = target.parent.glob(f"{glob.escape(f'.{target.name}.')}*")
            if target.exists() or any(beside):
                return True
    return False


def make_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(
        prog="kullback",
        description="Language models with every nat accounted for: cross-entropy = entropy + KL.",
        epilog="examples:\n  kullback lab -o lab\n  kullback derive\n"
        "  kullback source describe conjugation\n"
        "  kullback train --source conjugation -o runs/mine\n  kullback evaluate runs/mine\n"
        "  kullback sample runs/mine --prompt 'yesterday she'\n"
        "  kullback evaluate FOLDER --text book.txt\n"
        "  kullback compare FOLDER FOLDER@int8 --text book.txt\n"
        "  kullback scaling -o ladder\n"
        "  kullback doctor -- python train.py {data} {out}\n"
        "  mkdir -p ~/.local/share/bash-completion/completions\n"
        "  kullback --print-completion bash > ~/.local/share/bash-completion/completions/kullback",
    )
    parser.add_argument("--version", action="version", version=f"kullback {__version__}")
    parser.add_argument(
        "--print-completion", action=PrintCompletion, choices=("bash", "zsh", "tcsh"),
        help="print what a shell needs to complete commands and options",
    )  # fmt: skip
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    measuring = (evaluate, compare, record, quantise, doctor, scaling)
    for command in (lab, derive, source, train, sample, *measuring):
        command.add(commands)
    return parser


class PrintCompletion(argparse.Action):
    """Prints the completion script of a shell, made by shtab, and exits."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "default": argparse.SUPPRESS})

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Print and exit with 0."""
        import shtab

        print(shtab.complete(parser, shell=values))
        parser.exit()
