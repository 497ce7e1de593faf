"""Which arithmetic sums blocks of logits, for tests that must hold in both."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from kullback.scoring.compiled import block_library


@contextmanager
def block_sums_by(name: str) -> Iterator[None]:
    """Sum in C where the machine has a compiler ("compiled"), or in torch ("torch")."""
    before = os.environ.get("KULLBACK_COMPILE")
    os.environ["KULLBACK_COMPILE"] = {"compiled": "1", "torch": "0"}[name]
    block_library.cache_clear()
    try:
        yield
    finally:
        if before is None:
            del os.environ["KULLBACK_COMPILE"]
        else:
            os.environ["KULLBACK_COMPILE"] = before
        block_library.cache_clear()
