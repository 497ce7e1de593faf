"""Write the golden file: ``python tests/golden/make_golden.py FILE``."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from golden_cases import run, write_inputs

from kullback.cli import main

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(Path(folder))
        printed = run(Path(folder), main)
    Path(sys.argv[1]).write_text(
        json.dumps(printed, indent=1, ensure_ascii=False), encoding="utf-8"
    )
