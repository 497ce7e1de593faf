"""Models that are read layer by layer, ended by kill -9 and Ctrl-C in each part of their work."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forked_commands import OFTEN, ForkedCommands
from tiny_models import TEXT, tiny_llama

#: Ends the process in a layer of the first or second model, or at a prediction.
ENDING = """
import itertools, signal
from kullback.evaluation import predictors
from kullback.models.layer_stream import LayerStream
from kullback.models.streamed import StreamedModel
predictors.CPU_TOKENS = 32  # batches of a window
streams, predictions = [], itertools.count()
own_layer, own_predict = LayerStream.layer, StreamedModel.predict

def end_at(place):
    name, _, wanted = os.environ["END_AT"].partition(" ")
    if place == wanted:
        os.kill(os.getpid(), getattr(signal, name))

def layer(self, i, *arguments):
    if self not in streams:
        streams.append(self)
    end_at(f"layer {streams.index(self)} {i}")
    return own_layer(self, i, *arguments)

def predict(self, inputs_NT):
    end_at(f"prediction {next(predictions)}")
    return own_predict(self, inputs_NT)

LayerStream.layer, StreamedModel.predict = layer, predict
"""
COMMON = "--text b.txt --window 32 --stride 32 --device cpu --stream"
COMMANDS = {
    "evaluate": f"evaluate m {COMMON} --json",
    "evaluate records": f"evaluate m {COMMON} --records out/r.parquet --json",
    "compare": f"compare m n {COMMON} --json",
    "record exact": f"record m {COMMON} --distributions exact -o out/r.rec",
}
ENDS = (
    ("layer 0 0", "layer 0 1", "prediction 9"),
    ("layer 0 1", "layer 1 0", "layer 1 1", "prediction 12"),
)
"""Of a command with one model, and with two."""
TIMES = ("created", "seconds", "tokens_per_second", "command")


@pytest.fixture(scope="module")
def commands() -> Iterator[ForkedCommands]:
    """Where commands are started."""
    with ForkedCommands(OFTEN + ENDING) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two models and a text."""
    tiny_llama(tmp_path / "m")
    tiny_llama(tmp_path / "n", seed=1)
    (tmp_path / "b.txt").write_text(TEXT)
    return tmp_path


def result(commands: ForkedCommands, folder: Path, command: str, end_at: str = "") -> Any:
    """What a command wrote and printed; None where it ended itself, which leaves no temporary
    file.
    """
    places = {"XDG_STATE_HOME": "state", "TMPDIR": "temporary"}
    for name in ("out", *places.values()):
        (folder / name).mkdir(exist_ok=True)
    environment = {name: str(folder / place) for name, place in places.items()}
    environment["END_AT"] = end_at
    printed = folder / "printed.json"
    ended = commands.run(command, folder, printed, environment, interrupted=True)
    assert not any((folder / "temporary").iterdir())
    if not ended:
        return None
    assert not [path for path in (folder / "state").rglob("*") if path.is_file()]
    files = {path.name: path.read_bytes() for path in (folder / "out").rglob("*")}
    written = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    for path in (folder / "out").iterdir():
        path.unlink()
    text = printed.read_text()
    said = json.loads(text) if "--json" in command else {}
    return written, {key: value for key, value in said.items() if key not in TIMES}


@pytest.mark.slow
@pytest.mark.parametrize("signal", ["SIGKILL", "SIGINT"])
@pytest.mark.parametrize("name", COMMANDS)
def test_what_was_ended_gives_the_same_numbers(
    name: str, signal: str, commands: ForkedCommands, folder: Path
) -> None:
    """The same command again and again, ended in the layers of either model and in the scoring,
    ends with the files and the numbers of one that was not ended, and no temporary files.
    """
    command = COMMANDS[name]
    expected = result(commands, folder, command)
    for end_at in ENDS[name == "compare"]:
        assert result(commands, folder, command, f"{signal} {end_at}") is None
    assert result(commands, folder, command) == expected
