"""``kullback evaluate``: the texts that it reads."""

from __future__ import annotations

import json
from pathlib import Path

from kullback.cli import main


def test_a_folder_of_json_lines_is_read_and_other_files_are_noted(
    tiny_llama_folder: Path, tmp_path: Path, capsys
):
    """Every line is a document; a file that is not read is named on standard error."""
    lines = [json.dumps({"text": "A quick brown fox. " * n}) for n in (2, 3)]
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "notes.md").write_text("not a text")
    assert main(["evaluate", str(tiny_llama_folder), "--text", str(tmp_path), "--json"]) == 0
    streams = capsys.readouterr()
    assert json.loads(streams.out)["text"] == "sub/a.jsonl (2 documents)"
    assert "note: " in streams.err
    assert "notes.md" in streams.err
