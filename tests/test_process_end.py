"""How the process of a command ends where threads still compute."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import kullback

CODE = """
import atexit, threading, time
import torch
from kullback.__main__ import run
from kullback.cli import derive
from kullback.errors import RunError
matrix = torch.ones(300, 300)
def compute():
    while True:
        torch.mm(matrix, matrix)
def command(options):
    threading.Thread(target=compute, daemon=True).start()
    atexit.register(print, "at exit")
    time.sleep(0.3)
    print("said")
    {ending}
derive._derive = command
run()
"""


@pytest.mark.parametrize(("ending", "code"), [("return 0", 0), ("raise RunError('it failed')", 2)])
def test_a_thread_that_computes_leaves_the_exit_code(ending: str, code: int):
    """Python would abort the process where a thread of torch wants its lock at the end."""
    ended = subprocess.run(
        [sys.executable, "-c", CODE.replace("{ending}", ending), "derive"],
        env={**os.environ, "PYTHONPATH": str(Path(kullback.__file__).parents[1])},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert ended.returncode == code, ended.stderr
    assert ended.stdout.splitlines() == ["said", "at exit"]
    assert ("it failed" in ended.stderr) == (code == 2)
