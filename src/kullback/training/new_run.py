"""The check that a folder contains no run, before torch is imported."""

from __future__ import annotations

from pathlib import Path

from kullback.errors import RunError
from kullback.training.interruption import resume_command

__all__ = ["check_no_run"]


def check_no_run(run: Path) -> None:
    """Raise `RunError` where the folder contains a run."""
    if (run / "training.json").exists():
        raise RunError(
            f"{run} already contains a run; resume it ({resume_command(run)}), or choose another "
            "folder"
        )
