"""`kullback derive`: its text, its JSON and its errors."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from kullback.cli import main
from kullback.theory.derivation import derive


def test_the_command_prints_the_derivation(capsys: pytest.CaptureFixture[str]) -> None:
    """`kullback derive --p 0.5,0.5 --q 0.9,0.1` shows KL = log(5/3) of the two coins."""
    assert main(["derive", "--p", "0.5,0.5", "--q", "0.9,0.1"]) == 0
    assert "1.203973 = 0.693147 + 0.510826" in capsys.readouterr().out


def test_the_command_gives_strict_json(capsys: pytest.CaptureFixture[str]) -> None:
    """`--json` is one document of every step, in which an infinity is the string "Infinity"."""
    assert main(["derive", "--json", "--seed", "3"]) == 0
    document = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert document["seed"] == 3
    assert document["example"]["reverse_kl"] == "Infinity"
    assert document["own"]["cross_entropy"] == derive(seed=3).own.cross_entropy
    assert len(document["asymptotics"]) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--p", "0.5,0.6"], "--p sums to 1.1"),
        (["--p", "0.5,x"], "--p[1] is 'x'"),
        (["--q", "1/0,1"], "--q[0] is '1/0'"),
        (["--p", "1.5,-0.5"], "--p[0] is 1.5"),
        (["--p", "1"], "p has shape (1,)"),
        (["--p", "0.5,0.5", "--q", "1,0,0"], "p has 2 outcomes and q 3"),
    ],
)
def test_the_command_names_what_is_wrong(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong argument ends with code 2 and one line that names it and its value."""
    assert main(["derive", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_negative_seed_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """``--seed -1`` ends with code 2 and names the option and the value."""
    with pytest.raises(SystemExit) as stop:
        main(["derive", "--seed", "-1"])
    assert stop.value.code == 2
    assert "--seed" in (error := capsys.readouterr().err)
    assert "-1" in error


def test_the_command_does_not_load_torch() -> None:
    """A fresh process derives everything without torch."""
    script = (
        "import sys; from kullback.cli import main; code = main(['derive', '--json']);"
        "sys.exit(code or ('torch' in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", script], stdout=subprocess.DEVNULL).returncode == 0
