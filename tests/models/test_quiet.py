"""Libraries are silent inside the block, and as talkative as before after it."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
from huggingface_hub.utils.tqdm import are_progress_bars_disabled
from transformers.utils import logging as transformers_logging

from kullback.models.quiet import quiet_loggers, quiet_transformers


def test_attempts_to_reach_the_hub_are_not_logged() -> None:
    """What the hub's own library says of its attempts does not reach the terminal."""
    script = (
        "import huggingface_hub.utils._http as http\n"
        "from kullback.models.quiet import *\n"
        "with quiet_loggers(): http.logger.warning('Retrying')"
    )
    later = "from kullback.models.quiet import *\n" + (
        "with quiet_loggers():\n    import huggingface_hub.utils._http as http\n"
        "    http.logger.warning('Retrying')"
    )
    for code in (script, later):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


def test_levels_come_back_after_an_error() -> None:
    """Whatever they were, and whatever happens inside."""
    logger = logging.getLogger("torchao")
    before = logger.level
    logger.setLevel(logging.INFO)
    try:
        with pytest.raises(ZeroDivisionError), quiet_loggers():
            logger.setLevel(1 // 0)
        with quiet_loggers():
            assert logger.level == logging.CRITICAL
        assert logger.level == logging.INFO
    finally:
        logger.setLevel(before)


def test_a_block_inside_another_changes_no_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """What all loggers have cached is cleared by the outer block alone."""
    cleared: list[int] = []
    monkeypatch.setattr(logging.Logger.manager, "_clear_cache", lambda: cleared.append(1))
    with quiet_loggers():
        before = len(cleared)
        with quiet_loggers():
            pass
        assert len(cleared) == before > 0
        assert logging.getLogger("torchao").level == logging.CRITICAL


@pytest.mark.parametrize("bars", [True, False])
def test_bars_and_verbosity_of_transformers_come_back(bars: bool) -> None:
    """Bars that were on are on again, and bars that were off stay off."""
    switch = (
        transformers_logging.enable_progress_bar if bars
        else transformers_logging.disable_progress_bar
    )  # fmt: skip
    switch()
    level = transformers_logging.get_verbosity()
    try:
        with quiet_transformers():
            assert not transformers_logging.is_progress_bar_enabled()
            assert transformers_logging.get_verbosity() == logging.ERROR
        assert transformers_logging.is_progress_bar_enabled() == bars
        assert are_progress_bars_disabled() != bars
        assert transformers_logging.get_verbosity() == level
    finally:
        transformers_logging.enable_progress_bar()


def test_loops_of_transformers_are_counted() -> None:
    """`progress` is told before each element and at the end; other iterables are left alone."""
    steps: list[tuple[int, int]] = []
    with quiet_transformers(lambda *step: steps.append(step)):
        assert list(transformers_logging.tqdm("ab", desc="Loading weights")) == ["a", "b"]
        assert list(transformers_logging.tqdm(x for x in "ab")) == ["a", "b"]
        with transformers_logging.tqdm(total=3) as bar:
            bar.update(1)
    assert steps == [(0, 2), (1, 2), (2, 2)]
