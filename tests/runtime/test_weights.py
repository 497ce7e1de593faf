"""Fingerprints of weights."""

from __future__ import annotations

import torch

from kullback.runtime.weights import weights_fingerprint


def test_the_fingerprint_depends_on_names_types_shapes_and_values() -> None:
    """A change of any of them changes it; the order of the tensors and their strides do not."""
    six, ones = torch.arange(6.0), torch.ones(2, 2)
    fingerprint = weights_fingerprint({"a": six, "b": ones})
    assert len(fingerprint) == 64
    assert weights_fingerprint({"b": ones, "a": six}) == fingerprint
    others = [
        {"a": six, "c": ones},
        {"a": six.view(2, 3), "b": ones},
        {"a": six, "b": ones.half()},
        {"a": six + 1, "b": ones},
        {"a": six, "b": ones, "c": ones},
    ]
    assert len({fingerprint, *(weights_fingerprint(weights) for weights in others)}) == 6
    strided = torch.arange(12.0).view(6, 2)[:, 0]
    assert weights_fingerprint({"a": strided}) == weights_fingerprint({"a": strided.clone()})


def test_tied_weights_are_told_from_equal_ones() -> None:
    """Two names for one tensor and two equal tensors have different fingerprints."""
    weight = torch.ones(3, 2)
    tied = weights_fingerprint({"in": weight, "out": weight})
    assert tied == weights_fingerprint({"out": weight, "in": weight})
    assert tied != weights_fingerprint({"in": weight, "out": weight.clone()})


def test_one_changed_bit_changes_the_fingerprint() -> None:
    """The next larger float is another weight, in any type."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        weight = torch.ones(5, dtype=dtype)
        changed = weight.clone()
        changed[3] = torch.nextafter(changed[3], torch.tensor(2.0, dtype=dtype))
        fingerprints = {weights_fingerprint({"a": each}) for each in (weight, changed)}
        assert len(fingerprints) == 2


def test_the_fingerprint_is_the_one_of_earlier_versions() -> None:
    """The hash of known weights stays what it was, because recordings hold it."""
    weights = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}
    known = "9e37e84021f40a6d4192b7e08358472c6b921eb628f63b90479dec7c2f546b56"
    assert weights_fingerprint(weights) == known
