"""Fingerprints, and the check that two results are about the same tokens."""

from __future__ import annotations

import math

import pytest

from kullback.errors import InvalidValueError
from kullback.text.documents import Document
from kullback.text.fingerprint import check_same_text, fingerprint
from kullback.text.protocol import Protocol

PARTS: dict[str, object] = {
    "text": "a" * 64,
    "tokenizer": "b" * 64,
    "weights": "c" * 64,
    "protocol": {"preset": "sliding", "window": 24, "stride": 12, "joined": False},
}


TEXTS = ["A quick brown fox.", "naïve façade\n", "x"]
DOCUMENTS = [Document(str(i), text) for i, text in enumerate(TEXTS)]


def other(**changes: object) -> dict[str, object]:
    """Return the parts with some of them changed."""
    return {**PARTS, **changes}


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (other(text="d" * 64), "texts .* text is 'aaaa"),
        (other(tokenizer="d" * 64), "byte boundaries"),
        (
            other(protocol={"preset": "sliding", "window": 48, "stride": 12, "joined": True}),
            "protocol.window is 24 in the first and 48 in the second; .*--window 24 --no-joined",
        ),
        ({"model": "x"}, "text is .* in the first and None in the second"),
    ],
)
def test_results_about_other_tokens_are_refused(second: dict[str, object], message: str) -> None:
    """The message names the part that differs, and for a protocol the options to use."""
    with pytest.raises(InvalidValueError, match=message):
        check_same_text(PARTS, second)


def test_two_models_on_the_same_tokens_are_comparable() -> None:
    """Weights and versions may differ; parts that are missing from both are refused."""
    check_same_text(PARTS, other(weights="d" * 64, versions={"torch": "3"}, model="other"))
    with pytest.raises(InvalidValueError, match=r"the first and the second .*text"):
        check_same_text({}, {})


def test_the_fingerprint_depends_on_every_part() -> None:
    """Text, document boundaries, tokenizer, weights, protocol, type and device change it."""
    first = fingerprint(DOCUMENTS, "t", "w", Protocol().resolve(32), "float32", "cpu")
    joined = [Document("all", "".join(TEXTS))]
    others = [
        fingerprint(DOCUMENTS[:2], "t", "w", Protocol().resolve(32), "float32", "cpu"),
        fingerprint(joined, "t", "w", Protocol().resolve(32), "float32", "cpu"),
        fingerprint(DOCUMENTS, "u", "w", Protocol().resolve(32), "float32", "cpu"),
        fingerprint(DOCUMENTS, "t", "v", Protocol().resolve(32), "float32", "cpu"),
        fingerprint(DOCUMENTS, "t", "w", Protocol().resolve(64), "float32", "cpu"),
        fingerprint(DOCUMENTS, "t", "w", Protocol().resolve(32), "bfloat16", "cpu"),
        fingerprint(DOCUMENTS, "t", "w", Protocol().resolve(32), "float32", "cuda"),
    ]
    assert len({other.full for other in (first, *others)}) == 8
    parts = [["text"], ["text"], ["tokenizer"], ["weights"]]
    parts += [["protocol.stride", "protocol.window"], ["dtype"], ["device"]]
    assert [first.differences(other) for other in others] == parts
    renamed = [Document("other", text) for text in TEXTS]
    again = fingerprint(renamed, "t", "w", Protocol().resolve(32), "float32", "cpu")
    assert str(again) == str(first) == first.full[:16]
    assert math.log2(16) * len(str(first)) == 64
