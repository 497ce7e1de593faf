"""What torchrun says of this process, without torch."""

from __future__ import annotations

import pytest

from kullback.cli import main
from kullback.errors import InvalidValueError
from kullback.runtime.ranks import is_rank_zero, process_count


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
