"""Kinds of files by their content."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import save_file

from kullback.runtime.contents import NAMES, is_kind
from kullback.runtime.files import write_atomically

HTML = b"<!DOCTYPE html>\n<html><head><meta charset='utf-8'>"


def test_a_file_of_somebody_else_is_of_no_kind(tmp_path: Path) -> None:
    """Names mean nothing: HTML, Parquet, safetensors, JSON and SVG by others are not ours."""
    import torch

    files = []
    for name, content in {
        "report.html": HTML + b"</head></html>",
        "text.parquet": b"PAR1 kullback",
        "short.parquet": b"PAR1",
        "result.json": b'{"schema": "https://json-schema.org"}',
        "notes.svg": b"an <svg> element",
        "empty": b"",
    }.items():
        write_atomically(tmp_path / name, content)
        files.append(tmp_path / name)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    save_file({"x": torch.zeros(2)}, tmp_path / "a.rec", metadata={"format": "pt"})
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    files += [tmp_path / name for name in ("a.parquet", "a.rec", "folder", "fifo", "missing")]
    assert {(file.name, kind) for file in files for kind in NAMES if is_kind(file, kind)} == set()


@pytest.mark.parametrize("length", [0, 1 << 31, 2**32 - 1])
def test_a_lying_length_of_a_footer_is_no_records(length: int, tmp_path: Path) -> None:
    """The length in the last bytes of a Parquet file is not believed."""
    content = b"PAR1kullback" + length.to_bytes(4, "little") + b"PAR1"
    write_atomically(tmp_path / "x.parquet", content)
    assert not is_kind(tmp_path / "x.parquet", "records")


def test_every_file_that_is_written_is_known(
    tiny_llama_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    """Reports, records, recordings, results and figures are of their kind and of no other."""
    from lab_samples import lab_results

    from kullback import evaluate, record
    from kullback.report.html.lab import write_lab_report

    model, text = str(tiny_llama_folder), str(text_file)
    result = evaluate(model, text, records=tmp_path / "records.parquet")
    result.save_html(tmp_path / "report.html")
    result.to_json(tmp_path / "result")
    record(model, text, tmp_path / "exact", distributions="exact")
    record(model, text, tmp_path / "top-k", distributions="top-k")
    write_lab_report(lab_results(), tmp_path / "lab.html")
    expected = {
        "records.parquet": "records",
        "report.html": "report",
        "lab.html": "report",
        "result": "result",
        "exact": "recording",
        "top-k": "recording",
        **{f"figures/{path.name}": "figure" for path in (tmp_path / "figures").iterdir()},
    }
    for name, kind in expected.items():
        assert [known for known in NAMES if is_kind(tmp_path / name, known)] == [kind], name
