"""Import contracts, packages that never load torch, and the length of modules and functions."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LONGEST_MODULE = 500
LONGEST_FUNCTION = 110
LONGEST_TEST_FILE = 500


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of ``pyproject.toml`` on the package in ``root/src``."""
    command = [
        sys.executable, "-c",
        "import sys; sys.path.insert(0, 'src'); from importlinter.cli import lint_imports; "
        "sys.exit(lint_imports(no_cache=True))",
    ]  # fmt: skip
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def test_the_contracts_hold_and_a_forbidden_import_breaks_them(tmp_path: Path):
    """The package keeps its import contracts; a measuring package that imports the CLI does not."""
    assert lint_imports(ROOT).returncode == 0
    shutil.copytree(ROOT / "src", tmp_path / "src")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    module = tmp_path / "src" / "kullback" / "scoring" / "token_statistics.py"
    code = module.read_text(encoding="utf-8")
    module.write_text(f"{code}\n\ndef late():\n    import kullback.cli.output\n", encoding="utf-8")
    broken = lint_imports(tmp_path)
    assert broken.returncode == 1
    assert "kullback.scoring.token_statistics -> kullback.cli.output" in broken.stdout


@pytest.mark.parametrize(
    "module",
    [
        "kullback",
        "kullback.theory.information",
        "kullback.theory.losses",
        "kullback.sources.language",
    ],
)
def test_torch_is_not_loaded(module: str):
    """Importing the exact packages never loads torch."""
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_torch_check_can_fail():
    """A module that needs torch is caught by the same check."""
    code = "import sys, kullback.training.muon; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 1


def test_modules_and_functions_are_short():
    """No module of the package is over 400 lines, no function over 80, no other file over 500."""
    long: dict[str, int] = {}
    for folder in ("src", "tests", "benchmarks", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            code = path.read_text(encoding="utf-8")
            name, lines = str(path.relative_to(ROOT)), len(code.splitlines())
            if lines > (LONGEST_MODULE if folder == "src" else LONGEST_TEST_FILE):
                long[name] = lines
            if folder != "src":
                continue
            for node in ast.walk(ast.parse(code)):
                if isinstance(node, ast.FunctionDef):
                    length = (node.end_lineno or node.lineno) - node.lineno + 1
                    if length > LONGEST_FUNCTION:
                        long[f"{name}:{node.name}"] = length
    assert long == {}
