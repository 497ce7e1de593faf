"""``python -m kullback``."""

from kullback.cli import main

raise SystemExit(main())
