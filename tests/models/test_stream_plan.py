"""Where the hidden states of a streamed model are, and whether layers are read ahead."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kullback.errors import RunError
from kullback.models import stream_plan
from kullback.models.stream_plan import Plan, Sizes, estimated_seconds

GB = 10**9
SIZES = Sizes(read=60 * GB, kept=0, ends=GB, layer=2 * GB, stored_layer=GB, hidden=4 * GB)
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("free", "place", "ahead"), [(20, "memory", True), (8, "memory", False), (5, "disk", True)]
)
def test_the_fastest_that_fits(
    free: int, place: str, ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hidden states are in memory where they fit beside a layer; then the next layer, too."""
    monkeypatch.setattr(stream_plan, "available_memory", lambda: free * GB)
    plan = Plan.of(SIZES, CPU)
    assert (plan.place, plan.ahead) == (place, ahead)


def test_what_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read, held, kept on disk and where, and about how long it takes."""
    monkeypatch.setattr(stream_plan, "available_memory", lambda: 5 * GB)
    text = Plan.of(SIZES, CPU).announcement("big", 32, 1000, 600.0)
    for part in ("big", "32", "60.0 GB", "4.0 GB", "4.0 GB in a temporary file", "10 minutes"):
        assert part in text


def test_where_nothing_is_kept_on_disk_no_folder_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may have none for temporary files."""

    def missing() -> Path:
        raise RunError("no folder for temporary files")

    monkeypatch.setattr(stream_plan, "temporary_folder", missing)
    assert "in memory" in Plan(SIZES, "memory", True).announcement("big", 32, 1000, 1.0)
    with pytest.raises(RunError):
        Plan(SIZES, "disk", True).announcement("big", 32, 1000, 1.0)


def test_more_tokens_take_longer() -> None:
    """The estimate grows with the work and with what is read."""
    less, more = (
        estimated_seconds(10**9, tokens, GB, GB, torch.float32, CPU) for tokens in (10, 10**5)
    )
    assert 1 <= less < more
