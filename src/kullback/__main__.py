"""``python -m kullback``."""

from kullback.cli import run

run()
