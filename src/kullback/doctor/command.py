"""The user's training command: a folder of data in, a Hugging Face folder out."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from kullback.errors import InvalidValueError, RunError
from kullback.runtime.escaping import visible

__all__ = ["check_command", "model_folder", "run_command"]

# Of the output of a command that failed.
LAST_LINES, LAST_BYTES = 12, 4096
# Seconds that a command has to end after SIGTERM.
PATIENCE = 5.0


def run_command(
    arguments: Sequence[str], data: Path, out: Path, minutes: float, output: Path
) -> float:
    """Run the command, its output into the file `output`; returns the seconds that it took.

    ``{data}`` and ``{out}`` in an argument are replaced, and the environment has KULLBACK_DATA and
    KULLBACK_OUT.  Raises `InvalidValueError` as `check_command` does, `RunError` where the command
    cannot be started, fails or takes longer; its processes are ended then, and on Ctrl-C.
    """
    check_command(arguments)
    places = {"data": str(data.resolve()), "out": str(out.resolve())}
    filled = [_filled(argument, places) for argument in arguments]
    environment = os.environ | {f"KULLBACK_{k.upper()}": place for k, place in places.items()}
    began = time.monotonic()
    with output.open("wb") as file:
        try:
            process = subprocess.Popen(
                filled, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                env=environment, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise RunError(
                f"the command {filled[0]!r} cannot be started: {error.strerror}; give a program "
                "and its arguments after --"
            ) from None
        try:
            code = process.wait(60 * minutes)
        except subprocess.TimeoutExpired:
            raise RunError(
                f"the command took longer than {minutes:g} minutes and was ended: give it more "
                f"(--minutes), or train fewer steps; its last lines: {_last_lines(output)}"
            ) from None
        finally:
            _end(process)
    if code:
        how = f"exit code {code}" if code > 0 else f"signal {-code}"
        raise RunError(f"the command failed with {how}; its last lines: {_last_lines(output)}")
    return time.monotonic() - began


def check_command(arguments: Sequence[str]) -> None:
    """Raise `InvalidValueError` for an empty command, and a program that is not there."""
    if not arguments:
        raise InvalidValueError(
            "COMMAND is empty: give the training command, e.g. kullback doctor -- python train.py "
            "{data} {out}"
        )
    program = arguments[0]
    if _filled(program, {"data": "", "out": ""}) == program and shutil.which(program) is None:
        raise InvalidValueError(
            f"the command {program!r:.200} cannot be started: there is no such program that can be "
            "run; give a program and its arguments after --"
        )


def model_folder(out: Path) -> Path:
    """The folder of the model: `out`, or the newest folder in it with a ``config.json``."""
    if (out / "config.json").is_file():
        return out
    inside = list(out.glob("*/config.json")) if out.is_dir() else []
    if not inside:
        raise RunError(
            f"the command wrote no Hugging Face folder: neither {out} nor a folder in it has a "
            "config.json; save the model there (save_pretrained), its path is {out} or KULLBACK_OUT"
        )
    return max(inside, key=lambda path: path.stat().st_mtime_ns).parent


def _filled(argument: str, places: dict[str, str]) -> str:
    return re.sub(r"\{(data|out)\}", lambda match: places[match[1]], argument)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the command and what it started, where it still runs."""
    if process.poll() is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):  # a child may ignore what the command obeys
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)


def _last_lines(output: Path) -> str:
    with output.open("rb") as file:
        file.seek(max(0, output.stat().st_size - LAST_BYTES))
        text = file.read().decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()][-LAST_LINES:]
    return " | ".join(map(visible, lines)) or "(none)"
