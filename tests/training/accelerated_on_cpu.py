"""The program with the path of an accelerator on a CPU: ``accelerated_on_cpu.py train ...``."""

from __future__ import annotations

import sys

from kullback.cli import main
from kullback.training import arithmetic

if __name__ == "__main__":
    arithmetic.ACCELERATED_ON_CPU = True
    sys.exit(main(sys.argv[1:]))
