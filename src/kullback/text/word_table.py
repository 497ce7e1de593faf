"""A table of words and their ids, in C, which the threads of a process share.

``word_table.c`` cuts texts into the parts (of one or more pre-tokens) that
`kullback.text.piece_encoders` encodes, and finds the ids of those that are in the table: 15 to 30
times as fast as the library, which encodes every occurrence (docs/log.md).  The system's C compiler
compiles it at the first use (`kullback.runtime.compiled_library`).  Calls release Python's global
lock.

Axes: K texts or parts, n tokens, P parts that are not in the table.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from threading import Lock

import numpy as np
from jaxtyping import Int
from numpy.typing import DTypeLike

from kullback.runtime.compiled_library import INT, LONG, POINTER, load_compiled

__all__ = ["WordTable", "word_library"]

SOURCE = Path(__file__).with_name("word_table.c")
# Of the slots, half of which are used: 16 MB, and about 30 bytes of memory for a word.
SLOT_BITS = 21
RECORD_BYTES = 32 << 20


class WordTable:
    """The ids of words; `find` may be called by several threads, also while one adds words."""

    def __init__(
        self,
        library: ctypes.CDLL,
        dtype: DTypeLike,
        slot_bits: int = SLOT_BITS,
        record_bytes: int = RECORD_BYTES,
    ) -> None:
        self._library, self._dtype = library, np.dtype(dtype)
        self._table: int | None = library.kullback_words_new(
            slot_bits, record_bytes, self._dtype.itemsize
        )
        if not self._table:
            raise MemoryError
        self._lock = Lock()

    def __del__(self) -> None:
        if getattr(self, "_table", None):
            self._library.kullback_words_free(self._table)

    def find(
        self, content: bytes, ends_K: Int[np.ndarray, "K"]
    ) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "K"], Int[np.ndarray, "P 4"]]:
        """The ids of texts in UTF-8, of which each ends at a byte of `content`.

        How many are of each text; and the parts that are not in the table: the first byte, the one
        after the last, the number of ids before it, and its text.
        """
        ids_n = np.empty(len(content), self._dtype)
        counts_K = np.empty(len(ends_K), np.int64)
        # Only the first part of a text and the last may have a single byte.
        missing_P4 = np.empty((len(content) // 2 + len(ends_K), 4), np.int64)
        absent = self._library.kullback_words_find(
            self._table, content, ends_K.ctypes.data, len(ends_K), ids_n.ctypes.data,
            counts_K.ctypes.data, missing_P4.ctypes.data,
        )  # fmt: skip
        return ids_n[: counts_K.sum()], counts_K, missing_P4[:absent].copy()

    def add(
        self, parts: Sequence[bytes], ids_n: Int[np.ndarray, "n"], counts_K: Int[np.ndarray, "K"]
    ) -> bool:
        """Keep the ids of parts, `counts_K` each; False where the table is full."""
        ends_K = np.cumsum([len(part) for part in parts], dtype=np.int64)
        ids_n = np.ascontiguousarray(ids_n, self._dtype)
        counts_K = np.ascontiguousarray(counts_K, np.int64)
        with self._lock:
            return bool(
                self._library.kullback_words_add(
                    self._table, b"".join(parts), ends_K.ctypes.data, len(parts),
                    ids_n.ctypes.data, counts_K.ctypes.data,
                )
            )  # fmt: skip


@cache
def word_library() -> ctypes.CDLL | None:
    """The compiled functions, or None without a compiler or with ``KULLBACK_COMPILE=0``."""
    library = load_compiled(SOURCE)
    if library is None:
        return None
    library.kullback_words_new.argtypes = [LONG, LONG, LONG]
    library.kullback_words_new.restype = POINTER
    library.kullback_words_free.argtypes = [POINTER]
    library.kullback_words_free.restype = None
    library.kullback_words_find.argtypes = [POINTER, ctypes.c_char_p, POINTER, LONG, *[POINTER] * 3]
    library.kullback_words_find.restype = LONG
    library.kullback_words_add.argtypes = [
        POINTER,
        ctypes.c_char_p,
        POINTER,
        LONG,
        POINTER,
        POINTER,
    ]
    library.kullback_words_add.restype = INT
    return library
