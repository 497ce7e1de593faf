"""An evaluation that several processes share: ``shared_evaluation.py MODEL TEXT OUT``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from kullback.evaluation.on_text import TextTask, evaluate_text
from kullback.models.load import load_text_model
from kullback.results.evaluation import NonZeroRank
from kullback.runtime.workers import process_group
from kullback.text.documents import Document
from kullback.text.protocol import Protocol


def evaluate(folder: str, file: str, out: str) -> None:
    """Write the measures to OUT and the records to OUT.parquet."""
    text = Path(file).read_text(encoding="utf-8")
    documents = [Document(str(i), text[i:]) for i in range(3)]
    with process_group() as processes:
        model = load_text_model(folder)
        task = TextTask(records=Path(out + ".parquet"))
        results = evaluate_text(model, documents, Protocol(window=16), task, processes)
        assert isinstance(results, NonZeroRank) != processes.is_rank_zero
    if not isinstance(results, NonZeroRank):
        Path(out).write_text(json.dumps(results.to_dict()["measures"]))


if __name__ == "__main__":
    evaluate(*sys.argv[1:])
