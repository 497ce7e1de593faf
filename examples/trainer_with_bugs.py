"""A small training script with transformers' `Trainer`, and bugs that can be planted in it.

It is what `kullback doctor` is tried on::

    kullback doctor -- python examples/trainer_with_bugs.py {data} {out} --bug shift

Bugs: ``shift`` (labels shifted twice), ``copy`` (labels not shifted at all), ``padding`` (labels at
padding count), ``averaging`` (the mean of each micro-batch counts, whatever its tokens), ``leak``
(no causal mask), ``softmax`` (probabilities are given to a loss that takes logits).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

BUGS = ("none", "shift", "copy", "padding", "averaging", "leak", "softmax")
IGNORED = -100


class BuggyTrainer(Trainer):
    """A `Trainer` with a loss of its own."""

    bug = "none"

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The cross-entropy over the tokens of all micro-batches of a step, or a wrong one."""
        ids, labels = inputs["input_ids"], inputs["labels"]
        mask = inputs["attention_mask"]
        if self.bug == "leak":  # every position sees all others that are no padding
            attends = torch.where(
                mask[:, None, None, :].bool(), 0.0, torch.finfo(torch.float32).min
            )
            mask = attends.expand(-1, 1, ids.shape[1], -1)
        logits = model(input_ids=ids, attention_mask=mask).logits
        shift = {"shift": 2, "copy": 0}.get(self.bug, 1)
        logits, targets = logits[:, : ids.shape[1] - shift], labels[:, shift:]
        if self.bug == "softmax":
            logits = logits.softmax(-1)
        kept = targets != IGNORED
        total = cross_entropy(logits[kept], targets[kept], reduction="sum")
        if self.bug == "averaging" or num_items_in_batch is None:
            loss = total / kept.sum() / self.args.gradient_accumulation_steps
        else:
            loss = total / num_items_in_batch
        return loss


def main(arguments: list[str] | None = None) -> None:
    """Train on the export in DATA, and save a Hugging Face folder in OUT."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--bug", choices=BUGS, default="none")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    set_seed(options.seed)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(options.data)
    lines = (options.data / "train.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    rows = [{"input_ids": [*tokenizer(text)["input_ids"], 1]} for text in texts]

    def collate(batch: list[dict]) -> dict[str, torch.Tensor]:
        longest = max(len(row["input_ids"]) for row in batch)
        padded = {"input_ids": [], "attention_mask": [], "labels": []}
        for row in batch:
            ids = row["input_ids"]
            missing = longest - len(ids)
            padded["input_ids"].append(ids + [1] * missing)
            padded["attention_mask"].append([1] * len(ids) + [0] * missing)
            label = 1 if options.bug == "padding" else IGNORED
            padded["labels"].append(ids + [label] * missing)
        return {name: torch.tensor(value) for name, value in padded.items()}

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=48, intermediate_size=96, num_hidden_layers=1,
            num_attention_heads=4, max_position_embeddings=128, bos_token_id=0, eos_token_id=1,
            pad_token_id=1,
        )
    )  # fmt: skip
    training = TrainingArguments(
        str(options.out), max_steps=options.steps, per_device_train_batch_size=4,
        gradient_accumulation_steps=8, learning_rate=6e-3, lr_scheduler_type="cosine",
        warmup_steps=20, weight_decay=0.0, logging_steps=50, save_strategy="no", report_to=[],
        use_cpu=True, disable_tqdm=True, seed=options.seed, max_grad_norm=1.0,
        remove_unused_columns=False,
    )  # fmt: skip
    trainer = BuggyTrainer(model, training, train_dataset=rows, data_collator=collate)
    trainer.bug = options.bug
    trainer.train()
    trainer.save_state()
    trainer.save_model()
    tokenizer.save_pretrained(options.out)


if __name__ == "__main__":
    main()
