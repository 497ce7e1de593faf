"""Ctrl-C, SIGTERM and SIGHUP in each phase of the commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import kullback
from kullback.cli import main

SLOW_MODEL = """
import sys, time
from kullback.models import mini_gpt
from kullback.__main__ import run
predict = mini_gpt.GPTTextModel.predict
def slow(self, inputs_NT):
    time.sleep(0.01 * len(inputs_NT))  # of each window in the batch
    return predict(self, inputs_NT)
mini_gpt.GPTTextModel.predict = slow
run()
"""
PLAIN = "from kullback.__main__ import run; run()"
ANSWER = 10.0  # seconds; one on a quiet machine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text, and a run that was trained on it."""
    folder = tmp_path_factory.mktemp("interrupted")
    text = " ".join(f"the word number {i} is {i * i}." for i in range(800))
    (folder / "a.txt").write_text(text)
    command = "train --steps 2 --width 32 --layers 1 --heads 1 --vocabulary 300 --context 32"
    assert main([*command.split(), "--text", str(folder / "a.txt"), "-o", str(folder / "m")]) == 0
    return folder


def start(folder: Path, *arguments: str, code: str = SLOW_MODEL) -> subprocess.Popen[str]:
    """A command in a process of its own."""
    source = str(Path(kullback.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": source, "XDG_STATE_HOME": str(folder / "state")},
    )  # fmt: skip


def end(folder: Path, *arguments: str, code: str = PLAIN) -> tuple[str, str]:
    """What a command that succeeds prints, and what it says."""
    process = start(folder, *arguments, code=code)
    output, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    return output, errors


def interrupted(
    process: subprocess.Popen[str], number: signal.Signals, stage: str, seconds: float = 0.0
) -> tuple[str, float]:
    """Send a signal some seconds after a stage has begun; what was said, and how long it took."""
    assert process.stderr is not None
    said = ""
    while stage not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    time.sleep(seconds)
    began = time.monotonic()
    process.send_signal(number)
    _, rest = process.communicate(timeout=60)
    return said + rest, time.monotonic() - began


SIGNALS = [
    (signal.SIGINT, 130),
    pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
    pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_an_evaluation_resumes(folder, number, code):
    """The rows that were computed are kept, with or without records, and the result is the same."""
    command = ["evaluate", "m", "--text", "a.txt", "--window", "16"]
    process = start(folder, *command)
    said, seconds = interrupted(process, number, "evaluating", 3)
    assert process.returncode == code, said
    assert seconds < ANSWER
    last = said.splitlines()[-1]
    assert last.startswith("kullback: interrupted: ")
    assert "tokens are kept" in last
    assert "resume with: kullback evaluate m --text a.txt --window 16" in last
    (kept,) = (folder / "state/kullback/interrupted").iterdir()
    again, errors = end(folder, *command, "--json")
    assert not kept.exists(), errors
    whole, _ = end(folder, *command, "--json")
    assert json.loads(again)["measures"] == json.loads(whole)["measures"]


#: Imports a module within a pass that takes two seconds, and says so.
IMPORTING = SLOW_MODEL.replace(
    "run()",
    """
from pathlib import Path
from kullback.evaluation.recorded_pass import _RowBuffer
Path("slow_module.py").write_text(
    "import sys, time\\nprint('importing', file=sys.stderr, flush=True)\\n"
    "for i in range(200):\\n    time.sleep(0.01)\\n"
)
sys.path.insert(0, ".")
append = _RowBuffer.append
def importing(self, statistics):
    append(self, statistics)
    if self._rows > 200 or len(self._records):
        import slow_module
_RowBuffer.append = importing
run()
""",
)


def test_ctrl_c_within_an_import_loses_nothing(folder):
    """It is raised after the import, which is complete then."""
    command = ["evaluate", "m", "--text", "a.txt", "--window", "16"]
    process = start(folder, *command, code=IMPORTING)
    said, seconds = interrupted(process, signal.SIGINT, "importing", 0.3)
    assert process.returncode == 130, said
    assert 1.0 < seconds < ANSWER
    assert "tokens are kept; resume with: kullback evaluate m" in said.splitlines()[-1]
    (kept,) = (folder / "state/kullback/interrupted").iterdir()
    end(folder, *command)
    assert not kept.exists()


#: Says which modules the writing of rows imports, which it does at once.
IMPORTS = """
import sys, time
from kullback.evaluation.kept_rows import StateWriter
from kullback.__main__ import run
append = StateWriter.append
def watched(self, *rows):
    deadline = time.monotonic() + 60
    while not self._known and time.monotonic() < deadline:
        time.sleep(0.1)
    self._began, before = 0, set(sys.modules)
    append(self, *rows)
    assert self._writer is not None
    print("imports:", *set(sys.modules) - before, file=sys.stderr)
StateWriter.append = watched
run()
"""


def test_rows_are_written_without_an_import(folder):
    """Ctrl-C within an import ends the process, and rows that are not yet kept are lost."""
    _, errors = end(folder, "evaluate", "m", "--text", "a.txt", "--window", "16", code=IMPORTS)
    said = [line.strip() for line in errors.splitlines() if line.startswith("imports:")]
    assert said
    assert set(said) == {"imports:"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["exact", "top-k"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_recording_of_distributions_resumes(kind, number, code, folder):
    """The sentence names what is kept and the command, and the file is the same to the last bit."""
    files = []
    for name in ("whole.rec", "part.rec"):
        command = ["record", "m", "--text", "a.txt", "--window", "16", "--distributions", kind]
        command += ["-o", name]
        if name == "part.rec":
            process = start(folder, *command)
            said, seconds = interrupted(process, number, "recording", 2)
            assert process.returncode == code, said
            assert seconds < ANSWER
            last = said.splitlines()[-1]
            assert "tokens are kept beside part.rec; resume with: kullback record m" in last
            assert not (folder / name).exists()
        process = start(folder, *command, code=PLAIN)
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
        files.append((folder / name).read_bytes())
        (folder / name).unlink()
    assert files[0] == files[1]
    assert not list(folder.glob(".*.rec*"))


@pytest.mark.slow
def test_a_comparison_keeps_finished_candidates(folder):
    """And the windows of the one that was interrupted; the result is the same."""
    command = ["compare", "m", "--schemes", "int8,int4-g32", "--text", "a.txt", "--window", "32"]
    process = start(folder, *command)
    said, seconds = interrupted(process, signal.SIGINT, "comparing m@int4-g32", 1)
    assert process.returncode == 130, said
    assert seconds < ANSWER
    assert (
        "of this candidate are kept; 1 finished candidate is kept; resume with: kullback compare"
        in said.splitlines()[-1]
    )
    assert len(list((folder / "state/kullback/interrupted").iterdir())) == 2
    output, errors = end(folder, *command, "--json", code=COUNTED)
    assert list((folder / "state/kullback/interrupted").iterdir()) == []
    resumed = int(errors.split("windows: ")[1])
    again, errors = end(folder, *command, "--json", code=COUNTED)
    assert resumed < 0.75 * int(errors.split("windows: ")[1])
    for field in ("ranked", "candidates"):
        assert json.loads(output)[field] == json.loads(again)[field]


COUNTED = """
import sys
from kullback.models import mini_gpt
from kullback.cli import main
count = 0
predict = mini_gpt.GPTTextModel.predict
def counted(self, *arguments):
    global count
    count += 1
    return predict(self, *arguments)
mini_gpt.GPTTextModel.predict = counted
code = main()
print("windows:", count, file=sys.stderr)
sys.exit(code)
"""
STUCK = """
import sys, time
from kullback.__main__ import run
from kullback.cli import evaluate
def stuck(options):
    print("stuck", file=sys.stderr, flush=True)
    import ctypes
    ctypes.CDLL(None).sleep(60) or ctypes.CDLL(None).sleep(60)
evaluate._evaluate = stuck
run()
"""


def test_a_call_that_python_cannot_interrupt_is_not_waited_for(folder):
    """Such as one of a library in C that goes on after a signal."""
    process = start(folder, "evaluate", "m", "--text", "a.txt", code=STUCK)
    said, seconds = interrupted(process, signal.SIGINT, "stuck", 0.5)
    assert process.returncode == 130, said
    assert seconds < ANSWER


@pytest.mark.slow
def test_a_second_signal_ends_at_once(folder):
    """Even where the way out takes long."""
    code = SLOW_MODEL.replace("run()", "SLOW\nrun()").replace(
        "SLOW",
        "from kullback.evaluation import token_records_writer as w\n"
        "w.RecordsWriter._save = lambda self: time.sleep(100)",
    )
    process = start(
        folder, "evaluate", "m", "--text", "a.txt", "--records", "slow.parquet", code=code
    )
    assert process.stderr is not None
    while "evaluating" not in process.stderr.readline():
        pass
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    time.sleep(2)
    assert process.poll() is None
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.wait(60)
    assert time.monotonic() - began < ANSWER
    assert process.returncode == 130


@pytest.mark.slow
def test_an_ignored_hangup_stays_ignored(folder):
    """Under nohup a run goes on when the terminal is closed."""
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + SLOW_MODEL
    process = start(folder, "evaluate", "m", "--text", "a.txt", "--window", "32", code=code)
    assert process.stderr is not None
    while "evaluating" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=100)[0]
    assert process.returncode == 0


def test_nothing_is_kept_of_what_has_not_begun(folder):
    """While the model is loaded, there is nothing to resume."""
    code = SLOW_MODEL.replace("time.sleep(0.05)", "pass").replace(
        "run()",
        "load = mini_gpt.GPTModel.load\nfrom kullback.models import load as l\n"
        "l.load_sized = lambda *a: time.sleep(100)\n"
        "import kullback.evaluation.options as o\no.load_sized = l.load_sized\nrun()",
    )
    process = start(folder, "evaluate", "m", "--text", "a.txt", code=code)
    said, seconds = interrupted(process, signal.SIGTERM, "loading", 0.5)
    assert process.returncode == 143, said
    assert seconds < ANSWER
    assert said.splitlines()[-1] == "kullback: interrupted: nothing of this run is on disk"


@pytest.mark.slow
def test_finished_records_are_read_not_computed(folder):
    """The same evaluation again costs no pass."""
    command = ["evaluate", "m", "--text", "a.txt", "--records", "r.parquet", "--json"]
    results, counts = [], []
    for _ in range(2):
        output, errors = end(folder, *command, code=COUNTED)
        results.append(json.loads(output)["measures"])
        counts.append(int(errors.split("windows: ")[1]))
    assert results[0] == results[1]
    assert counts[0] > 10
    assert counts[1] == 0
