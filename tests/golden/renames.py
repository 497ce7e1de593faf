"""Names of the fields that ``--json`` prints: those before 0.2, and what they are called now.

A name is a path: a dot before a field, ``[]`` for every item of a list, ``[0]`` for the first one.
What is below a path moves with it, unless a longer path says otherwise.  CHANGELOG.md has the same
table; ``python tests/golden/renames.py`` prints it.
"""

from __future__ import annotations

RENAMES: dict[str, dict[str, str]] = {
    "evaluate": {
        "tokens": "total_tokens",
    },
    "compare": {
        "reference": "reference.name",
        "fingerprint": "reference.fingerprint",
        "protocol": "reference.protocol",
        "protocol.candidate_weights": "candidates[0].operand.protocol.weights",
        "candidate": "candidates[0].operand.name",
        "candidate_fingerprint": "candidates[0].operand.fingerprint",
        "candidate_protocol": "candidates[0].operand.protocol",
        "measures": "candidates[0].measures",
        "measures.top5_agreement": "candidates[0].measures.top5_overlap",
        "above_noise": "candidates[0].above_noise",
        "kl_quantiles": "candidates[0].kl_quantiles",
        "kl_histogram": "candidates[0].kl_histogram",
        "kl_by_position": "candidates[0].kl_by_position",
        "kl_by_confidence": "candidates[0].kl_by_confidence",
        "kl_by_token_class": "candidates[0].kl_by_token_class",
        "kl_by_token_class.blank": "candidates[0].kl_by_token_class.whitespace",
        "kl_by_token_class.word goes on": "candidates[0].kl_by_token_class.word continues",
        "worst": "candidates[0].worst_tokens",
        "spans": "candidates[0].spans",
        "passages": "candidates[0].passages",
        "schemes": "ranked",
        "schemes[].bytes": "ranked[].size_bytes",
    },
    "record": {},
}


def renamed(path: str, command: str) -> str:
    """The path now of what was at `path`, whose items of lists have numbers, before 0.2.

    >>> renamed("schemes[2].kl.value", "compare")
    'ranked[2].kl.value'
    """
    generic, numbers = _without_numbers(path)
    for old in sorted(RENAMES[command], key=len, reverse=True):
        if generic == old or generic.startswith((f"{old}.", f"{old}[")):
            return _with_numbers(RENAMES[command][old] + generic[len(old) :], numbers)
    return path


def _without_numbers(path: str) -> tuple[str, list[str]]:
    parts = path.split("[")
    numbers = [part.partition("]")[0] for part in parts[1:]]
    return "[".join([parts[0], *(part[part.index("]") :] for part in parts[1:])]), numbers


def _with_numbers(path: str, numbers: list[str]) -> str:
    first, *rest = path.split("[]")
    assert len(rest) == len(numbers), path
    pairs = zip(numbers, rest, strict=True)
    return first + "".join(f"[{number}]{part}" for number, part in pairs)


def table() -> str:
    """The table of CHANGELOG.md."""
    lines = ["| `kullback … --json` | before | now |", "| --- | --- | --- |"]
    for command, names in RENAMES.items():
        lines += [f"| {command} | `{old}` | `{new}` |" for old, new in names.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
