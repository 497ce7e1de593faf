"""Import contracts, what light modules load, and the length of modules and functions."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median

from fresh_process import heavy_imports

ROOT = Path(__file__).parent.parent
LONGEST_MODULE = 400
LONGEST_FUNCTION = 80
MEDIAN_MODULE = 180
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
    """The package keeps its import contracts; measuring that imports the CLI, and a report that
    imports what measures, break them.
    """
    assert lint_imports(ROOT).returncode == 0
    shutil.copytree(ROOT / "src", tmp_path / "src")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    module = tmp_path / "src" / "kullback" / "scoring" / "token_statistics.py"
    code = module.read_text(encoding="utf-8")
    module.write_text(f"{code}\n\ndef late():\n    import kullback.cli.output\n", encoding="utf-8")
    module = tmp_path / "src" / "kullback" / "report" / "verdict.py"
    code = module.read_text(encoding="utf-8")
    module.write_text(
        f"{code}\n\ndef late():\n    import kullback.training.loss\n", encoding="utf-8"
    )
    broken = lint_imports(tmp_path)
    assert broken.returncode == 1
    assert "kullback.report.verdict -> kullback.training.loss" in broken.stdout
    assert "kullback.scoring.token_statistics -> kullback.cli.output" in broken.stdout


# In this order, in one process: what is not to be loaded once a module has been imported.
NOT_LOADED = {
    "kullback.theory.autograd": ("numpy", "torch"),
    "kullback.theory.information": ("torch", "scipy", "jaxtyping", "matplotlib"),
    "kullback.theory.losses": ("torch",),
    "kullback.sources.language": ("torch",),
    "kullback.models.load": ("transformers", "torchao"),
}


def test_light_modules_load_no_heavy_ones(tmp_path: Path):
    """The exact packages do without torch, the measures without SciPy, our runs without others."""
    assert heavy_imports(NOT_LOADED, tmp_path) == {}


def test_a_heavy_import_is_listed(tmp_path: Path):
    """The same check names torch where a module imports it."""
    (tmp_path / "torch.py").touch()
    (tmp_path / "light.py").write_text("import torch", encoding="utf-8")
    assert heavy_imports({"light": ("numpy", "torch")}, tmp_path) == {"light": ["torch"]}


def test_the_package_root_holds_five_files():
    """What is no package is the entry points, the errors, the lab and the marker of types."""
    files = {path.name for path in (ROOT / "src" / "kullback").iterdir() if path.is_file()}
    assert files == {"__init__.py", "__main__.py", "errors.py", "lab.py", "py.typed"}


def test_large_packages_say_where_each_module_belongs():
    """The docstring of a package of more than 20 modules names all of them, and nothing else."""
    unlike = {}
    for package in (ROOT / "src" / "kullback").iterdir():
        modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
        if len(modules) > 20:
            tree = ast.parse((package / "__init__.py").read_text(encoding="utf-8"))
            named = set(re.findall(r"``(\w+)``", ast.get_docstring(tree) or ""))
            unlike[package.name] = modules ^ named
    assert {name: names for name, names in unlike.items() if names} == {}
    assert len(unlike) > 5


def test_modules_and_functions_are_short():
    """Modules have at most 400 lines, half of them at most 180; functions 80; other files 500."""
    long: dict[str, int] = {}
    lengths: list[int] = []
    for folder in ("src", "tests", "benchmarks", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            code = path.read_text(encoding="utf-8")
            name, lines = str(path.relative_to(ROOT)), len(code.splitlines())
            if lines > (LONGEST_MODULE if folder == "src" else LONGEST_TEST_FILE):
                long[name] = lines
            if folder != "src":
                continue
            lengths.append(lines)
            for node in ast.walk(ast.parse(code)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    length = (node.end_lineno or node.lineno) - node.lineno + 1
                    if length > LONGEST_FUNCTION:
                        long[f"{name}:{node.name}"] = length
    assert long == {}
    assert median(lengths) <= MEDIAN_MODULE
