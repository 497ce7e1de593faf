"""Imports without garbage collections."""

from __future__ import annotations

import gc

import pytest

from kullback.runtime.imports import without_collections


def test_collections_are_paused_and_then_as_before() -> None:
    """After an error, too; a process that has none keeps none."""
    assert gc.isenabled()
    with without_collections():
        assert not gc.isenabled()
    with pytest.raises(ImportError), without_collections():
        import kullback.not_there  # noqa: F401
    assert gc.isenabled()
    gc.disable()
    try:
        with without_collections():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
