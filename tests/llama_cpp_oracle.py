"""llama.cpp's own tokenizer of a file, where the library is installed."""

from __future__ import annotations

import ctypes
from importlib.util import find_spec
from pathlib import Path

import pytest

needs_llama_cpp = pytest.mark.skipif(
    not any(map(find_spec, ("llama_cpp", "xllamacpp"))),
    reason="llama.cpp, whose ids are compared, is not installed",
)


def ids_of_llama_cpp(
    path: Path, texts: list[str], add_special: bool = False
) -> list[list[int]] | None:
    """The ids of each text; None where llama.cpp refuses the vocabulary."""
    from kullback.models._llama_cpp_library import collected_errors, load_library

    library = load_library()
    c = library.c
    parameters = c.llama_model_default_params()
    parameters.vocab_only = True
    with collected_errors(library):
        model = c.llama_model_load_from_file(str(path).encode(), parameters)
        if not model:
            return None
        vocabulary = c.llama_model_get_vocab(model)
        ids = []
        for text in texts:
            source = text.encode()
            room = (ctypes.c_int32 * (len(source) + 8))()
            count = c.llama_tokenize(
                vocabulary, source, len(source), room, len(room), add_special, False
            )
            ids.append(room[:count])
        c.llama_model_free(model)
    return ids
