"""A text made ready for training: its splits, its tokens on disk, and what changes are noticed."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

import kullback.training.prepare_text as prepare_text_module
from interrupted_runs import CONFIG, assert_same_run, edit_json
from kullback.errors import InvalidValueError, RunError
from kullback.runtime.progress import Progress
from kullback.text.tokenizer_training import train_tokenizer
from kullback.training.description import preparing
from kullback.training.interruption import Interrupted
from kullback.training.loop import resume, train_prepared
from kullback.training.prepare_text import TextOptions, check_text, prepare_text
from kullback.training.progress import TrainingProgress
from kullback.training.text_batches import TextBatches
from kullback.training.text_shards import NAMES
from kullback.training.text_splits import is_held_out
from tiny_runs import sizes, text

FORTY = [f"the night {i} is long and señor {i * i} sleeps" for i in range(40)]


class Notes(TrainingProgress):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Keep it."""
        self.notes.append(text)


def lines(path: Path, rows: list[str]) -> Path:
    """Write rows as JSON Lines."""
    path.write_text("\n".join(json.dumps({"text": row}) for row in rows), encoding="utf-8")
    return path


def prepared(folder: Path, *sources: str | Path, **changes: object) -> TextBatches:
    """Return the batches of files, whose tokens are in `folder`."""
    options = {"context": 4, "windows": 6, "default_vocabulary": 270} | changes
    return prepare_text(folder, TextOptions(sources, **options), Notes())  # type: ignore[arg-type]


def test_one_text_is_split_as_in_memory(tmp_path: Path) -> None:
    """The tokens, the split and the shards of one text are those of the text read in memory."""
    expected = text(tmp_path)
    batches = prepared(tmp_path / "run", tmp_path / "weather.txt", context=8, windows=12)
    assert np.array_equal(batches.training[:], expected.training[:])
    assert np.array_equal(batches.held_out[:], expected.held_out[:])
    ours, theirs = batches.validation(), expected.validation()
    for a, b in zip(ours, theirs, strict=True):
        assert np.array_equal(a.targets_M, b.targets_M)
        assert np.array_equal(a.bytes_M, b.bytes_M)
    assert (tmp_path / "run" / "tokens" / "train.bin").stat().st_size == 2 * len(batches.training)


def test_validation_on_what_is_trained_on_is_refused(tmp_path: Path) -> None:
    """Files are compared by content; copies are noted where a part of a corpus is held out."""
    path, copy = lines(tmp_path / "a.jsonl", FORTY), lines(tmp_path / "b.jsonl", FORTY)
    other = lines(tmp_path / "c.jsonl", FORTY[:10])
    for validation, words in ((path, "a.jsonl is"), (copy, r"content of .*a\.jsonl,")):
        with (
            pytest.raises(InvalidValueError, match=rf"validation text .*{words} trained on"),
            preparing(tmp_path / "run"),
        ):
            prepared(tmp_path / "run", path, validation=(validation,))
    with pytest.raises(InvalidValueError, match="given twice"), preparing(tmp_path / "run"):
        prepared(tmp_path / "run", path, path)
    assert not (tmp_path / "run" / "tokens").exists()
    notes = Notes()
    for validation in ((), (other,)):
        options = TextOptions((path, copy), validation, context=4, windows=6)
        prepare_text(tmp_path / "run", options, notes)
    assert len([note for note in notes.notes if "has the content of" in note]) == 1


def test_documents_are_held_out_whole(tmp_path: Path) -> None:
    """Each document is in one split, whole, BOS before and EOS between documents."""
    path = lines(tmp_path / "rows.jsonl", FORTY)
    batches = prepared(tmp_path / "run", path)
    splits = [batches.training[:].tolist(), batches.held_out[:].tolist()]
    documents = []
    for tokens in splits:
        parts = batches.tokenizer.decode(tokens, skip_special_tokens=False).split("</s><s>")
        assert parts[0].startswith("<s>")
        documents.append([part.removeprefix("<s>") for part in parts])
    assert sorted(documents[0] + documents[1]) == sorted(FORTY)
    assert 1 <= len(documents[1]) <= 12
    shards = batches.validation()
    held_bytes = sum(int(shard.bytes_M.sum()) for shard in shards)  # type: ignore[union-attr]
    assert held_bytes == sum(len(document.encode()) for document in documents[1])
    if len(documents[1]) > 1:
        of = np.concatenate([shard.document_M for shard in shards])  # type: ignore[misc]
        assert sorted(set(of.tolist())) == list(range(len(documents[1])))
        # EOS belongs to the document that it ends, BOS to the one that it begins.
        targets = torch.cat([shard.targets_M for shard in shards]).numpy()
        bos, eos = map(batches.tokenizer.token_to_id, ("<s>", "</s>"))
        assert of[targets == eos].tolist() == list(range(len(documents[1]) - 1))
        assert of[targets == bos].tolist() == list(range(1, len(documents[1])))


