"""The sample output in README is what the commands print.

A fenced block below ``<!-- output of: COMMAND -->`` is compared with the real output of COMMAND,
which begins with ``kullback`` and may end in ``| head -n N`` or ``| tail -n N``.  The commands run
in one folder, in order, after those of `PREPARE`; it holds ``book.txt``, two hundred sentences.
``python tests/test_readme.py --write`` writes the blocks anew.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(
    r"(?P<head><!-- output of: (?P<command>.+?) -->\n+```[^\n]*\n)(?P<output>.*?)(?=^```)",
    re.DOTALL | re.MULTILINE,
)
PREPARE = (
    # All in float32, so that processors differ in rounding only; with this seed the change of int8
    # is more than its error.
    "kullback train --text book.txt --steps 60 --batch 16 --layers 1 --vocabulary 384"
    " --dtype float32 --muon-rows 32 --seed 2 -o runs/book",
)
COLUMNS = "100"
# Times, and the fingerprint, which is of the weights: no two processors train the same bits.
NOT_COMPARED = re.compile(r"[\d.,]+(?= s\b| tokens/s\b)|(?<=fingerprint )[0-9a-f]+")
NUMBER = re.compile(r"\d+(?:[  ,]\d{3})*(?:\.\d+)?")


@contextlib.contextmanager
def prepared_folder() -> Iterator[None]:
    """A folder with the inputs as the working one."""
    from kullback.sources.catalogue import open_source

    language = open_source("conjugation").training
    sentences = language.sample(200, np.random.default_rng(0)).texts()
    columns = os.environ.get("COLUMNS")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        os.environ["COLUMNS"] = COLUMNS
        Path("book.txt").write_text("\n".join(sentences), encoding="utf-8")
        try:
            for command in PREPARE:
                output_of(command)
            yield
        finally:
            os.environ.pop("COLUMNS")
            if columns is not None:
                os.environ["COLUMNS"] = columns


def output_of(command: str) -> str:
    """What a command prints on standard output."""
    from kullback.cli import main

    words, _, part = command.partition(" | ")
    program, *arguments = shlex.split(words)
    assert program == "kullback", command
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()) as errors:
        code = main(arguments)
    assert code == 0, errors.getvalue()
    lines = [line.rstrip() for line in out.getvalue().rstrip().splitlines()]
    if part:
        end, _, count = part.split()
        lines = lines[: int(count)] if end == "head" else lines[-int(count) :]
    return "\n".join(lines) + "\n"


def same(shown: str, printed: str) -> bool:
    """Whether two outputs have the same words and columns, and numbers of the same size.

    After 60 steps of training the last digits of a KL, of a standard error and of its ratio to the
    noise are those of the processor: measured with and without vector instructions, 15 %.
    """
    shown, printed = NOT_COMPARED.sub("", shown), NOT_COMPARED.sub("", printed)
    texts = [" ".join(NUMBER.sub("#", text).split()) for text in (shown, printed)]
    numbers = [
        [float(re.sub(r"[^\d.]", "", number)) for number in NUMBER.findall(text)]
        for text in (shown, printed)
    ]
    return texts[0] == texts[1] and numbers[0] == pytest.approx(numbers[1], rel=0.3, abs=0.02)


def rewritten(readme: str, output: Callable[[str], str]) -> str:
    """The text with the output of each command in the block below it."""
    return BLOCK.sub(lambda match: match["head"] + output(match["command"]), readme)


def test_readme_shows_what_the_commands_print():
    """Every block below a command is its output."""
    blocks = list(BLOCK.finditer(README.read_text(encoding="utf-8")))
    assert len(blocks) == README.read_text(encoding="utf-8").count("<!-- output of:") > 0
    with prepared_folder():
        for block in blocks:
            printed = output_of(block["command"])
            assert same(block["output"], printed), f"$ {block['command']}\n{printed}"


SAMPLE = "x\n\n<!-- output of: kullback derive | head -n 2 -->\n```text\nold 1\n```\ny\n"


def test_a_block_is_written_anew():
    """The output replaces the block's content and nothing around it."""
    assert rewritten(SAMPLE, lambda command: f"{command}!\n") == SAMPLE.replace(
        "old 1", "kullback derive | head -n 2!"
    )


def test_stale_output_is_noticed():
    """Other words, other columns and other numbers are; spacing and rounding are not."""
    assert same("KL  0.9101  1,234 tokens", "KL 0.9102 1,240 tokens")
    assert same("cpu, fingerprint 9abbf5e0b360152b", "cpu, fingerprint 8b7e2912d9b20746")
    assert same("1,234 tokens in 1.5 s, 823 tokens/s", "1,234 tokens in 3 s, 411 tokens/s")
    assert not same("KL 0.91 nats", "KL 0.91 bits")
    assert not same("KL 0.91", "KL 0.91 1")
    assert not same("KL 0.91", "KL 0.51")


def test_part_of_an_output():
    """`head` and `tail` cut lines, as in a shell."""
    lines = output_of("kullback source list").splitlines()
    assert output_of("kullback source list | head -n 1").splitlines() == lines[:1]
    assert output_of("kullback source list | tail -n 1").splitlines() == lines[-1:]


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    with prepared_folder():
        text = rewritten(README.read_text(encoding="utf-8"), output_of)
    README.write_text(text, encoding="utf-8")
