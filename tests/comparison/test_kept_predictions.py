"""Hidden states that are kept in a temporary file."""

from __future__ import annotations

import subprocess
import sys


def test_a_disk_without_room_for_the_hidden_states_is_one_sentence() -> None:
    """The room is taken before anything is computed: writing never ends the process."""
    code = (
        "import resource, torch\n"
        "from kullback.comparison import kept_predictions\n"
        "from kullback.errors import RunError\n"
        "kept_predictions.IN_MEMORY = 0\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "kept_predictions._buffer((10, 10), torch.float32).fill_(1)\n"
        "try:\n    kept_predictions._buffer((1000, 10), torch.float32).fill_(1)\n"
        "except RunError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert "40,000 bytes" in done.stdout
    assert "TMPDIR" in done.stdout
