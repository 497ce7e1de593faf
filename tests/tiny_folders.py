"""Folders of tiny random models of many architectures, and their nll as plain transformers."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tiny_models import TEXT
from tiny_tokenizers import trained

__all__ = ["SIZES", "VOCABULARY_SIZE", "plain_nll", "saved"]

TOKENIZER = trained()
VOCABULARY_SIZE = TOKENIZER.get_vocab_size()
SIZES = {
    "vocab_size": VOCABULARY_SIZE, "hidden_size": 32, "intermediate_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 4096, "bos_token_id": None, "eos_token_id": None,
    "initializer_range": 0.3,
}  # fmt: skip


def saved(model: PreTrainedModel, folder: Path, **settings: object) -> Path:
    """The folder, with the model and a tokenizer whose EOS is token 0."""
    model.save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=TOKENIZER, eos_token="<|endoftext|>", **settings
    )
    tokenizer.save_pretrained(folder)
    return folder


@torch.no_grad()
def plain_nll(model: PreTrainedModel) -> float:
    """Nats/token of TEXT, the first from EOS alone, as the model itself predicts."""
    ids = torch.tensor(TOKENIZER.encode(TEXT).ids)
    model.eval()
    logits = [model(input_ids=read[None]).logits[0] for read in (torch.tensor([0]), ids[:-1])]
    return float(torch.nn.functional.cross_entropy(torch.cat(logits).double(), ids))