def test_held_out_documents_that_are_too_short_are_said(tmp_path: Path) -> None:
    """Where those of 40 documents have fewer tokens than a window, the end of the text is added."""
    path = lines(tmp_path / "rows.jsonl", ["ab", "c", "abc", "b"] * 10)
    said: list[str] = []

    class Told(Notes):
        def tell(self, text: str) -> None:
            said.append(text)

    options = TextOptions([path], tokenizer="characters", context=24, windows=2)
    batches = prepare_text(tmp_path / "run", options, Told())
    (split,) = said
    assert "the end of the text and" in split
    assert "alone are shorter than a window" in split
    assert len(batches.held_out) > 24
    # The end of the text is no part of the last document before it.
    held = sum(is_held_out(document, 0.1) for document in range(40))
    shards = batches.validation()
    of = np.concatenate([shard.document_M for shard in shards])  # type: ignore[misc]
    targets = torch.cat([shard.targets_M for shard in shards]).numpy()
    eos = batches.tokenizer.token_to_id("</s>")
    assert of.max() == held
    assert all(targets[of == document][-1] == eos for document in range(held))


def test_files_given_for_validation_are_held_out(tmp_path: Path) -> None:
    """All of the text trains, and the given files are the validation split."""
    first = lines(tmp_path / "a.jsonl", FORTY[:30])
    second = lines(tmp_path / "b.jsonl", FORTY[30:])
    batches = prepared(tmp_path / "run", first, validation=[second], tokenizer="characters")
    decode = batches.tokenizer.decode
    assert decode(batches.training[:].tolist()) == "".join(FORTY[:30])
    assert decode(batches.held_out[:].tolist()) == "".join(FORTY[30:])


def test_an_existing_tokenizer(tmp_path: Path) -> None:
    """The tokens are those of the tokenizer that is given, with its own special tokens."""
    tokenizer = train_tokenizer(FORTY, 300)
    folder = tmp_path / "theirs"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    path = lines(tmp_path / "rows.jsonl", FORTY)
    for name in (folder, folder / "tokenizer.json"):
        batches = prepared(tmp_path / f"run{len(str(name))}", path, tokenizer=name)
        assert batches.special_tokens == ("<s>", "</s>")
        assert batches.tokenizer.to_str() == tokenizer.to_str()
    with pytest.raises(InvalidValueError, match=r"vocabulary_size is 300.*theirs"):
        check_text(TextOptions([path], tokenizer=folder, vocabulary_size=300))
    with pytest.raises(InvalidValueError, match=r"none.* is not there"):
        check_text(TextOptions([path], tokenizer=tmp_path / "none"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"context": 5000}, "tokens to train on.*context of 5000.*5001"),
        ({"vocabulary_size": 9000}, r"supports a vocabulary of \d+ entries, not of 9,000"),
    ],
)
def test_texts_that_are_too_short(changes: dict[str, object], words: str, tmp_path: Path) -> None:
    """A text shorter than the context, or with fewer tokens than asked for, leaves no files."""
    path = lines(tmp_path / "rows.jsonl", FORTY)
    with pytest.raises(InvalidValueError, match=words), preparing(tmp_path / "run"):
        prepared(tmp_path / "run", path, **changes)
    assert not (tmp_path / "run" / "tokens").exists()


def test_what_a_killed_process_left_is_noted(tmp_path: Path) -> None:
    """Tokens that were being written when a run was killed are replaced, and that is said."""
    path, run = lines(tmp_path / "rows.jsonl", FORTY), tmp_path / "run"
    (run / "tokens").mkdir(parents=True)
    (run / "tokens" / ".train.bin.0123abcd.part").write_bytes(bytes(100))
    notes = Notes()
    for _ in range(2):
        prepare_text(run, TextOptions([path], context=4, default_vocabulary=270), notes)
    assert len([note for note in notes.notes if "was stopped while its text" in note]) == 2
    assert sorted(file.name for file in (run / "tokens").iterdir()) == sorted(NAMES)


