"""Benchmarks are not run by the tests; the names that they import are checked."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parents[2] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_imported_names_exist(file: Path) -> None:
    """Every name that a benchmark imports from kullback, or from another benchmark, exists."""
    local = {other.stem for other in FILES}
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        package = node.module.split(".")[0]
        names = [alias.name for alias in node.names]
        if package == "kullback":
            module = importlib.import_module(node.module)
            for name in names:
                if not hasattr(module, name):
                    importlib.import_module(f"{node.module}.{name}")
        elif package in local:
            source = (file.parent / f"{package}.py").read_text(encoding="utf-8")
            tree = ast.parse(source)
            defined = {
                target.id
                for item in tree.body
                if isinstance(item, ast.Assign)
                for target in item.targets
                if isinstance(target, ast.Name)
            }
            defined |= {
                item.name for item in tree.body if isinstance(item, ast.FunctionDef | ast.ClassDef)
            }
            assert set(names) <= defined
