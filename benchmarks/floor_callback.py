"""Claim: `FloorCallback` takes at most 2 % of the CPU time of a training with `Trainer`.

A Llama of 2 layers is trained on the source of `kullback doctor` with transformers' `Trainer`,
with the callback (rows and interval chosen by it) and without, in turn; CPU time of all
threads.  It prints the ratio of each pair, the median, and how often and on how many rows the
callback measured.  A pair is noisier than 2 %, so the time inside the callback is counted as well:
a share of the same run, without that noise.

    python benchmarks/floor_callback.py --steps 1000 --rounds 5
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

from kullback.callbacks import FloorCallback
from kullback.doctor.source import doctor_source
from kullback.sources.export import export_source

LIMIT = 0.02


class Timed(FloorCallback):
    """Counts the CPU seconds that it takes."""

    seconds = 0.0

    def on_step_end(self, *arguments: Any, **named: Any) -> None:
        """Measure, timed."""
        began = time.process_time()
        super().on_step_end(*arguments, **named)
        self.seconds += time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--logging-steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        export_source(doctor_source(), 100_000, data, 0, 20_000, ("jsonl", "npy"))
        rows = rows_of(data)
        trained(rows, data, options, None, steps=5)  # what is done once
        ratios, shares = [], []
        for number in range(options.rounds):
            callback = Timed(data)
            seconds = {}
            for kind in ("with", "without") if number % 2 else ("without", "with"):
                given = callback if kind == "with" else None
                seconds[kind] = trained(rows, data, options, given, options.steps)
            ratios.append(seconds["with"] / seconds["without"])
            shares.append(callback.seconds / (seconds["with"] - callback.seconds))
            steps = [int(row["step"]) for row in callback.history]
            print(
                f"round {number + 1}: without {seconds['without']:.1f} s, with "
                f"{seconds['with']:.1f} s: {ratios[-1]:.4f}; in the callback "
                f"{100 * shares[-1]:.2f} %: {len(steps)} measurements of {callback.rows} rows, at "
                f"steps {steps[:3]} ... {steps[-1:]}",
                flush=True,
            )
    print(
        f"median ratio {median(ratios):.4f}, median share of the callback "
        f"{100 * median(shares):.2f} % (limit {100 * LIMIT:.0f} %: "
        f"{'reached' if median(shares) <= LIMIT else 'MISSED'})"
    )


def rows_of(data: Path) -> list[dict[str, list[int]]]:
    """The documents of the training split, with their end."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(data)
    lines = (data / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return [{"input_ids": [*tokenizer(json.loads(line)["text"])["input_ids"], 1]} for line in lines]


def trained(
    rows: list[dict[str, list[int]]],
    data: Path,
    options: argparse.Namespace,
    callback: FloorCallback | None,
    steps: int,
) -> float:
    """Processor seconds of a training."""
    set_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(doctor_source().training.vocabulary), hidden_size=options.width,
            intermediate_size=2 * options.width, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=128, bos_token_id=0, eos_token_id=1,
        )
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(io.StringIO()):
        arguments = TrainingArguments(
            out, max_steps=steps, per_device_train_batch_size=options.batch, learning_rate=3e-3,
            logging_steps=options.logging_steps, save_strategy="no", report_to=[], use_cpu=True,
            disable_tqdm=True, remove_unused_columns=False,
        )  # fmt: skip
        trainer = Trainer(
            model, arguments, train_dataset=rows, data_collator=collated,
            callbacks=[] if callback is None else [callback],
        )  # fmt: skip
        began = time.process_time()
        trainer.train()
        return time.process_time() - began


def collated(batch: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Padded rows; padding has no label."""
    longest = max(len(row["input_ids"]) for row in batch)
    ids = torch.ones(len(batch), longest, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for i, row in enumerate(batch):
        length = len(row["input_ids"])
        ids[i, :length] = labels[i, :length] = torch.tensor(row["input_ids"])
    return {"input_ids": ids, "labels": labels, "attention_mask": (labels != -100).long()}


if __name__ == "__main__":
    main()
