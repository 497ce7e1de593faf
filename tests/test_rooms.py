"""Imports point one way, some rooms never load torch, and no file is too long."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "kullback"
LONGEST_FILE = 500

# Top to bottom: a room imports from its own line and those above it.
ROOMS = (
    ("errors",),
    ("files", "threads"),
    ("information",),
    ("entropy_estimators", "likelihood", "chain_rule", "autograd", "losses"),
    ("derivation",),
    ("sources",),
    ("byte_spans", "documents"),
    ("text",),
    ("packed_attention", "linear_cross_entropy", "muon"),
    ("gpt", "batches"),
    ("run_folder", "training_metrics", "source_export"),
    ("train", "generate", "quantise"),
    ("models", "evaluate"),
    ("byte_boundaries", "compare", "sensitivity"),
    ("report",),
    ("lab", "text_evaluation"),
    ("comparison_sides", "noise_floor"),
    ("model_comparison", "stored_comparison", "records_comparison", "byte_comparison"),
    ("cli",),
    ("__main__",),
)


def imported_rooms(code: str) -> Iterator[str]:
    """Yield the rooms that a file imports from, those inside functions and for types, too."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
            if node.module == "kullback":
                names = [f"kullback.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("kullback."):
                yield name.split(".")[1]


def violations(files: Sequence[tuple[str, str]]) -> list[str]:
    """Return the imports that point upward, of files given as (room, code)."""
    height = {room: i for i, line in enumerate(ROOMS) for room in line}
    found = []
    for room, code in files:
        for other in imported_rooms(code):
            if other not in height:
                continue  # a name in kullback/__init__.py
            if height[other] > height[room]:
                found.append(f"{room} imports from {other}, which stands below it")
    return found


def sources() -> list[tuple[str, str]]:
    """Return every file of the package as (room, code)."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        room = relative.parts[0].removesuffix(".py")
        if room != "__init__":
            found.append((room, path.read_text(encoding="utf-8")))
    return found


def test_every_room_has_its_place():
    """Each file or folder of the package stands in the order of the rooms, and none twice."""
    placed = [room for line in ROOMS for room in line]
    assert sorted(placed) == sorted({room for room, _ in sources()})


def test_imports_point_one_way():
    """No file imports from a room below its own."""
    assert violations(sources()) == []


@pytest.mark.parametrize(
    "code",
    [
        "from kullback.cli import main",
        "import kullback.lab",
        "from kullback import lab",
        "def late():\n    from kullback.report.page import write_lab_report",
    ],
)
def test_the_order_can_be_broken(code: str):
    """An import that points upward is found, wherever it stands in a file."""
    assert len(violations([("information", code)])) == 1
    assert violations([("__main__", code)]) == []


@pytest.mark.parametrize(
    "module", ["kullback", "kullback.information", "kullback.losses", "kullback.sources.language"]
)
def test_torch_is_not_loaded(module: str):
    """Importing the exact rooms never loads torch."""
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_torch_check_can_fail():
    """A room that needs torch is caught by the same check."""
    code = "import sys, kullback.gpt; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 1


def test_no_file_is_too_long():
    """No Python file of the project has more than 500 lines."""
    long = {}
    for folder in ("src", "tests", "benchmarks", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            lines = len(path.read_text(encoding="utf-8").splitlines())
            if lines > LONGEST_FILE:
                long[str(path.relative_to(ROOT))] = lines
    assert long == {}
