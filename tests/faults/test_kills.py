"""kill -9 at random moments: nothing half-written, lost or different, and nothing left over."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from forked_commands import OFTEN, ForkedCommands
from kullback.cli import main
from tiny_runs import WEATHER, metrics_but_times

TINY = "--width 32 --layers 1 --heads 1"
SAVED = f"--checkpoint-every 5 {TINY}"
KILLS = 20
#: A command, which may be run again and again; `{out}` is a folder of its own.
COMMANDS = {
    "train on a source": f"train --source w.toml --steps 40 --batch 16 {SAVED} -o {{out}}/run",
    "train on a text": f"train --text a.txt --steps 40 --batch 8 {SAVED} -o {{out}}/run",
    "evaluate": "evaluate m --text b.txt --window 16 --records {out}/r.parquet",
    "evaluate without records": "evaluate m --text b.txt --window 16 --json",
    "record": "record m --text b.txt --window 16 -o {out}/r.parquet",
    "record exact": "record m --text b.txt --window 16 --distributions exact -o {out}/r.rec",
    "record top-k": "record m --text b.txt --window 16 --distributions top-k -o {out}/k.rec",
    "compare": "compare m --schemes int8,int4-g32 --text b.txt --window 16 --json",
    "evaluate streamed": "evaluate m --text b.txt --window 16 --stream --records {out}/r.parquet",
    "record streamed": (
        "record m --text b.txt --window 16 --stream --distributions exact -o {out}/r.rec"
    ),
    "compare streamed": "compare m n --text b.txt --window 16 --stream --json",
    "quantise": "quantise m --scheme int8 -o {out}/q",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text, its beginning, a grammar, and a run that was trained on the text."""
    folder = tmp_path_factory.mktemp("killed")
    sentences = [f"the word number {i} is {i * i}." for i in range(1500)]
    (folder / "a.txt").write_text(" ".join(sentences))
    (folder / "b.txt").write_text(" ".join(sentences[:60]))
    (folder / "w.toml").write_text(WEATHER)
    command = f"train --steps 2 {TINY} --vocabulary 300 --context 32 --text {folder / 'a.txt'}"
    for name, seed in (("m", 0), ("n", 1)):
        assert main([*command.split(), "--seed", str(seed), "-o", str(folder / name)]) == 0
    return folder


@pytest.fixture(scope="module")
def commands() -> Iterator[ForkedCommands]:
    """Where commands are started."""
    with ForkedCommands(OFTEN) as server:
        yield server


class Case:
    """A command that writes to folders of its own."""

    def __init__(self, commands: ForkedCommands, folder: Path, name: str, kind: str) -> None:
        self.commands, self.folder, self.command = commands, folder, COMMANDS[name]
        self.name = f"{name} {kind}".replace(" ", "-")
        self.out = folder / self.name
        self.printed = folder / f"{self.name}.json"
        # What the process keeps, and its temporary files.
        self.hidden = [folder / f"{self.name}-{what}" for what in ("state", "tmp")]
        self.begin_again()

    def begin_again(self) -> None:
        """Empty folders."""
        for path in (self.out, *self.hidden):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()

    def run(self, seconds: float | None = None) -> bool:
        """Start or resume; whether it ended before it was killed."""
        command = self.command.format(out=self.name)
        if (self.out / "run/training.json").is_file():
            command = f"train --resume {self.name}/run"
        state, temporary = map(str, self.hidden)
        environment = {"XDG_STATE_HOME": state, "TMPDIR": temporary}
        return self.commands.run(command, self.folder, self.printed, environment, seconds)

    def contents(self) -> dict[str, Any]:
        """The hash of each file, hidden ones included, and what was printed, but for times."""
        files: dict[str, Any] = {
            path.relative_to(self.out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in self.out.rglob("*")
            if path.is_file()
        }
        if "run/metrics.jsonl" in files:
            files["run/metrics.jsonl"] = metrics_but_times(self.out / "run")
            # It shows the speed; what else is in it is in the metrics.
            files.pop("run/report.html", None)
            described = json.loads((self.out / "run/training.json").read_text())
            for shard in described["data"].get("shards", ()):
                del shard["modified"]
            files["run/training.json"] = described
        if "--json" in self.command:
            printed = json.loads(self.printed.read_text())
            wanted = ("measures", "ranked", "candidates")
            files |= {name: printed[name] for name in wanted if name in printed}
        left = [path for folder in self.hidden for path in folder.rglob("*") if path.is_file()]
        assert not left
        return files

    def is_done(self) -> bool:
        """After a kill: whether nothing was left to do, where the same command is then refused."""
        return "quantise" in self.command and (self.out / "q").exists()

    def check(self, expected: dict[str, Any]) -> None:
        """After a kill: whatever has its final name is complete."""
        for path in self.out.rglob("*"):
            name = path.relative_to(self.out)
            if path.is_dir() or any(part.startswith(".") for part in name.parts):
                continue
            if "run" in name.parts:  # of an earlier step, perhaps
                if path.suffix == ".safetensors":
                    with safe_open(path, framework="pt") as file:
                        assert file.keys()
                elif path.suffix == ".json":
                    json.loads(path.read_text())
            else:
                assert hashlib.sha256(path.read_bytes()).hexdigest() == expected[name.as_posix()]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_runs_end_as_if_they_had_not_been(name, folder, commands):
    """Resumed after each of many kills, the command leaves the same files, and no others."""
    whole, killed = (Case(commands, folder, name, kind) for kind in ("whole", "killed"))
    durations = []
    for _ in range(3):  # the first one loads more
        whole.begin_again()
        began = time.monotonic()
        assert whole.run()
        durations.append(time.monotonic() - began)
    duration = min(durations)
    expected = whole.contents()
    assert expected
    randomness = random.Random(name)
    kills = runs = resumed = 0
    while kills < KILLS:
        runs += 1
        assert runs < 20 * KILLS
        if killed.run(randomness.uniform(0.0, 1.0) * duration):
            assert killed.contents() == expected
            killed.begin_again()
            resumed = 0
            continue
        kills += 1
        resumed += 1
        killed.check(expected)
        if killed.is_done():
            assert killed.contents() == expected
            killed.begin_again()
            resumed = 0
    print(f"{name}: {kills} kills, {runs} runs of {duration:.2f} s")
    if resumed:
        assert killed.run()
        assert killed.contents() == expected
