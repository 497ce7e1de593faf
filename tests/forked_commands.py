"""Commands in processes of their own that start at once: forks of one that has loaded everything.

A kill then hits the work of a command, not the seconds in which it loads its libraries.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import kullback

SERVER = """
import json, os, sys
import torch, transformers
import kullback.comparison.compare, kullback.evaluation.record, kullback.models.quantise
import kullback.models.train, kullback.cli, kullback.report.terminal.progress
import accelerate, pyarrow.dataset, torchao.quantization, torch.profiler
with torch.device("meta"):
    torch.nn.Embedding(1, 1)  # loads as much again
from kullback.__main__ import run
{preparation}
for line in sys.stdin:
    request = json.loads(line)
    process = os.fork()
    if process == 0:
        os.chdir(request["folder"])
        os.environ |= request["environment"]
        for number, path in enumerate((os.devnull, request["output"], request["errors"])):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC if number else os.O_RDONLY
            os.dup2(os.open(path, flags), number)
        sys.argv = ["kullback", *request["arguments"]]
        code = 70
        try:
            run()
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            import traceback
            traceback.print_exc()
        sys.stdout.flush(); sys.stderr.flush()
        os._exit(code)
    print(process, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""

#: What is kept after seconds is kept at once, so that a kill finds it in every state.
OFTEN = """
import kullback.comparison.kept_pass, kullback.evaluation.token_records_writer
import kullback.evaluation.kept_rows, kullback.predictions.kept_columns
kullback.evaluation.kept_rows.SECONDS_WORTH_KEEPING = 0.0
kullback.comparison.kept_pass.SECONDS_WORTH_KEEPING = 0.0
kullback.comparison.kept_pass.SECONDS_PER_SAVE = 0.05
kullback.evaluation.token_records_writer.SECONDS_PER_SAVE = 0.05
kullback.predictions.kept_columns.SECONDS_PER_SAVE = 0.05
"""


class ForkedCommands:
    """A context manager; `run` starts one command at a time.

    `preparation` is Python code that every command runs before it begins.
    """

    def __init__(self, preparation: str = "") -> None:
        self._preparation = preparation

    def __enter__(self) -> ForkedCommands:
        self._server: subprocess.Popen[Any] = subprocess.Popen(
            [sys.executable, "-c", SERVER.replace("{preparation}", self._preparation)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
            env={**os.environ, "PYTHONPATH": str(Path(kullback.__file__).parents[1])},
        )  # fmt: skip
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.kill()
        self._server.communicate()

    def run(
        self,
        command: str,
        folder: Path,
        output: Path,
        environment: dict[str, str],
        seconds: float | None = None,
        interrupted: bool = False,
    ) -> bool:
        """Run a command in `folder`; kill it after some seconds.  Whether it ended before.

        What it prints goes to the file `output`.  An `AssertionError` has what it said where it
        ended with another code than 0, or than 130 where it may be `interrupted` by itself.
        """
        errors = output.with_suffix(".errors")
        request = {
            "arguments": command.split(), "folder": str(folder), "output": str(output),
            "errors": str(errors), "environment": environment,
        }  # fmt: skip
        assert self._server.stdin is not None
        self._server.stdin.write(f"{json.dumps(request)}\n".encode())
        process = self._line()
        if seconds is not None and not select.select([self._server.stdout], [], [], seconds)[0]:
            with contextlib.suppress(ProcessLookupError):  # it ended in this moment
                os.kill(process, signal.SIGKILL)
        code = self._line()
        assert code in (0, -signal.SIGKILL, *([130] if interrupted else [])), errors.read_text()
        return code == 0

    def _line(self) -> int:
        """The next number that the server says."""
        assert self._server.stdout is not None
        return int(self._server.stdout.readline())
