"""`evaluate` with a model that is read layer by layer."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from kullback.errors import InvalidValueError, RunError
from kullback.evaluation import predictors
from kullback.evaluation.batches import Batch
from kullback.evaluation.evaluate import evaluate
from kullback.models.streamed import StreamedModel
from kullback.predictions.base import Predictions
from kullback.results.evaluation import Evaluation


def measured(folder: Path, text: Path, **options: Any) -> Evaluation:
    """The result, with windows that are read alone in either case."""
    result = evaluate(folder, text, window=64, stride=64, **options)
    assert isinstance(result, Evaluation)
    return result


def test_the_same_numbers_as_without_it(
    tiny_llama_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    """Measures with their intervals, the beginning of the text, and every row of the records."""
    options = {"temperature": True, "device": "cpu"}
    whole = measured(tiny_llama_folder, text_file, records=tmp_path / "a.parquet", **options)
    with pytest.warns(UserWarning, match="layer by layer"):
        parts = measured(
            tiny_llama_folder, text_file, records=tmp_path / "b.parquet", stream=True, **options
        )
    columns = [pq.read_table(tmp_path / name).to_pydict() for name in ("a.parquet", "b.parquet")]
    assert columns[0].keys() == columns[1].keys()
    for name, values in columns[0].items():
        assert values == pytest.approx(columns[1][name], rel=1e-5, abs=1e-5)
    for name, measure in whole.measures.items():
        assert parts.measures[name].value == pytest.approx(measure.value, rel=1e-4, abs=1e-5)
    assert len(parts.passages) == len(whole.passages)
    assert parts.notes == whole.notes


def test_windows_share_batches_as_in_the_whole_model(
    tiny_llama_folder: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """Short documents are read together, and every row has the bits of the whole model's."""
    rows = [{"text": "a quick brown fox jumps over the lazy dog"[: 8 + i % 30]} for i in range(40)]
    text = tmp_path / "rows.jsonl"
    text.write_text("\n".join(map(json.dumps, rows)))
    shapes: list[tuple[int, ...]] = []
    prepare = StreamedModel.prepare

    def noted(self: StreamedModel, inputs: Any, at_once: int) -> bool:
        shapes.extend(inputs[i].shape for i in range(len(inputs)))
        return prepare(self, inputs, at_once)

    options = {"window": 64, "stride": 64, "device": "cpu"}
    evaluate(tiny_llama_folder, text, records=tmp_path / "a.parquet", **options)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(StreamedModel, "prepare", noted)
        evaluate(tiny_llama_folder, text, records=tmp_path / "b.parquet", stream=True, **options)
    assert max(shape[0] for shape in shapes) > 4
    columns = [pq.read_table(tmp_path / name).to_pydict() for name in ("a.parquet", "b.parquet")]
    assert columns[0] == columns[1]


@pytest.mark.parametrize("failures", [1, 1000])
def test_a_batch_that_does_not_fit_is_not_cut(
    failures: int, tiny_llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
) -> None:  # fmt: skip
    """The layers have read it whole: it is tried again beside no other one, then that is said."""
    rows = [{"text": f"a quick brown fox {i}"} for i in range(10)]
    text = tmp_path / "rows.jsonl"
    text.write_text("\n".join(map(json.dumps, rows)))
    expected = measured(tiny_llama_folder, text, stream=True)
    own = predictors.ModelPredictor.predictions
    calls = itertools.count()

    def failing(self: predictors.ModelPredictor, batch: Batch) -> Predictions:
        assert len(batch.windows) == 10
        if next(calls) < failures:
            raise MemoryError
        return own(self, batch)

    monkeypatch.setattr(predictors.ModelPredictor, "predictions", failing)
    if failures > 1:
        with pytest.raises(RunError, match=r"memory is too small .*--window"):
            measured(tiny_llama_folder, text, stream=True)
        return
    assert measured(tiny_llama_folder, text, stream=True).measures == expected.measures


def test_a_killed_run_resumes_after_its_rows(
    tiny_llama_folder: Path,
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
) -> None:
    """The windows that are left pass through the layers; finished records are only read."""
    records = tmp_path / "rows.parquet"
    own = StreamedModel.predict
    calls = 0

    def interrupted(self: StreamedModel, inputs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 4:
            raise KeyboardInterrupt
        return own(self, inputs)

    monkeypatch.setattr(predictors, "CPU_TOKENS", 64)  # batches of a window
    monkeypatch.setattr(StreamedModel, "predict", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measured(tiny_llama_folder, text_file, records=records, stream=True)
    monkeypatch.setattr(StreamedModel, "predict", own)
    sizes: list[int] = []
    prepare = StreamedModel.prepare

    def noted(self: StreamedModel, inputs: Any, at_once: int) -> bool:
        sizes.append(len(inputs))
        return prepare(self, inputs, at_once)

    monkeypatch.setattr(StreamedModel, "prepare", noted)
    resumed = measured(tiny_llama_folder, text_file, records=records, stream=True, passages=False)
    assert len(sizes) == 1
    again = measured(tiny_llama_folder, text_file, records=records, stream=True, passages=False)
    assert len(sizes) == 1
    whole = measured(tiny_llama_folder, text_file)
    for result in (resumed, again):
        value = result.measures["cross_entropy"].value
        assert value == pytest.approx(whole.measures["cross_entropy"].value, rel=1e-6)


@pytest.mark.slow
def test_16_bits_are_not_measured_against_float32(
    tiny_llama_folder: Path, text_file: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """That is said instead of reading the model a second time."""
    result = measured(tiny_llama_folder, text_file, dtype="bfloat16", stream=True)
    assert any("bfloat16 changes against float32 was not" in note for note in result.notes)
    assert json.loads(result.to_json())["notes"]


@pytest.mark.parametrize(
    "options",
    [{"device_map": "auto"}, {"trust_remote_code": True}, {"backend": "transformers"}],
)
def test_options_that_need_the_whole_model(
    options: dict[str, Any], tiny_llama_folder: Path, text_file: Path
) -> None:
    """They are refused with --stream, by name."""
    name = next(iter(options)).replace("_", "-")
    with pytest.raises(InvalidValueError, match=name):
        evaluate(tiny_llama_folder, text_file, stream=True, **options)


def test_under_torchrun_it_is_refused(
    tiny_llama_folder: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process would read all weights."""
    from contextlib import contextmanager

    from kullback.evaluation import evaluate as module
    from kullback.runtime.workers import ProcessGroup

    @contextmanager
    def two() -> Any:
        yield ProcessGroup(0, 2, 2)

    monkeypatch.setattr(module, "process_group", two)
    with pytest.raises(InvalidValueError, match="torchrun"):
        evaluate(tiny_llama_folder, text_file, stream=True)
