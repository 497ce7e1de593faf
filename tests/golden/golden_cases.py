"""Inputs and command lines of the golden file: three architectures, two texts.

The weights come from NumPy's generator, whose numbers are the same on every processor, and the
texts from Python's, so that nothing of size is stored.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "a",
    "is",
    "that",
    "for",
    "it",
    "was",
    "on",
    "be",
    "with",
    "as",
    "by",
    "at",
    "from",
    "night",
    "river",
    "1848",
    "42",
    "3.14",
    "naïve",
    "façade",
    "señor",
    "über",
    "Ωmega",
    "λόγος,",
    ".",
    ";",
    "(see)",
    "«quoted»",
    "–",
    "letters,",
    "machine.",
    "question?",
    "house\n",
    "\n\n",
]

CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(
        vocab_size=256, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        tie_word_embeddings=False,
    ),
    "gpt2": GPT2Config(
        vocab_size=256, n_embd=64, n_layer=2, n_head=4, n_positions=64, bos_token_id=0,
        eos_token_id=0,
    ),
    "gemma2": Gemma2Config(
        vocab_size=256, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=64,
        query_pre_attn_scalar=16, final_logit_softcapping=5.0, sliding_window=16,
    ),
}  # fmt: skip


def write_model(folder: Path, config: PretrainedConfig, seed: int = 0) -> None:
    """Save a model of random weights that reads bytes."""
    model = AutoModelForCausalLM.from_config(config)
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            numbers = rng.standard_normal(tuple(weight.shape), dtype=np.float32)
            scale = 0.2 if weight.ndim > 1 else 0.05
            offset = 1.0 if weight.ndim == 1 and not isinstance(config, Gemma2Config) else 0.0
            weight.copy_(torch.from_numpy(scale * numbers + offset))
    model.save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


def write_inputs(folder: Path) -> None:
    """Write the models, a book of one text, and a JSONL file of twelve documents."""
    for name, config in CONFIGS.items():
        write_model(folder / name, config)
    write_model(folder / "other", CONFIGS["llama"], seed=1)
    rng = random.Random(0)
    book = " ".join(rng.choice(WORDS) for _ in range(420))
    (folder / "book.txt").write_text(book, encoding="utf-8")
    rows = [" ".join(rng.choice(WORDS) for _ in range(rng.randint(3, 40))) for _ in range(12)]
    lines = [json.dumps({"text": row}) for row in rows]
    (folder / "docs.jsonl").write_text("\n".join(lines), encoding="utf-8")


def _commands(folder: Path) -> dict[str, list[str]]:
    """The command lines, by the name of what they print; `folder` holds inputs and outputs."""
    commands: dict[str, list[str]] = {}
    for name in CONFIGS:
        model = str(folder / name)
        for text in ("book.txt", "docs.jsonl"):
            on = ["--text", str(folder / text)]
            stem = text.split(".")[0]
            commands[f"evaluate {name} {stem}"] = ["evaluate", model, *on]
            commands[f"compare {name} {stem}"] = [
                "compare", model, f"{model}@int8", f"{model}@int4-g32", *on, "--noise-floor",
            ]  # fmt: skip
            rows, exact, top = (
                str(folder / f"{name}-{stem}{end}") for end in (".parquet", ".rec", "-top.rec")
            )
            commands[f"record statistics {name} {stem}"] = ["record", model, *on, "-o", rows]
            commands[f"record exact {name} {stem}"] = [
                "record", model, *on, "-o", exact, "--distributions", "exact",
            ]  # fmt: skip
            commands[f"record top-k {name} {stem}"] = [
                "record", f"{model}@int4-g32", *on, "-o", top, "--distributions", "top-k", "-k",
                "16",
            ]  # fmt: skip
            commands[f"compare recording {name} {stem}"] = ["compare", exact, f"{model}@int8", *on]
            commands[f"compare bounds {name} {stem}"] = ["compare", exact, top]
            commands[f"compare statistics {name} {stem}"] = ["compare", rows, f"{model}@int8", *on]
    llama, book = str(folder / "llama"), ["--text", str(folder / "book.txt")]
    docs = ["--text", str(folder / "docs.jsonl")]
    commands["evaluate temperature"] = ["evaluate", llama, *book, "--temperature"]
    commands["evaluate joined"] = ["evaluate", llama, *docs, "--joined", "--window", "48"]
    commands["evaluate hf-stride"] = ["evaluate", llama, *book, "--protocol", "hf-stride"]
    commands["evaluate float64"] = ["evaluate", llama, *book, "--dtype", "float64"]
    commands["compare schemes"] = [
        "compare", llama, "--schemes", "int8,int4-g32,int2-g32,bf16", *docs, "--sensitivity",
    ]  # fmt: skip
    commands["compare models"] = ["compare", llama, str(folder / "other"), *book]
    commands["compare same"] = ["compare", llama, llama, *book]
    commands["compare by bytes"] = ["compare", llama, str(folder / "other"), *docs, "--by-bytes"]
    return commands


def run(
    folder: Path, main: Callable[[Sequence[str]], int], names: Collection[str] | None = None
) -> dict[str, Any]:
    """What commands print with ``--json``, and the columns of the records that they wrote.

    `names` are those of some commands, in which those that write a file precede those that read it.
    """
    printed: dict[str, Any] = {}
    commands = _commands(folder)
    for name in names or commands:
        command = commands[name]
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            code = main([*command, "--json"])
        assert code == 0, (name, code)
        text = out.getvalue().replace(f"{folder}/", "")
        printed[name] = json.loads(text)
        if name.startswith("record statistics"):
            table = pq.read_table(command[command.index("-o") + 1])
            printed[name]["columns"] = {
                column: np.asarray(table[column].to_numpy(), dtype=np.float64).sum().item()
                for column in table.column_names
                if table[column].type not in ("string", "large_string")
            }
    return printed
