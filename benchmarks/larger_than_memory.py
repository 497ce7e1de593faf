"""Claim: `--stream` measures a model that is larger than memory, with the numbers of the whole.

A random Llama is written to a temporary folder, a shard for each layer, without ever being in
memory.  `kullback evaluate --stream` reads it in a process whose data may take no more than a limit
(``RLIMIT_DATA``, ``ulimit -d``: heap and private mappings; ``ulimit -v`` would count the libraries
and every thread's reserved addresses, too), then ``kullback evaluate`` without either.  Printed are
the time of both processes, their largest resident memory, and whether all measures are the same to
the last bit.  Goals: the same bits; at most 1.2 of the time of the whole.

    python benchmarks/larger_than_memory.py            # 6 GB under 2.5 GB, some minutes
    python benchmarks/larger_than_memory.py --small    # seconds
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

GB = 10**9
LIMIT = 5 * GB // 2
TEXT = "The quick brown fox jumps over the lazy dog; 42 times, it seems, and then no more. "


@dataclass(frozen=True)
class Shape:
    """Of a Llama in float32."""

    layers: int
    width: int
    inner: int
    vocabulary: int
    tokens: int
    """Of the text; one token a byte."""
    window: int


FULL = Shape(layers=20, width=2048, inner=8192, vocabulary=32_000, tokens=2048, window=512)
SMALL = Shape(layers=3, width=64, inner=128, vocabulary=256, tokens=300, window=64)


@dataclass(frozen=True)
class Run:
    """One process."""

    seconds: float
    resident: int
    """The most bytes of memory at a time."""
    result: dict[str, object]


def generate(folder: Path, shape: Shape) -> int:
    """Write the model, one layer in memory at a time; returns its bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = torch.Generator().manual_seed(0)
    D, inner = shape.width, shape.inner
    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=D, intermediate_size=inner,
        num_hidden_layers=shape.layers, num_attention_heads=max(1, D // 64),
        max_position_embeddings=max(512, shape.window), tie_word_embeddings=False,
        architectures=["LlamaForCausalLM"], dtype="float32",
    )  # fmt: skip
    config.save_pretrained(folder)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    places: dict[str, str] = {}
    size = 0

    def shard(name: str, shapes: dict[str, tuple[int, ...]]) -> None:
        nonlocal size
        tensors = {
            key: torch.ones(*dimensions)
            if len(dimensions) == 1
            else torch.randn(*dimensions, generator=draw) / dimensions[1] ** 0.5
            for key, dimensions in shapes.items()
        }
        save_file(tensors, folder / name, {"format": "pt"})
        places.update(dict.fromkeys(tensors, name))
        size += sum(4 * tensor.numel() for tensor in tensors.values())

    shard("model-embedding.safetensors", {"model.embed_tokens.weight": (shape.vocabulary, D)})
    for i in range(shape.layers):
        layer = f"model.layers.{i}"
        shapes: dict[str, tuple[int, ...]] = {
            f"{layer}.self_attn.{name}_proj.weight": (D, D) for name in "qkvo"
        }
        shapes |= {f"{layer}.mlp.{name}_proj.weight": (inner, D) for name in ("gate", "up")}
        shapes[f"{layer}.mlp.down_proj.weight"] = (D, inner)
        shapes[f"{layer}.input_layernorm.weight"] = (D,)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (D,)
        shard(f"model-layer-{i}.safetensors", shapes)
    ends: dict[str, tuple[int, ...]] = {"lm_head.weight": (shape.vocabulary, D)}
    shard("model-head.safetensors", {**ends, "model.norm.weight": (D,)})
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return size


def evaluate(folder: Path, text: Path, shape: Shape, *options: str, limit: int | None) -> Run:
    """`kullback evaluate` in a process of its own, under a limit of its data."""

    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    command = [
        sys.executable, "-m", "kullback", "evaluate", str(folder), "--text", str(text), "--json",
        "--device", "cpu", "--window", str(shape.window), "--stride", str(shape.window), *options,
    ]  # fmt: skip
    began = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, preexec_fn=limited)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
        output.seek(0)
        result = json.load(output)
    return Run(seconds, 1024 * usage.ru_maxrss, result)


def differences(first: Run, second: Run) -> list[str]:
    """The measures that are not the same in both."""
    a, b = first.result["measures"], second.result["measures"]
    assert isinstance(a, dict)
    assert isinstance(b, dict)
    return [name for name in a.keys() | b.keys() if a.get(name) != b.get(name)]


def measure(folder: Path, shape: Shape, limit: int) -> tuple[int, Run, Run]:
    """The size of the model, and the runs layer by layer and as a whole."""
    size = generate(folder / "model", shape)
    text = folder / "text.txt"
    text.write_text((TEXT * (shape.tokens // len(TEXT) + 1))[: shape.tokens])
    streamed = evaluate(folder / "model", text, shape, "--stream", limit=limit)
    whole = evaluate(folder / "model", text, shape, limit=None)
    return size, streamed, whole


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a model of 0.5 MB")
    parser.add_argument("--tokens", type=int, help="of the text (default: 2,048)")
    options = parser.parse_args()
    shape = SMALL if options.small else FULL
    shape = replace(shape, tokens=options.tokens or shape.tokens)
    with tempfile.TemporaryDirectory(prefix="kullback-") as folder:
        size, streamed, whole = measure(Path(folder), shape, LIMIT)
    other = differences(streamed, whole)
    print(f"weights {size / GB:.2f} GB, limit of the streamed process's data {LIMIT / GB:.1f} GB")
    for name, run in (("--stream", streamed), ("whole", whole)):
        print(f"{name:10} {run.seconds:8.1f} s   largest resident {run.resident / GB:.2f} GB")
    print(f"time: {streamed.seconds / whole.seconds:.2f} of the whole model's (at most 1.2)")
    print(f"measures that differ: {', '.join(other) or 'none, all are the same bits'}")
    for name in other:
        print(f"  {name}: {[run.result['measures'].get(name) for run in (streamed, whole)]}")  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
