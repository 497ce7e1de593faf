"""llama.cpp's C functions, from an installed package that brings its library.

==================  ===========================================================================
package             where its structs are declared
==================  ===========================================================================
llama-cpp-python    in the package, beside the library it was built with; built on the machine,
                    so for its processor: taken where it is installed
xllamacpp           here, for the versions in `KNOWN`: wheels for Linux and macOS, which need no
                    compiler; its library exports llama.cpp's functions beside those of Python
==================  ===========================================================================

Structs are passed by value, so that a field more or less would be memory read wrongly: the version
must be known, and the defaults of both structs must be what llama.cpp sets.

What the library logs is silenced, and its errors are collected, inside `collected_errors`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import c_bool, c_char_p, c_float, c_int, c_int8, c_int32, c_size_t, c_uint32, c_void_p
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kullback.errors import InvalidValueError, MissingExtraError
from kullback.runtime.scopes import shared_scope

__all__ = ["Batch", "Library", "collected_errors", "is_installed", "load_library"]

#: Versions of xllamacpp whose structs are those below (llama.cpp of October 2026).
KNOWN = ("2026.10.11549",)
INSTALL = f"pip install 'kullback[gguf]' (it brings xllamacpp {KNOWN[-1]})"
#: llama-cpp-python is taken where it is installed, so that another package alone changes nothing.
UPGRADE = (
    f"upgrade llama-cpp-python, or uninstall it (pip uninstall llama-cpp-python) and {INSTALL}"
)
ERROR = 4  # GGML_LOG_LEVEL_ERROR of ggml.h


class _ModelParameters(ctypes.Structure):
    """`llama_model_params` of llama.h."""

    _fields_ = (
        ("devices", c_void_p), ("tensor_buft_overrides", c_void_p), ("n_gpu_layers", c_int32),
        ("split_mode", c_int), ("load_mode", c_int), ("lazy_mode", c_int), ("main_gpu", c_int32),
        ("tensor_split", c_void_p), ("progress_callback", c_void_p),
        ("progress_callback_user_data", c_void_p), ("kv_overrides", c_void_p),
        ("vocab_only", c_bool), ("check_tensors", c_bool), ("use_extra_bufts", c_bool),
        ("no_host", c_bool), ("no_alloc", c_bool), ("load_mtp", c_bool),
    )  # fmt: skip


class _ContextParameters(ctypes.Structure):
    """`llama_context_params` of llama.h."""

    _fields_ = (
        ("n_ctx", c_uint32), ("n_batch", c_uint32), ("n_ubatch", c_uint32),
        ("n_seq_max", c_uint32), ("n_rs_seq", c_uint32), ("n_outputs_max", c_uint32),
        ("n_outputs_max_per_seq", c_uint32), ("n_threads", c_int32), ("n_threads_batch", c_int32),
        ("ctx_type", c_int), ("rope_scaling_type", c_int), ("pooling_type", c_int),
        ("attention_type", c_int), ("flash_attn_type", c_int), ("rope_freq_base", c_float),
        ("rope_freq_scale", c_float), ("yarn_ext_factor", c_float), ("yarn_attn_factor", c_float),
        ("yarn_beta_fast", c_float), ("yarn_beta_slow", c_float), ("yarn_orig_ctx", c_uint32),
        ("defrag_thold", c_float), ("cb_eval", c_void_p), ("cb_eval_user_data", c_void_p),
        ("type_k", c_int), ("type_v", c_int), ("moe_cache_size", c_size_t),
        ("abort_callback", c_void_p),
        ("abort_callback_data", c_void_p), ("embeddings", c_bool), ("offload_kqv", c_bool),
        ("no_perf", c_bool), ("op_offload", c_bool), ("swa_full", c_bool), ("kv_unified", c_bool),
        ("samplers", c_void_p), ("n_samplers", c_size_t), ("ctx_other", c_void_p),
    )  # fmt: skip


class _StructBuffer(ctypes.Structure):
    """More than any version of a struct takes: what a function returns is looked at here first."""

    _fields_ = (("bytes", ctypes.c_uint8 * 1024),)


class Batch(ctypes.Structure):
    """`llama_batch` of llama.h, whose layout has not changed since 2024."""

    _fields_ = (
        ("n_tokens", c_int32), ("token", ctypes.POINTER(c_int32)), ("embd", c_void_p),
        ("pos", ctypes.POINTER(c_int32)), ("n_seq_id", c_void_p), ("seq_id", c_void_p),
        ("logits", ctypes.POINTER(c_int8)),
    )  # fmt: skip


# What llama.cpp has set since the structs have these fields; offsets that have moved show here.
MODEL_DEFAULTS = {"split_mode": 1, "main_gpu": 0, "vocab_only": False, "use_extra_bufts": True}
CONTEXT_DEFAULTS = {
    "n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1, "rope_scaling_type": -1,
    "pooling_type": -1, "attention_type": -1, "flash_attn_type": -1, "rope_freq_base": 0.0,
    "yarn_ext_factor": -1.0, "type_k": 1, "type_v": 1, "embeddings": False, "offload_kqv": True,
    "no_perf": True, "op_offload": True, "swa_full": True, "samplers": None,
    "n_samplers": 0, "ctx_other": None,
}  # fmt: skip

LOG_CALLBACK = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)
# Arguments and result of each function that is called; handles of models and contexts are void *.
FUNCTIONS: dict[str, tuple[list[Any], Any]] = {
    "llama_version": ([], c_char_p),
    "llama_backend_init": ([], None),
    "llama_supports_gpu_offload": ([], c_bool),
    "llama_log_get": ([ctypes.POINTER(c_void_p), ctypes.POINTER(c_void_p)], None),
    "llama_log_set": ([c_void_p, c_void_p], None),
    "llama_model_free": ([c_void_p], None),
    "llama_model_get_vocab": ([c_void_p], c_void_p),
    "llama_model_n_ctx_train": ([c_void_p], c_int32),
    "llama_model_has_encoder": ([c_void_p], c_bool),
    "llama_model_has_decoder": ([c_void_p], c_bool),
    "llama_model_is_diffusion": ([c_void_p], c_bool),
    "llama_model_meta_val_str": ([c_void_p, c_char_p, c_char_p, c_size_t], c_int32),
    "llama_vocab_n_tokens": ([c_void_p], c_int32),
    "llama_vocab_type": ([c_void_p], c_int),
    "llama_vocab_bos": ([c_void_p], c_int32),
    "llama_vocab_eos": ([c_void_p], c_int32),
    "llama_vocab_get_add_bos": ([c_void_p], c_bool),
    "llama_vocab_get_attr": ([c_void_p, c_int32], c_int),
    "llama_tokenize": (
        [c_void_p, c_char_p, c_int32, ctypes.POINTER(c_int32), c_int32, c_bool, c_bool],
        c_int32,
    ),
    "llama_token_to_piece": ([c_void_p, c_int32, c_char_p, c_int32, c_int32, c_bool], c_int32),
    "llama_free": ([c_void_p], None),
    "llama_get_memory": ([c_void_p], c_void_p),
    "llama_memory_clear": ([c_void_p, c_bool], None),
    "llama_decode": ([c_void_p, Batch], c_int32),
    "llama_get_logits": ([c_void_p], ctypes.POINTER(c_float)),
}


@dataclass(frozen=True, eq=False)
class Library:
    """llama.cpp's functions by their own names (`library.c.llama_decode`), and which it is."""

    c: ctypes.CDLL
    package: str
    """The package and its version."""

    @property
    def name(self) -> str:
        """llama.cpp's version, and that of the package that brings it."""
        return f"llama.cpp {self.c.llama_version().decode()} ({self.package})"


