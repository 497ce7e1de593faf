"""Claim: one command says which of six GGUF files to use, for little more than their passes.

The reference is a folder in float32, the candidates are files of it in Q8_0, Q6_K, Q5_K_M, Q4_K_M,
Q3_K_M and Q2_K (``llama-quantize`` writes them).  Two jobs read the same 40 kB of text:

* bare: the seven forward passes, with all logits that are scored and nothing computed from them;
* ours: ``kullback compare FOLDER FILES...``: the logits of the reference are kept in a temporary
  file and read for each candidate; KL both ways, ranking with joint intervals, and the verdict.

Goal (SmolLM2-135M, two cores): ours <= 1.15 of bare.

Run it: ``python benchmarks/gguf_candidates.py FOLDER FILE.gguf... [--text TEXT]``
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from kullback.comparison.compare import compare
from kullback.evaluation.passes import ModelPredictor, TokenizedText
from kullback.models.load import load_text_model
from kullback.predictions.base import FactoredPredictions
from kullback.runtime.memory import kept_freed_memory
from kullback.runtime.threads import cores, workers
from kullback.text.documents import Document
from kullback.text.protocol import Protocol
from pretrained import ROOT


def bare(name: str, document: Document) -> float:
    """Wall seconds of one model's pass: hidden states and logits, block by block."""
    model = load_text_model(name)
    tokenized = TokenizedText.of([document], Protocol(), model.tokenizer, model.context)
    predictor = ModelPredictor(model)
    began = time.perf_counter()

    def read(index: int) -> None:
        predictions = predictor.predictions(tokenized.batch([index]))
        step = 512 if isinstance(predictions, FactoredPredictions) else 128
        for row in range(0, len(predictions), step):
            predictions.logits(slice(row, min(row + step, len(predictions))))

    exclusive = getattr(model, "exclusive", False)
    with kept_freed_memory(), workers(1 if exclusive else cores()) as pool, torch.inference_mode():
        list(pool.map(read, range(len(tokenized.windows))))
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reference", nargs="?")
    parser.add_argument("files", nargs="*")
    parser.add_argument("--text", type=Path, help="default: the derivation and the licence")
    parser.add_argument("--bytes", type=int, default=40_000, help="of the text (default: 40,000)")
    arguments = parser.parse_args()
    if not arguments.files:
        raise SystemExit("name the folder in float32 and its GGUF files")
    sources = (
        [arguments.text] if arguments.text else [ROOT / "docs/derivation.md", ROOT / "LICENSE"]
    )
    content = b"".join(source.read_bytes() for source in sources)[: arguments.bytes]
    document = Document("text", content.decode(errors="ignore"))
    seconds = [bare(name, document) for name in (arguments.reference, *arguments.files)]
    for name, value in zip((arguments.reference, *arguments.files), seconds, strict=True):
        print(f"{Path(name).name}: bare pass {value:.1f} s", flush=True)
    result = compare(arguments.reference, arguments.files, document, passages=False)
    print(result)
    print(f"ours {result.seconds:.1f} s, the passes {sum(seconds):.1f} s, ", end="")
    print(f"ours / passes {result.seconds / sum(seconds):.3f}   (goal: <= 1.15)")


if __name__ == "__main__":
    main()
