"""What ``import kullback`` costs."""

from __future__ import annotations

from pathlib import Path

from fresh_process import heavy_imports


def test_the_package_loads_no_library(tmp_path: Path):
    """``import kullback`` loads neither NumPy nor torch nor anything else that is heavy."""
    heavy = ("numpy", "torch", "transformers", "scipy", "pyarrow", "rich", "jinja2", "matplotlib")
    assert heavy_imports({"kullback": heavy}, tmp_path) == {}
