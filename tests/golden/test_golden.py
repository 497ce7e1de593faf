"""What evaluate, compare and record print is, number by number, what they printed before 0.2.

The models are in float32, whose logits round by about 10⁻⁶, and a KL of 10⁻⁴ nats with them: on a
processor without vector instructions the values differ by up to 1.3 × 10⁻⁴ of themselves.
``python tests/golden/test_golden.py`` lists all values that are not equal to the last bit; on the
processor and with the two threads that made the golden file there is none.
"""

from __future__ import annotations

import gzip
import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from golden_cases import run, write_inputs
from renames import renamed, table

from kullback.cli import main

HERE = Path(__file__).parent
BEFORE: dict[str, Any] = json.loads(gzip.decompress((HERE / "before_0_2.json.gz").read_bytes()))

# Every kind of command, the three architectures and both texts.
QUICK = [
    "evaluate llama docs", "evaluate gemma2 book", "evaluate hf-stride",
    "record statistics llama docs", "record exact llama docs", "record top-k llama docs",
    "compare recording llama docs", "compare bounds llama docs", "compare statistics llama docs",
    "compare gpt2 docs", "compare schemes", "compare by bytes", "compare same",
]  # fmt: skip

# Prose, times, and what depends on the versions of the libraries.
NOT_COMPARED = {
    "title", "command", "notes", "method", "created", "seconds", "tokens_per_second", "versions",
    "fingerprint", "candidate_fingerprint",
}  # fmt: skip

# Means of values in [0, 1].
SHARES = ("_accuracy", "_agreement", "_overlap")


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The numbers and strings of a document, each with its path."""
    if isinstance(value, dict):
        for name, part in value.items():
            if name not in NOT_COMPARED:
                yield from leaves(part, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for i, part in enumerate(value):
            yield from leaves(part, f"{path}[{i}]")
    else:
        yield path, value


def differences(name: str, before: Any, now: Any, rel: float, absolute: float) -> dict[str, Any]:
    """The paths whose value is missing now, or is another, with both values."""
    command = name.split()[0]
    different: dict[str, Any] = {}
    after, earlier = dict(leaves(now)), dict(leaves(before))
    for path, old in earlier.items():
        if command == "record" and path == "bytes":
            continue  # the header of a recording has the path of the folder
        if name == "compare same" and path.startswith("worst"):
            continue  # identical models have no worst tokens since 0.2
        # Since 0.2 bf16, the first scheme, converts all weights: it is now smaller than int8, the
        # second, and the intervals are joint.
        by_bf16 = path.startswith("schemes[0].") or path == "schemes[1].on_pareto_front"
        if name == "compare schemes" and (by_bf16 or ".interval[" in path):
            continue
        # Since 0.2 the interval of a share that would leave [0, 1] is that of the logit.
        share = path.rpartition(".interval[")[0]
        ends = [earlier.get(f"{share}.interval[{i}]") for i in (0, 1)]
        if share.endswith(SHARES) and not 0 <= ends[0] <= ends[1] <= 1:
            continue
        # And of one that is the same at all tokens there is none.
        share, _, field = path.rpartition(".")
        equal = earlier.get(f"{share}.value") in (0.0, 1.0)
        if share.endswith(SHARES) and equal and field != "value":
            continue
        if path in ("reference", "candidate") and str(old).endswith(".rec"):
            continue  # since 0.2 a recording is called as the model that it is of
        new = after.get(renamed(path, command), "missing")
        # The noise floor is rounding noise: it is small, and of this processor.
        noise = path.startswith("noise_floor") and isinstance(old, float) and rel > 0
        # On another processor a token or two may be on the other side of an edge.
        token = 0.005 if path.startswith("kl_histogram.share") and rel > 0 else absolute
        if not (_is_noise(path, new) if noise else _same(old, new, rel, token)):
            different[path] = (old, new)
    return different


def _is_noise(path: str, new: Any) -> bool:
    return isinstance(new, float) and (not path.endswith(".value") or new < 1e-2)


def _same(old: Any, new: Any, rel: float, absolute: float) -> bool:
    if old is None:
        return new in (None, "Infinity", "-Infinity", "NaN")
    if isinstance(old, bool | str):
        return bool(old == new)
    return isinstance(new, int | float) and math.isclose(old, new, rel_tol=rel, abs_tol=absolute)


def changed(
    names: list[str], folder: Path, rel: float = 1e-3, absolute: float = 1e-6
) -> dict[str, dict[str, Any]]:
    """Run the commands, and list what differs in what they print."""
    write_inputs(folder)
    now = run(folder, main, names)
    every = {name: differences(name, BEFORE[name], now[name], rel, absolute) for name in names}
    return {name: values for name, values in every.items() if values}


def test_every_kind_of_command_prints_the_numbers_of_before(tmp_path: Path):
    """On three architectures and two texts the values are those of 0.1, under their new names."""
    assert changed(QUICK, tmp_path) == {}


@pytest.mark.slow
def test_every_command_prints_the_numbers_of_before(tmp_path: Path):
    """The same for all commands of the golden file."""
    assert changed(list(BEFORE), tmp_path) == {}


def test_a_changed_number_is_listed():
    """The check names the path of a value that is another or missing."""
    old = {"tokens": 3, "measures": {"kl": {"value": 0.5, "method": "by hand"}}}
    assert differences("evaluate x", old, {**old, "total_tokens": 3}, 0.0, 0.0) == {}
    assert differences("evaluate x", old, {"total_tokens": 4, "measures": {}}, 0.0, 0.0) == {
        "tokens": (3, 4),
        "measures.kl.value": (0.5, "missing"),
    }


def test_the_changelog_has_the_table_of_names():
    """CHANGELOG.md shows the table that the comparison is made with."""
    changelog = HERE.parents[1] / "CHANGELOG.md"
    assert table() in changelog.read_text(encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        for command_name, values in changed(list(BEFORE), Path(scratch), 0.0, 0.0).items():
            for place, (value_before, value_now) in values.items():
                print(f"{command_name}: {place} was {value_before!r} and is {value_now!r}")
