"""What a fresh Python process loads when it imports a module."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import kullback


def heavy_imports(not_loaded: dict[str, tuple[str, ...]], path: Path) -> dict[str, list[str]]:
    """Import each module in a fresh process, with `path` before others, and list what it loaded."""
    code = (
        "import importlib, json, sys; loaded = {}\n"
        "for name, heavy in json.loads(sys.argv[1]).items():\n"
        "    importlib.import_module(name)\n"
        "    loaded[name] = [module for module in heavy if module in sys.modules]\n"
        "print(json.dumps({name: heavy for name, heavy in loaded.items() if heavy}))"
    )
    paths = os.pathsep.join([str(path), str(Path(kullback.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(not_loaded)], stdout=subprocess.PIPE, check=True,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    loaded: dict[str, list[str]] = json.loads(done.stdout)
    return loaded
