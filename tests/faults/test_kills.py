"""kill -9 at random moments: nothing half-written, lost or different, and nothing left over."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

import kullback
from kullback.cli import main

TINY = "--width 32 --layers 1 --heads 1"
KILLS = 20
#: A command, which may be run again and again; `{out}` is a folder of its own.
COMMANDS = {
    "train on a source": f"train --source conjugation --steps 40 --batch 16 {TINY} -o {{out}}/run",
    "train on a text": f"train --text a.txt --steps 40 --batch 8 {TINY} -o {{out}}/run",
    "evaluate": "evaluate m --text a.txt --window 16 --records {out}/r.parquet",
    "record": "record m --text a.txt --window 16 --distributions exact -o {out}/r.rec",
    "record top-k": "record m --text a.txt --window 16 --distributions top-k -o {out}/k.rec",
    "quantise": "quantise m --scheme int8 -o {out}/q",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text, and a run that was trained on it."""
    folder = tmp_path_factory.mktemp("killed")
    text = " ".join(f"the word number {i} is {i * i}." for i in range(1500))
    (folder / "a.txt").write_text(text)
    command = f"train --steps 2 {TINY} --vocabulary 300 --context 32"
    assert main([*command.split(), "--text", str(folder / "a.txt"), "-o", str(folder / "m")]) == 0
    return folder


def run(folder: Path, command: str, seconds: float | None = None) -> bool:
    """Run a command; kill it after some seconds.  Whether it ended before."""
    source = str(Path(kullback.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-m", "kullback", *command.split()], cwd=folder,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": source, "XDG_STATE_HOME": str(folder / "state")},
    )  # fmt: skip
    try:
        _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return False
    assert process.returncode == 0, errors
    return True


def contents(out: Path) -> dict[str, str]:
    """The hash of each file, hidden ones included; those that hold times are only named."""
    return {
        path.relative_to(out).as_posix(): (
            "" if path.name == "metrics.jsonl" else hashlib.sha256(path.read_bytes()).hexdigest()
        )
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_runs_end_as_if_they_had_not_been(name, folder):
    """After many kills the command is run to its end: the same files, and no others."""
    whole, killed = (folder / f"{name} {kind}".replace(" ", "-") for kind in ("whole", "killed"))
    for out in (whole, killed):
        out.mkdir()
    began = time.monotonic()
    assert run(folder, COMMANDS[name].format(out=whole.name))
    duration = time.monotonic() - began
    command = COMMANDS[name].format(out=killed.name)
    randomness = random.Random(name)
    for _ in range(KILLS):
        if (killed / "q").is_dir():  # it was done, and only had to end
            break
        if run(folder, resumed(command, killed), randomness.uniform(0.3, 1.0) * duration):
            break
    else:
        assert run(folder, resumed(command, killed))
    assert contents(killed) == contents(whole)


def resumed(command: str, out: Path) -> str:
    """The command that resumes what was killed."""
    if (out / "run" / "training.json").is_file():
        return f"train --resume {out.name}/run"
    return command
