"""What transformers reports of the weights that it loaded: missing, misshapen, unused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kullback.errors import InvalidValueError

__all__ = ["check_complete", "unused_weights"]


def check_complete(name: str, report: Mapping[str, Any]) -> None:
    """Raise where weights are missing or misshapen: transformers fills them with random numbers."""
    misshapen, missing = report.get("mismatched_keys"), report.get("missing_keys")
    if misshapen:
        weight, stored, expected = min(misshapen)
        raise InvalidValueError(
            f"the model {name} has weights of other shapes than its config.json asks for: "
            f"{len(misshapen)}, the first is {weight}, {tuple(stored)} instead of "
            f"{tuple(expected)}; that file belongs to another model"
        )
    if missing:
        raise InvalidValueError(
            f"the model {name} lacks {len(missing)} of its weights, the first is {min(missing)}: "
            "it is damaged, or its config.json belongs to another model"
        )


def unused_weights(name: str, report: Mapping[str, Any]) -> list[str]:
    """A note where the files hold weights that the configuration has no place for."""
    unused = report.get("unexpected_keys")
    if not unused:
        return []
    return [
        f"the configuration of {name} has no place for {len(unused)} of the weights in its files, "
        f"the first is {min(unused)}: the model runs without them"
    ]
