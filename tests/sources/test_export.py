"""The files of an export against each other and against the source."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from kullback.errors import InvalidValueError
from kullback.sources.catalogue import AnySource, Source, open_any_source, open_source
from kullback.sources.export import export_source
from kullback.sources.floor import read_floor
from kullback.sources.help import FORMATS
from kullback.sources.known_processes import known_process
from kullback.sources.process import Process
from tiny_runs import weather

TEXT = 'the "cat" sat\nthe \\dog\\ sat on the mat\n'


@pytest.fixture(scope="module")
def source() -> Source:
    """Return the conjugation source."""
    return open_source("conjugation")


@pytest.fixture(scope="module")
def exported(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an export of 5,000 tokens."""
    folder = tmp_path_factory.mktemp("export") / "data"
    export_source(source, 5000, folder, seed=0)
    return folder


@pytest.fixture(scope="module", params=["weather", "text", "mess3", "golden-mean"])
def everything(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[AnySource, Path]:
    """Return a source and a folder with its export in all formats."""
    folder = tmp_path_factory.mktemp("formats")
    source: AnySource
    if request.param == "weather":
        source = weather(folder).source
    elif request.param == "text":
        (folder / "text.txt").write_text(TEXT, encoding="utf-8")
        source = open_any_source(str(folder / "text.txt"), order=2, unit="words")
    else:
        source = known_process(request.param)
    window = 12 if isinstance(source, Process) else None
    export_source(source, 1200, folder / "data", 3, 300, tuple(FORMATS), window)
    return source, folder / "data"


@pytest.mark.parametrize("window", [12, 13])
def test_windows_of_a_periodic_process_begin_in_all_phases(window: int, tmp_path: Path):
    """RRXOR has three phases: rows of 12 symbols, one after the other, would all begin in one of
    them, and their mean surprisal would not be the floor.
    """
    process = known_process("rrxor")
    assert process.period == 3
    assert known_process("mess3").period == known_process("even").period == 1
    formats = ("npy", "nanogpt")
    floor = export_source(process, 60_000, tmp_path / "data", 1, 30_000, formats, window)
    for split, name in (("train", "train.bin"), ("validation", "val.bin")):
        about = floor["splits"][split]
        # 0.02 nats/token apart where all begin in one phase.
        assert about["mean_surprisal"] == pytest.approx(floor["nats_per_token"], abs=0.005)
        ids = np.load(tmp_path / "data" / f"{split}.tokens.npy").reshape(-1, window)
        stride = window + (window == 12)
        stream = np.fromfile(tmp_path / "data" / "nanogpt" / name, np.uint16)
        assert np.array_equal(stream.reshape(-1, stride)[:, :window], ids)
    readme = (tmp_path / "data" / "README.txt").read_text("utf-8")
    assert ("all phases of its period of 3" in readme) == (window == 12)


def test_a_stream_that_counts_bos_has_its_own_floor(tmp_path: Path):
    """nanoGPT's loss on the rows has the floor of all ids, <s> among them, which costs nothing."""
    source = weather(tmp_path).source
    floor = export_source(source, 200_000, tmp_path / "data", 0, 0, ("npy", "nanogpt"))
    surprisals = np.load(tmp_path / "data" / "train.surprisals.npy")
    ids = np.fromfile(tmp_path / "data" / "nanogpt" / "train.bin", np.uint16)
    assert len(ids) == len(surprisals)
    assert floor["stream_nats_per_token"] < 0.9 * floor["nats_per_token"]
    assert surprisals.mean() == pytest.approx(floor["stream_nats_per_token"], rel=0.01)


def test_text_tokens_and_surprisals_agree(source: Source, exported: Path):
    """The tokenizer reads the text as the exported ids, whose surprisals are the source's."""
    ids = np.load(exported / "train.tokens.npy")
    surprisals = np.load(exported / "train.surprisals.npy")
    assert ids.dtype == np.uint16
    assert ids.shape == surprisals.shape
    language = source.training
    bos, eos = (language.vocabulary.index(word) for word in ("<s>", "</s>"))
    tokenizer = Tokenizer.from_file(str(exported / "tokenizer.json"))
    starts = np.flatnonzero(ids == bos)
    lines = (exported / "train.txt").read_text("utf-8").splitlines()
    assert len(lines) == len(starts)
    sentences = np.split(ids, starts[1:])
    for line, sentence, costs in zip(
        lines, sentences, np.split(surprisals, starts[1:]), strict=True
    ):
        assert sentence[-1] == eos
        assert tokenizer.encode(line, add_special_tokens=False).ids == sentence[1:-1].tolist()
        assert costs[0] == 0
        expected = -language.sentence_log_prob(sentence[1:].tolist())
        assert costs.sum() == pytest.approx(expected, abs=1e-12)


def test_the_floor_is_that_of_the_source(source: Source, exported: Path):
    """`floor.json` has the exact entropies and counts the tokens without <s>."""
    floor = json.loads((exported / "floor.json").read_text("utf-8"))
    ids = np.load(exported / "train.tokens.npy")
    train = floor["splits"]["train"]
    assert train["tokens"] == train["scored"] == ids.size - train["rows"] >= 5000
    assert floor["nats_per_token"] == source.training.entropy_per_token
    assert floor["vocabulary_size"] == len(source.training.vocabulary)
    mean = np.load(exported / "train.surprisals.npy").sum() / train["tokens"]
    assert train["mean_surprisal"] == pytest.approx(mean, rel=1e-12)
    slots = floor["per_slot"].values()
    total = sum(slot["tokens_per_sentence"] * slot["nats"] for slot in slots)
    assert total == pytest.approx(floor["nats_per_sentence"], rel=1e-12)
    readme = (exported / "README.txt").read_text("utf-8")
    assert f"{floor['nats_per_token']:.12f}" in readme
    assert f"{floor['stream_nats_per_token']:.12f}" in readme
    opened = read_floor(exported).open()
    assert isinstance(opened, Source)
    assert opened.fingerprint() == source.fingerprint() == floor["fingerprint"]
    validation = (exported / "validation.txt").read_text("utf-8")
    assert validation != (exported / "train.txt").read_text("utf-8")
    assert floor["splits"]["validation"]["tokens"] >= 500


@pytest.mark.parametrize("split", ["train", "validation"])
def test_all_formats_have_the_same_rows(everything: tuple[AnySource, Path], split: str):
    """Text, JSONL, ids, Arrow, Parquet and nanoGPT's file say the same."""
    source, folder = everything
    lines = (folder / f"{split}.txt").read_text("utf-8").split("\n")[:-1]
    json_lines = (folder / f"{split}.jsonl").read_text("utf-8").split("\n")[:-1]
    assert [json.loads(line)["text"] for line in json_lines] == lines
    ids = np.load(folder / f"{split}.tokens.npy")
    name = {"train": "train.bin", "validation": "val.bin"}[split]
    assert np.fromfile(folder / "nanogpt" / name, dtype="<u2").tolist() == ids.tolist()
    stream = folder / "datasets" / split / "data-00000-of-00001.arrow"
    with pa.memory_map(str(stream)) as file:
        arrow = pa.ipc.open_stream(file).read_all()
    parquet = pq.read_table(folder / "parquet" / f"{split}.parquet")
    for table in (arrow, parquet):
        assert table["text"].to_pylist() == lines
        assert table["input_ids"].combine_chunks().flatten().to_pylist() == ids.tolist()
        nats = table["surprisals"].combine_chunks().flatten().to_pylist()
        assert nats == np.load(folder / f"{split}.surprisals.npy").tolist()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    end = [] if isinstance(source, Process) else [1]
    read = [tokenizer.encode(line).ids + end for line in lines]
    assert read == arrow["input_ids"].to_pylist()


def test_the_files_of_other_programs(everything: tuple[AnySource, Path]):
    """nanoGPT's meta.pkl, the card, and what `load_from_disk` looks for."""
    source, folder = everything
    vocabulary = source.vocabulary if isinstance(source, Process) else source.training.vocabulary
    meta = pickle.loads((folder / "nanogpt" / "meta.pkl").read_bytes())
    assert meta["vocab_size"] == len(vocabulary)
    assert [meta["itos"][i] for i in range(len(vocabulary))] == list(vocabulary)
    assert meta["stoi"] == {word: i for i, word in enumerate(vocabulary)}
    card = (folder / "parquet" / "README.md").read_text("utf-8")
    assert "path: validation.parquet" in card.split("---")[1]
    dictionary = json.loads((folder / "datasets" / "dataset_dict.json").read_text())
    assert dictionary == {"splits": ["train", "validation"]}
    state = json.loads((folder / "datasets" / "train" / "state.json").read_text())
    assert (folder / "datasets" / "train" / state["_data_files"][0]["filename"]).is_file()


def test_datasets_reads_the_folders(everything: tuple[AnySource, Path], tmp_path: Path):
    """Hugging Face `datasets` loads the Arrow folder and the Parquet folder."""
    datasets = pytest.importorskip("datasets", reason="not a dependency of kullback")
    _, folder = everything
    lines = (folder / "train.txt").read_text("utf-8").split("\n")[:-1]
    for loaded in (
        datasets.load_from_disk(str(folder / "datasets")),
        datasets.load_dataset(str(folder / "parquet"), cache_dir=str(tmp_path)),
    ):
        assert set(loaded) == {"train", "validation"}
        assert loaded["train"]["text"][:] == lines
        assert len(loaded["train"][0]["input_ids"]) == len(loaded["train"][0]["surprisals"])


def test_the_stored_source_is_the_same(everything: tuple[AnySource, Path]):
    """The source is read again from the export, with the same fingerprint and entropy."""
    source, folder = everything
    opened = read_floor(folder / "floor.json").open()
    assert type(opened) is type(source)
    assert opened.fingerprint() == source.fingerprint()
    if isinstance(opened, Process):
        assert opened.window_entropy(12).value == read_floor(folder).nats_per_token
    else:
        assert opened.training.entropy_per_token == read_floor(folder).nats_per_token


def test_the_mean_surprisal_is_near_the_floor(tmp_path: Path):
    """On 200,000 symbols the mean surprisal of both splits is the floor within its noise."""
    for name in ("even", "rrxor", "mess3"):
        export_source(known_process(name), 200_000, tmp_path / name, 0, 100_000, ("npy",), 16)
        floor = json.loads((tmp_path / name / "floor.json").read_text("utf-8"))
        for split in ("train", "validation"):
            nats = np.load(tmp_path / name / f"{split}.surprisals.npy").reshape(-1, 16)
            noise = nats[:, 1:].mean(axis=1).std() / math.sqrt(len(nats))
            assert abs(floor["splits"][split]["mean_surprisal"] - floor["nats_per_token"]) < (
                6 * noise
            )


def test_an_export_is_reproducible(tmp_path: Path):
    """The same seed gives the same bytes, another one other bytes."""
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        export_source(known_process("mess3"), 5000, tmp_path / name, seed)
    first, again, other = (
        (tmp_path / name / "train.tokens.npy").read_bytes() for name in ("a", "b", "c")
    )
    assert first == again
    assert first != other


def test_an_export_is_not_overwritten(source: Source, exported: Path, tmp_path: Path):
    """A folder with an export is refused and left as it was; so is a number of tokens below 1."""
    before = (exported / "train.txt").read_bytes()
    with pytest.raises(InvalidValueError, match=str(exported)):
        export_source(source, 10, exported, seed=1)
    assert (exported / "train.txt").read_bytes() == before
    with pytest.raises(InvalidValueError, match="tokens is 0"):
        export_source(source, 0, tmp_path / "new", seed=1)
    with pytest.raises(InvalidValueError, match="'arrow'"):
        export_source(source, 10, tmp_path / "new", seed=1, formats=("arrow",))
    with pytest.raises(InvalidValueError, match="window"):
        export_source(source, 10, tmp_path / "new", seed=1, window=8)
    assert not (tmp_path / "new").exists()


def test_an_interrupted_export_leaves_nothing(monkeypatch, tmp_path: Path):
    """Ctrl-C while the files are written leaves no folder."""

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kullback.sources.export.finish_datasets", stop)
    with pytest.raises(KeyboardInterrupt):
        export_source(known_process("even"), 1000, tmp_path / "data", 0, formats=("datasets",))
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_floor_is_refused(tmp_path: Path):
    """A floor of another schema, a source of another export, and no JSON at all."""
    export_source(known_process("even"), 100, tmp_path / "a", 0)
    export_source(known_process("rrxor"), 100, tmp_path / "b", 0)
    (tmp_path / "a" / "source.safetensors").write_bytes(
        (tmp_path / "b" / "source.safetensors").read_bytes()
    )
    with pytest.raises(InvalidValueError, match="another source"):
        read_floor(tmp_path / "a").open()
    (tmp_path / "a" / "source.safetensors").write_bytes(b"no")
    with pytest.raises(InvalidValueError, match="no source"):
        read_floor(tmp_path / "a").open()
    floor = tmp_path / "b" / "floor.json"
    floor.write_text(floor.read_text("utf-8").replace("floor/1", "floor/9"), encoding="utf-8")
    with pytest.raises(InvalidValueError, match="floor/9"):
        read_floor(floor)
    floor.write_text("{", encoding="utf-8")
    with pytest.raises(InvalidValueError, match=r"floor\.json"):
        read_floor(floor)
    with pytest.raises(InvalidValueError, match="missing"):
        read_floor(tmp_path / "missing")