def is_installed() -> bool:
    """Whether a package that brings llama.cpp is installed."""
    return any(find_spec(module) is not None for module in ("llama_cpp", "xllamacpp"))


@cache
def load_library() -> Library:
    """The library of llama-cpp-python where that is installed, else of xllamacpp.

    Raises `MissingExtraError` where neither is, `InvalidValueError` for a version of xllamacpp that
    is not known, or a library that does not load.
    """
    try:
        if find_spec("llama_cpp") is not None:
            return _declared(*_of_llama_cpp_python())
        if find_spec("xllamacpp") is not None:
            return _declared(*_of_xllamacpp())
    except (OSError, AttributeError, ImportError) as error:
        remedy = INSTALL if find_spec("llama_cpp") is None else UPGRADE
        raise InvalidValueError(f"llama.cpp does not load ({error}): {remedy}") from None
    raise MissingExtraError(f"llama.cpp is not installed: {INSTALL}")


def _of_llama_cpp_python() -> tuple[str, str, type[Any], type[Any]]:
    module = import_module("llama_cpp.llama_cpp")
    return (
        str(module._lib._name),
        f"llama-cpp-python {version('llama_cpp_python')}",
        module.llama_model_params,
        module.llama_context_params,
    )


def _of_xllamacpp() -> tuple[str, str, type[Any], type[Any]]:
    try:
        installed = version("xllamacpp")
    except PackageNotFoundError:
        installed = "of an unknown version"
    if installed not in KNOWN:
        raise InvalidValueError(
            f"xllamacpp {installed} is installed, and {' or '.join(KNOWN)} is what this version of "
            f"kullback can call: {INSTALL}, or name the model FILE.gguf@transformers"
        )
    # Found but not imported, which would start more than the library.
    spec = find_spec("xllamacpp")
    folders = (spec.submodule_search_locations if spec else None) or []
    files = [file for folder in folders for file in sorted(Path(folder).glob("xllamacpp*.so"))]
    if not files:
        raise InvalidValueError(
            f"xllamacpp {installed} has no library that exports llama.cpp's functions on this "
            "system: pip install llama-cpp-python, or name the model FILE.gguf@transformers"
        )
    return str(files[0]), f"xllamacpp {installed}", _ModelParameters, _ContextParameters


