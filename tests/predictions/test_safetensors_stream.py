"""Safetensors files that are written row by row."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from kullback.errors import InvalidValueError
from kullback.predictions.checksums import CHECKSUMS
from kullback.predictions.safetensors_stream import SafetensorsStream


def test_columns_tensors_and_metadata_are_read_back(tmp_path: Path) -> None:
    """The file equals what was appended, in every type, and other libraries read it."""
    path = tmp_path / "x"
    columns = {
        "a": torch.arange(15, dtype=torch.bfloat16).view(5, 3),
        "b": torch.arange(5, dtype=torch.int32),
        "c": torch.linspace(0, 1, 5, dtype=torch.float64),
    }
    with SafetensorsStream(path, metadata_bytes=100) as stream:
        for rows in (slice(0, 2), slice(2, 5)):
            for name, column in columns.items():
                stream.append(name, column[rows])
        stream.publish({"whole": torch.eye(3)}, {"about": "an example"})
    tensors = load_file(path)
    for name, column in {**columns, "whole": torch.eye(3)}.items():
        assert torch.equal(tensors[name], column)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata.pop(CHECKSUMS)
    assert metadata == {"about": "an example"}


def test_rows_that_do_not_fit_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    """Another shape, another number of rows and too long a header are each an error."""

    def columns(stream: SafetensorsStream) -> None:
        stream.append("a", torch.zeros(2, 3))
        stream.append("a", torch.zeros(2, 4))

    def lengths(stream: SafetensorsStream) -> None:
        stream.append("a", torch.zeros(2))
        stream.append("b", torch.zeros(3))
        stream.publish({}, {})

    def header(stream: SafetensorsStream) -> None:
        stream.append("a", torch.zeros(2))
        stream.publish({}, {"about": "x" * 9000})

    for case, names in ((columns, r"a .*\(4,\).*\(3,\)"), (lengths, "rows"), (header, "header")):
        with (
            pytest.raises(InvalidValueError, match=names),
            SafetensorsStream(tmp_path / "x", metadata_bytes=100) as stream,
        ):
            case(stream)
        assert not list(tmp_path.iterdir())
