"""Base-logits files of llama.cpp: shared by several test files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from gguf_files import gguf_of
from kullback.predictions.llama_cpp_logits import LlamaCppLogits
from kullback.predictions.llama_cpp_writer import write_llama_cpp_logits
from tiny_models import llama_and_gguf


def write_logits(path: Path, tokens: np.ndarray, logits: np.ndarray) -> LlamaCppLogits:
    """Return the file of logits over the columns that they have, written in two pieces."""
    write_llama_cpp_logits(path, tokens, logits.shape[1], np.array_split(logits, 2))
    return LlamaCppLogits.open(path)


def reproducible_llama(folder: Path, noise: float) -> Path:
    """Save a Llama whose weights do not depend on versions of torch and transformers.

    Those of another `noise` differ by that share of their spread.  `llama_cpp_base.kld` is what
    ``llama-perplexity -c 64 -b 64 -ctk f32 -ctv f32 -fa off --chunks 3`` wrote of the one without.
    """
    from transformers import AutoModelForCausalLM

    llama_and_gguf(folder)
    (folder / "tiny.gguf").unlink()
    model = AutoModelForCausalLM.from_pretrained(folder)
    weights, noises = np.random.default_rng(0), np.random.default_rng(1)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if weight.dim() == 2:
                spread = 0.44 if name.startswith("lm_head") else 0.2
                values = weights.normal(size=weight.shape)
                values += noise * noises.normal(size=weight.shape)
                weight.copy_(torch.from_numpy(spread * values))
    model.save_pretrained(folder)
    return folder


def reproducible_gguf(folder: Path) -> Path:
    """Save the Llama of `reproducible_llama` without noise as a GGUF file in float32."""
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    reproducible_llama(folder, noise=0.0)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return gguf_of(folder / "tiny.gguf", model, tokenizer)