def _declared(path: str, package: str, model: type[Any], context: type[Any]) -> Library:
    """The library at `path`, with the types of all functions, once its structs are checked."""
    c = ctypes.CDLL(path)
    for name, (arguments, result) in FUNCTIONS.items():
        function = getattr(c, name)
        function.argtypes, function.restype = arguments, result
    for name, struct, defaults in (
        ("llama_model_default_params", model, MODEL_DEFAULTS),
        ("llama_context_default_params", context, CONTEXT_DEFAULTS),
    ):
        _check_defaults(c, package, name, struct, defaults)
        getattr(c, name).restype = struct
    c.llama_model_load_from_file.argtypes = [c_char_p, model]
    c.llama_model_load_from_file.restype = c_void_p
    c.llama_init_from_model.argtypes = [c_void_p, context]
    c.llama_init_from_model.restype = c_void_p
    library = Library(c, package)
    with collected_errors(library):
        c.llama_backend_init()
    return library


def _check_defaults(
    c: ctypes.CDLL, package: str, name: str, struct: type[Any], defaults: dict[str, Any]
) -> None:
    """Raise `InvalidValueError` where the library's struct has other fields than `struct`."""
    function = getattr(c, name)
    function.argtypes, function.restype = [], _StructBuffer
    values = struct.from_buffer_copy(bytes(function().bytes))
    for field, expected in defaults.items():
        value = getattr(values, field)
        if expected is None:
            value = value or None  # a null pointer, typed or not
        if value != expected:
            remedy = UPGRADE if package.startswith("llama-cpp-python") else INSTALL
            raise InvalidValueError(
                f"{package} brings a llama.cpp whose {name} has {field} = {value!r} and not "
                f"{expected!r}, so its memory is laid out in another way: {remedy}, or name the "
                "model FILE.gguf@transformers"
            )


_errors: list[str] = []


def _collect(level: int, text: bytes, _: object) -> None:
    line = (text or b"").decode(errors="replace").strip()
    if line and level == ERROR:
        _errors.append(line)


_collector = LOG_CALLBACK(_collect)


@contextmanager
def collected_errors(library: Library) -> Iterator[list[str]]:
    """Silence llama.cpp inside; yields the list that its lines at the level of errors go to.

    The log is the whole process's: what two threads do at a time is in one list.
    """

    def apply() -> Callable[[], None]:
        _errors.clear()
        callback, data = c_void_p(), c_void_p()
        library.c.llama_log_get(ctypes.byref(callback), ctypes.byref(data))
        library.c.llama_log_set(ctypes.cast(_collector, c_void_p), None)
        return lambda: library.c.llama_log_set(callback, data)

    with shared_scope("llama.cpp's log", apply):
        yield _errors
