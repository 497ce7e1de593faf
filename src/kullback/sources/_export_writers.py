"""Writers of the files of an export: they take rows piece by piece and keep none in memory."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from kullback.sources._rows import Rows, RowText

__all__ = ["SplitWriter", "dataset_card", "finish_datasets", "write_meta"]

SPLITS = ("train", "validation")
FEATURES = {
    "text": {"dtype": "string", "_type": "Value"},
    "input_ids": {"feature": {"dtype": "int32", "_type": "Value"}, "_type": "Sequence"},
    "surprisals": {"feature": {"dtype": "float64", "_type": "Value"}, "_type": "Sequence"},
}
"""As Hugging Face `datasets` stores them in the schema of Arrow."""
# The name that nanoGPT gives a split, and that of a shard of `datasets`.
NANOGPT = {"train": "train.bin", "validation": "val.bin"}
SHARD = "data-00000-of-00001.arrow"


class _Npy:
    """A one-dimensional ``.npy`` file whose length is written at the end."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self._file: IO[bytes] = path.open("w+b")
        self._dtype, self._length = dtype, 0
        self._header()

    def _header(self) -> None:
        # NumPy leaves room for the digits of any length, so that the header keeps its size.
        about = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._length,)}
        write: Callable[[IO[bytes], object], None] = np.lib.format.write_array_header_1_0
        write(self._file, about)

    def add(self, array: np.ndarray) -> None:
        self._file.write(array.astype(self._dtype, copy=False).tobytes())
        self._length += len(array)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        with self._file:
            if kind is None:
                self._file.seek(0)
                self._header()


class SplitWriter(AbstractContextManager["SplitWriter"]):
    """The files of one split, in the chosen formats, in a folder."""

    def __init__(
        self, folder: Path, split: str, formats: Sequence[str], vocabulary: Sequence[str]
    ) -> None:
        self._files = ExitStack()
        self._folder, self._split, self._vocabulary = folder, split, vocabulary
        self._dtype = np.dtype(np.uint16 if len(vocabulary) <= 1 << 16 else np.uint32)
        self._add = [getattr(self, f"_{name}")() for name in formats]

    def add(self, rows: Rows) -> None:
        """Write some rows to all files."""
        for add in self._add:
            add(rows)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._files.__exit__(kind, error, trace)

    def _open(self, name: str) -> IO[bytes]:
        return self._files.enter_context((self._folder / name).open("wb"))

    def _lines(self, name: str, before: str, after: str, escaped: bool) -> Any:
        file = self._open(name)
        text = RowText(self._vocabulary, before, after, escaped)
        return lambda rows: file.write(text.render(rows).content.tobytes())

    def _text(self) -> Any:
        return self._lines(f"{self._split}.txt", "", "\n", escaped=False)

    def _jsonl(self) -> Any:
        return self._lines(f"{self._split}.jsonl", '{"text": "', '"}\n', escaped=True)

    def _npy(self) -> Any:
        ids = self._files.enter_context(
            _Npy(self._folder / f"{self._split}.tokens.npy", self._dtype)
        )
        nats = self._files.enter_context(
            _Npy(self._folder / f"{self._split}.surprisals.npy", np.dtype(np.float64))
        )

        def add(rows: Rows) -> None:
            ids.add(rows.ids_A)
            nats.add(rows.surprisals_A)

        return add

    def _nanogpt(self) -> Any:
        (self._folder / "nanogpt").mkdir(exist_ok=True)
        file = self._open(f"nanogpt/{NANOGPT[self._split]}")

        def add(rows: Rows) -> None:
            ids = rows.ids_A if rows.stream is None else rows.stream
            file.write(ids.astype("<u2").tobytes())

        return add

    def _datasets(self) -> Any:
        import pyarrow as pa

        folder = self._folder / "datasets" / self._split
        folder.mkdir(parents=True)
        sink = self._open(f"datasets/{self._split}/{SHARD}")
        writer = self._files.enter_context(pa.ipc.new_stream(sink, _schema()))
        return self._batches(writer.write_batch)

    def _parquet(self) -> Any:
        import pyarrow.parquet as pq

        (self._folder / "parquet").mkdir(exist_ok=True)
        sink = self._open(f"parquet/{self._split}.parquet")
        writer = self._files.enter_context(pq.ParquetWriter(sink, _schema()))
        return self._batches(writer.write_batch)

    def _batches(self, write: Any) -> Any:
        import pyarrow as pa

        text, schema = RowText(self._vocabulary), _schema()

        def add(rows: Rows) -> None:
            rendered = text.render(rows)
            strings = pa.StringArray.from_buffers(
                len(rows.lengths_R),
                pa.py_buffer(_offsets(rendered.lengths_R)),
                pa.py_buffer(rendered.content.tobytes()),
            )
            offsets = pa.array(_offsets(rows.lengths_R))
            ids = pa.ListArray.from_arrays(offsets, pa.array(rows.ids_A.astype(np.int32)))
            nats = pa.ListArray.from_arrays(offsets, pa.array(rows.surprisals_A))
            write(pa.record_batch([strings, ids, nats], schema=schema))

        return add


def finish_datasets(folder: Path, splits: Sequence[str], fingerprint: str) -> None:
    """Write what `datasets.load_from_disk` reads beside the Arrow files of `splits`."""
    for split in splits:
        state: dict[str, object] = {
            "_data_files": [{"filename": SHARD}],
            "_fingerprint": fingerprint[:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": split,
        }
        info = {
            "citation": "",
            "description": "",
            "features": FEATURES,
            "homepage": "",
            "license": "",
        }
        _write_json(folder / "datasets" / split / "state.json", state)
        _write_json(folder / "datasets" / split / "dataset_info.json", info)
    _write_json(folder / "datasets" / "dataset_dict.json", {"splits": list(splits)})


def dataset_card(folder: Path, splits: Sequence[str], readme: str) -> None:
    """Write the card that tells `datasets.load_dataset` the files of each split."""
    lines = ["---", "configs:", "- config_name: default", "  data_files:"]
    for split in splits:
        lines += [f"  - split: {split}", f"    path: {split}.parquet"]
    card = "\n".join([*lines, "---", "", readme])
    (folder / "parquet" / "README.md").write_text(card, encoding="utf-8")


def write_meta(folder: Path, vocabulary: Sequence[str]) -> None:
    """Write the ``meta.pkl`` of nanoGPT: strings and numbers only."""
    meta = {
        "vocab_size": len(vocabulary),
        "itos": dict(enumerate(vocabulary)),
        "stoi": {word: i for i, word in enumerate(vocabulary)},
    }
    (folder / "nanogpt" / "meta.pkl").write_bytes(pickle.dumps(meta, protocol=4))


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema(
        [
            ("text", pa.string()),
            ("input_ids", pa.list_(pa.int32())),
            ("surprisals", pa.list_(pa.float64())),
        ],
        metadata={"huggingface": json.dumps({"info": {"features": FEATURES}})},
    )


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
