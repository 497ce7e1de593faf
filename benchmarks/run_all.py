"""Run every benchmark and append what it printed, dated, to ``docs/log.md``.

Run it: ``make bench``, or ``python benchmarks/run_all.py lab kl_coverage`` for some of them.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from datetime import date
from pathlib import Path

HERE = Path(__file__).parent
LOG = HERE.parent / "docs" / "log.md"
# This file, modules that benchmarks import, and one that needs a text of the user.
NOT_BENCHMARKS = {"bootstrap", "job_process", "pretrained", "run_all", "tiny_shakespeare"}


def main(names: list[str]) -> int:
    known = sorted({path.stem for path in HERE.glob("*.py")} - NOT_BENCHMARKS)
    if unknown := set(names) - set(known):
        print(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(known)}")
        return 2
    failed = 0
    for name in names or known:
        print(f"== {name}", flush=True)
        command = [sys.executable, str(HERE / f"{name}.py")]
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        print(run.stdout, flush=True)
        failed |= run.returncode
        if run.returncode == 0:
            entry = (
                f"\n## {date.today()}: benchmark {name}\n\n"
                f"`python benchmarks/{name}.py`, {platform.machine()}, {platform.system()}\n\n"
                f"```\n{run.stdout.rstrip()}\n```\n"
            )
            with LOG.open("a", encoding="utf-8") as log:
                log.write(entry)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