def begin(run: Path, path: Path, stop_at: int | None = None) -> None:
    """Train a new run on a text."""

    def plan() -> tuple[object, ...]:
        batches = prepared(run, path, windows=12)
        return batches, sizes(batches), CONFIG

    train_prepared(run, plan, stop_at=stop_at)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a run on rows without an interruption."""
    folder = tmp_path_factory.mktemp("alone")
    begin(folder / "run", lines(folder / "rows.jsonl", FORTY))
    return folder / "run"


def test_a_run_on_shards_resumes_bit_for_bit(alone: Path, tmp_path: Path) -> None:
    """Stopped and resumed, also without its text, which is noted, a run ends with equal bytes."""
    run, path = tmp_path / "run", lines(tmp_path / "rows.jsonl", FORTY)
    with pytest.raises(Interrupted):
        begin(run, path, stop_at=7)
    with pytest.raises(Interrupted):
        resume(run, stop_at=13)
    path.unlink()
    notes = Notes()
    resume(run, progress=notes)
    assert_same_run(run, alone)
    (note,) = notes.notes
    assert str(path) in note
    assert (run / "tokens" / "val.bin").read_bytes() == (alone / "tokens" / "val.bin").read_bytes()


@pytest.mark.parametrize("change", ["text", "touched", "train.bin", "val.bytes.bin", "missing"])
def test_changes_are_noticed(change: str, tmp_path: Path) -> None:
    """A changed text and damaged tokens are refused by name; new times alone are not."""
    run, path = tmp_path / "run", lines(tmp_path / "rows.jsonl", FORTY)
    with pytest.raises(Interrupted):
        begin(run, path, stop_at=3)
    if change == "text":
        path.write_bytes(path.read_bytes().replace(b"long", b"lone"))
    elif change == "touched":
        os.utime(path, (5, 5))
        resume(run, progress=Progress())
        return
    else:
        damaged = run / "tokens" / change.replace("missing", "train.bin")
        content = bytearray(damaged.read_bytes())
        content[0] ^= 1
        damaged.write_bytes(content)
        if change == "missing":
            damaged.unlink()
    with pytest.raises(RunError, match="data has changed.*rows" if change == "text" else "tokens"):
        resume(run)


def test_a_description_with_other_tokens(alone: Path, tmp_path: Path) -> None:
    """A training.json whose tokens are described wrongly is named."""
    import shutil

    run = Path(shutil.copytree(alone, tmp_path / "run"))
    data = json.loads((run / "training.json").read_text())["data"]
    edit_json(run / "training.json", data=data | {"dtype": "float64"})
    with pytest.raises(RunError, match=r"training\.json does not describe a run"):
        resume(run)


def metaspace() -> Tokenizer:
    """A BPE of words that begin with ▁; rare characters are bytes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    special = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = [text.replace("ñ", "n") for text in FORTY]
    tokenizer.train_from_iterator(
        words, trainers.BpeTrainer(special_tokens=special, show_progress=False, vocab_size=330)
    )
    return tokenizer


def word_pieces() -> Tokenizer:
    """A WordPiece of lower-case words, as BERT's."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        special_tokens=["[UNK]"], show_progress=False, vocab_size=60
    )
    tokenizer.train_from_iterator(FORTY, trainer)
    return tokenizer


@pytest.mark.parametrize("make", [metaspace, word_pieces])
@pytest.mark.parametrize("rows", [1, 3], ids=["one text", "rows"])
def test_bytes_of_a_tail_are_those_of_its_text(
    make: Callable[[], Tokenizer], rows: int, tmp_path: Path
) -> None:
    """Of a tokenizer that is not byte-level, each token of the tail has the bytes of its text."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    tokenizer = make()
    tokenizer.save(str(folder / "tokenizer.json"))
    whole = [" ".join(FORTY)] * rows
    batches = prepared(tmp_path / "run", lines(tmp_path / "a.jsonl", whole), tokenizer=folder)
    assert batches.held_out_bytes is not None
    held = len(batches.held_out)
    assert held == -(-(held + len(batches.training)) // 10)
    ends = [end for _, end in tokenizer.encode(whole[-1]).offsets]
    text_of_tail = whole[-1][ends[-held - 1] :]
    assert int(np.sum(batches.held_out_bytes)) == len(text_of_tail.encode())


def test_validation_files_are_counted_once(tmp_path: Path) -> None:
    """A validation file given twice is refused; one with the content of another is noted."""
    path = lines(tmp_path / "a.jsonl", FORTY[:30])
    held, copy = (lines(tmp_path / f"{name}.jsonl", FORTY[30:]) for name in "bc")
    with pytest.raises(InvalidValueError, match=r"validation text .*b\.jsonl is given twice"):
        prepared(tmp_path / "run", path, validation=(held, held))
    notes = Notes()
    prepare_text(tmp_path / "run", TextOptions([path], (held, copy), context=4), notes)
    (note,) = [note for note in notes.notes if "has the content of" in note]
    assert "c.jsonl" in note
    assert "intervals" in note


def test_the_sample_is_of_the_whole_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokenizer of a text longer than its compressed size tells is trained on all parts."""
    monkeypatch.setattr(prepare_text_module, "SAMPLE_BYTES", 2000)
    rows = [f"{chr(97 + i // 100) * 40} {i % 100}" for i in range(1000)]
    path = tmp_path / "rows.jsonl.gz"
    content = "\n".join(json.dumps({"text": row}) for row in rows).encode()
    path.write_bytes(gzip.compress(content, 9))
    seen: list[str] = []

    def train(texts: list[str], wanted: int) -> Tokenizer:
        seen.extend(texts)
        return train_tokenizer(texts, wanted)

    monkeypatch.setattr(prepare_text_module, "train_tokenizer", train)
    prepared(tmp_path / "run", path)
    counts = Counter(text[0] for text in seen)
    assert len(counts) == 10
    assert max(counts.values()) <= min(counts.values()) + 1
    assert sum(map(len, seen)) <= 2 * 2000


def test_a_file_that_says_it_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of /proc have the size 0 and a content; the sample of the tokenizer is all of it."""
    (tmp_path / "text.txt").write_text("\n".join(FORTY), encoding="utf-8")
    monkeypatch.setattr(prepare_text_module.Corpus, "estimated_bytes", 0)
    batches = prepared(tmp_path / "run", tmp_path / "text.txt")
    assert len(batches.training) > len(batches.held_out) > 0
