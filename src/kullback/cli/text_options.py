"""Options of the commands that read a text: how it is cut, and in what arithmetic."""

from __future__ import annotations

import argparse
from typing import Any

from kullback.cli.parsing import given, number
from kullback.models.llama_cpp_options import BACKENDS
from kullback.runtime.ranges import LENGTHS
from kullback.text.protocol import WINDOWS

__all__ = ["add_stream", "add_text_options", "text_options"]

DTYPES = ("auto", "float32", "float64", "bfloat16", "float16")
NAMES = (
    "protocol", "window", "stride", "bos", "joined", "special_tokens", "field", "dtype",
    "device", "device_map", "trust_remote_code", "backend", "stream",
)  # fmt: skip


def add_text_options(command: argparse.ArgumentParser) -> None:
    """Declare them; an option that is not given is absent from the namespace."""
    text = command.add_argument_group("on text")
    text.add_argument(
        "--text", nargs="+", action="extend", metavar="FILE",
        help="files (.gz and .zst, too), folders of .txt, .jsonl and .parquet files, or - for "
        "standard input",
    )  # fmt: skip
    absent: dict[str, Any] = {"default": argparse.SUPPRESS}
    text.add_argument(
        "--field", **absent,
        help="the column of .jsonl, .json, .csv, .tsv and .parquet files (default: text)",
    )  # fmt: skip
    text.add_argument(
        "--protocol", metavar="PRESET",
        choices=("sliding", "hf-stride", "lm-eval", "llama.cpp"),
        help="how the text is cut and scored: sliding (default), or as another tool does: "
        "hf-stride, lm-eval or llama.cpp", **absent,
    )  # fmt: skip
    text.add_argument(
        "--joined", action=argparse.BooleanOptionalAction,
        help="read the documents as one, separated by an empty line (default: as the protocol)",
        **absent,
    )  # fmt: skip
    text.add_argument(
        "--window", type=number(WINDOWS), metavar="N", **absent,
        help="tokens that the model reads at once (default: as the protocol; sliding: 2048, or the "
        "model's context where that is shorter)",
    )  # fmt: skip
    text.add_argument(
        "--stride", type=number(LENGTHS), metavar="N", **absent,
        help="tokens by which the window moves (default: as the protocol; sliding: half a window)",
    )  # fmt: skip
    text.add_argument(
        "--bos", choices=("auto", "always", "never"),
        help="whether BOS is prepended (default: auto, as the tokenizer's configuration says)",
        **absent,
    )  # fmt: skip
    text.add_argument(
        "--special-tokens", choices=("text", "tokens"),
        help="how the spelling of a special token in the text is read: as its characters, or as "
        "the token (default: as the protocol; sliding and llama.cpp: text)",
        **absent,
    )  # fmt: skip
    text.add_argument(
        "--dtype", choices=DTYPES,
        help="type of the model's arithmetic (default: auto, float32 on a CPU, elsewhere as "
        "stored)",
        **absent,
    )  # fmt: skip
    text.add_argument(
        "--device", **absent,
        help="auto (default: cuda, then mps, then cpu), or a device such as cuda:1",
    )  # fmt: skip
    text.add_argument(
        "--device-map", choices=("auto",),
        help="auto: spread the model over all GPUs and the host's memory, by accelerate", **absent,
    )  # fmt: skip
    text.add_argument(
        "--backend", choices=BACKENDS,
        help="what runs .gguf files (default: llama.cpp, where kullback[gguf] is installed)",
        **absent,
    )  # fmt: skip
    text.add_argument(
        "--trust-remote-code", action="store_true", help="run code that comes with the model",
        **absent,
    )  # fmt: skip


def add_stream(command: argparse.ArgumentParser) -> None:
    """Declare --stream."""
    command.add_argument(
        "--stream", action="store_true", default=argparse.SUPPRESS,
        help="read models layer by layer, which may be larger than memory",
    )  # fmt: skip


def text_options(options: argparse.Namespace) -> dict[str, Any]:
    """Those that were given, as keyword arguments of `kullback.evaluate` and its siblings."""
    return given(options, *NAMES)
