"""What ``import kullback`` costs, and the names that it does not have."""

from __future__ import annotations

from pathlib import Path

import pytest

import kullback
from fresh_process import heavy_imports


def test_the_package_loads_no_library(tmp_path: Path):
    """``import kullback`` loads neither NumPy nor torch nor anything else that is heavy."""
    heavy = ("numpy", "torch", "transformers", "scipy", "pyarrow", "rich", "jinja2", "matplotlib")
    assert heavy_imports({"kullback": heavy}, tmp_path) == {}


@pytest.mark.parametrize(
    ("name", "meant"),
    [("quantize", "quantise"), ("Evaluations", "Evaluation"), ("load_models", "load_model")],
)
def test_a_misspelt_name_is_answered_by_the_similar_one(name: str, meant: str):
    """The American spelling and slips of the keyboard name the public name that was meant."""
    with pytest.raises(AttributeError, match=f"no attribute '{name}': did you mean {meant}"):
        getattr(kullback, name)


@pytest.mark.parametrize("name", ["pipeline", "_places"])
def test_a_name_like_no_other_has_no_suggestion(name: str):
    """Nothing is suggested for a name that resembles none, or is private."""
    with pytest.raises(AttributeError, match=f"no attribute '{name}'$"):
        getattr(kullback, name)
