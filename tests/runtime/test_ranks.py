"""What torchrun says of this process, without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import kullback
from kullback.cli import main
from kullback.errors import InvalidValueError, LostProcessError
from kullback.runtime.ranks import is_first_to_say, is_rank_zero, others_said, process_count


def test_the_first_process_is_rank_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """And so is one that torchrun did not start."""
    monkeypatch.delenv("RANK", raising=False)
    assert is_rank_zero()
    monkeypatch.setenv("RANK", "1")
    assert not is_rank_zero()


def test_a_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One without torchrun; what it never sets is refused."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert process_count("WORLD_SIZE") == 1
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert process_count("WORLD_SIZE") == 8
    monkeypatch.setenv("WORLD_SIZE", "x")
    with pytest.raises(InvalidValueError, match="WORLD_SIZE is 'x'"):
        process_count("WORLD_SIZE")


@pytest.mark.parametrize(
    "command",
    [
        ["doctor", "--", "true"],
        ["scaling", "-o", "ladder"],
        ["lab", "-o", "lab"],
        ["quantise", "folder", "--scheme", "int8", "-o", "out"],
        ["source", "export", "conjugation", "--tokens", "100", "-o", "data"],
    ],
)
def test_commands_of_one_process(
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path,
) -> None:
    """Another number of processes, and none at all, are one sentence."""
    monkeypatch.chdir(tmp_path)
    for value in ("2", "x"):
        monkeypatch.setenv("WORLD_SIZE", value)
        assert main(command) == 2
        assert "WORLD_SIZE" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())


def test_rank_zero_alone_says_what_an_interruption_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other ranks keep nothing, and would deny what rank 0 has kept."""

    def interrupt(options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kullback.cli.derive._derive", interrupt)
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        main(["derive"])
        assert ("interrupted" in capsys.readouterr().err) == (rank == "0")


@pytest.fixture
def rank(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Makes this process one of the three that a torchrun has started."""
    monkeypatch.setenv("WORLD_SIZE", "3")

    def become(number: int) -> None:
        folder = tmp_path / "attempt_0" / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv("RANK", str(number))
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(folder / "error.json"))

    return become


def test_an_error_of_all_ranks_is_said_once(rank, capsys: pytest.CaptureFixture[str]) -> None:
    """By whichever comes first; what only one rank has is said by that one; each ends with 2."""
    said = []
    for number, name in ((2, "nothing"), (0, "nothing"), (1, "other"), (1, "other")):
        rank(number)
        assert main(["evaluate", "model", "--text", name]) == 2
        said.append(capsys.readouterr().err)
    assert said[0].startswith("kullback: ")
    assert "nothing" in said[0]
    assert "kullback: " not in said[1]
    assert "other" in said[2]
    assert said[3] == said[2]  # a process may repeat itself
    for number in range(3):
        rank(number)
        with pytest.raises(SystemExit, match="2"):
            main(["evaluate", "--nonsense"])
        assert ("MODEL" in capsys.readouterr().err) == (number == 0)


def test_without_torchrun_everything_is_said(
    rank, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without its folder, or where that has gone, each process speaks; so does the only one."""
    rank(0)
    assert is_first_to_say("no")
    rank(1)
    assert not is_first_to_say("no")
    assert others_said()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert is_first_to_say("no")
    assert not others_said()
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "gone" / "0" / "error.json"))
    assert is_first_to_say("no")
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE")
    assert is_first_to_say("no")
    assert not others_said()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (LostProcessError("another has ended"), "another has ended"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_a_rank_that_lost_another_is_silent_if_that_one_spoke(
    error: BaseException,
    said: str,
    rank,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where the other was killed and said nothing, this one says what it knows."""

    def fail(options: object) -> None:
        raise error

    monkeypatch.setattr("kullback.cli.derive._derive", fail)
    rank(0)
    main(["derive"])
    assert said in capsys.readouterr().err
    for mark in Path(os.environ["TORCHELASTIC_ERROR_FILE"]).parent.parent.glob("*said*"):
        mark.unlink()
    rank(1)
    assert main(["evaluate", "model", "--text", "nothing"]) == 2
    rank(0)
    capsys.readouterr()
    main(["derive"])
    assert capsys.readouterr().err == ""
    if isinstance(error, KeyboardInterrupt):
        error.add_note("3 tokens are kept")
        main(["derive"])
        assert "3 tokens are kept" in capsys.readouterr().err


@pytest.mark.slow  # processes of their own
@pytest.mark.parametrize("differ", [False, True])
def test_torchrun_says_an_error_once(
    differ: bool, tiny_llama_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    """A missing text, and texts that differ between the ranks; both end with 2."""
    texts = [text_file, tmp_path / "1.txt"]
    texts[1].write_text("another text\n" * 20, encoding="utf-8")
    command = tmp_path / "command.sh"
    text = f"{text_file.parent}/missing" if not differ else f"{tmp_path}/$RANK.txt"
    (tmp_path / "0.txt").write_bytes(text_file.read_bytes())
    command.write_text(
        f"#!/bin/sh\n{sys.executable} -m kullback evaluate {tiny_llama_folder} --window 16 "
        f"--text {text}\necho ends with $?\nexit 2\n"
    )
    command.chmod(0o700)
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    ran = subprocess.run(
        [sys.executable, *torchrun, "--no-python", str(command)],
        capture_output=True, text=True, timeout=200, check=False,
        env=os.environ | {"PYTHONPATH": str(Path(kullback.__file__).parents[1])},
    )  # fmt: skip
    said = [line for line in ran.stderr.splitlines() if line.startswith("kullback: ")]
    assert len(said) == 1, ran.stderr
    assert ("differ in the tokens" if differ else "missing") in said[0]
    assert set(ran.stdout.split("\n")) <= {"ends with 2", ""}
