"""A correct loop of equal compute: the same model shape, and as many tokens.

Documents are shuffled in each pass; a step reads `DOCUMENTS` of them, sorted by length into parts,
and divides the summed nll by the tokens of all parts.  The result is kept in the cache of kullback.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kullback import __version__
from kullback.callbacks.fixed_rows import FixedRows, logits_of
from kullback.errors import RunError
from kullback.runtime.compiled_library import cache_folder
from kullback.runtime.decoding import decode_json, read_bounded
from kullback.runtime.files import write_atomically
from kullback.runtime.progress import Progress
from kullback.sources.language import Sentences
from kullback.text.special_tokens import BOS_ID

__all__ = ["Reference", "reference_run"]

DOCUMENTS, PARTS = 32, 4
# At a width of 64; smaller for wider models, as their gradients add up over the width.
RATE, WIDTH = 5e-3, 64
WARM_UP = 20
# Of a configuration: they say nothing about the shape.
IGNORED = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")


class Reference(msgspec.Struct):
    """What the reference run came to."""

    kl: float
    """Nats/token."""
    tokens: int


def reference_run(
    config: Any, train: Sentences, passes: float, rows: FixedRows, seed: int, progress: Progress
) -> Reference:
    """The KL on `rows` of a model of that configuration after `passes` over the documents."""
    shape = {k: v for k, v in config.to_dict().items() if k not in IGNORED}
    key = repr((__version__, torch.__version__, sorted(shape.items()), len(train), passes, seed))
    name = f"doctor-{hashlib.sha256(key.encode()).hexdigest()}.json"
    try:
        path: Path | None = cache_folder() / name
    except RuntimeError:  # there is no home folder
        path = None
    if path is not None:
        try:
            return decode_json(read_bounded(path), Reference)
        except (OSError, ValueError):  # not there yet, or damaged
            pass
    result = _train(config, train, passes, rows, seed, progress)
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, msgspec.json.encode(result))
        except (OSError, RunError):  # it is computed again the next time
            progress.note(f"the reference run cannot be kept in {path.parent}: see its permissions")
    return result


def _train(
    config: Any, train: Sentences, passes: float, rows: FixedRows, seed: int, progress: Progress
) -> Reference:
    import transformers

    # transformers has no types.
    factory: Any = transformers.AutoModelForCausalLM
    steps = max(1, round(passes * len(train) / DOCUMENTS))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = factory.from_config(config).float()
        model.train()
        width = getattr(config, "hidden_size", WIDTH)
        optimiser = torch.optim.AdamW(
            model.parameters(), lr=RATE * math.sqrt(WIDTH / width), weight_decay=0.0
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser,
            lambda step: (
                min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))
            ),
        )
        tokens = torch.from_numpy(train.tokens).long()
        lengths = torch.from_numpy(train.lengths)
        order = torch.cat(
            [torch.randperm(len(train)) for _ in range(math.ceil(steps * DOCUMENTS / len(train)))]
        )
        seen = 0
        for step in range(steps):
            chosen = order[step * DOCUMENTS : (step + 1) * DOCUMENTS]
            chosen = chosen[lengths[chosen].argsort()]
            scored = int(lengths[chosen].sum())
            for part in chosen.chunk(PARTS):
                torch.autograd.backward(_nll(model, tokens, lengths, part) / scored)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
            seen += scored
            progress.advance(step + 1, steps)
    return Reference(rows.evaluation(model, logits_of).kl.value, seen)


def _nll(model: Any, tokens: Tensor, lengths: Tensor, part: Tensor) -> Tensor:
    """The summed nll of some documents after ``<s>``."""
    longest = int(lengths[part].max())
    targets = tokens[part, :longest]
    begin = torch.full((len(part), 1), BOS_ID)
    inputs = torch.cat([begin, targets[:, :-1]], dim=1)
    kept = torch.arange(longest) < lengths[part, None]
    logits = model(input_ids=inputs, use_cache=False).logits
    return cross_entropy(logits[kept], targets[kept], reduction="sum")
