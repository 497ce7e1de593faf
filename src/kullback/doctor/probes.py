"""What a model that came out of a trainer does on documents of the doctor's source.

Each probe has a value that only one bug gives: see `kullback.doctor.diagnosis`.  Units are nats.

Axes: N documents, T positions, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kullback.doctor.source import KINDS, LONGEST_ROW
from kullback.results.doctor import Probes
from kullback.sources.language import Language
from kullback.text.special_tokens import BOS_ID, EOS_ID

__all__ = ["averaging_curve", "probe"]

DOCUMENTS = 256
# Tokens after the end that are read as padding.
PADDING = 8
SHIFTS = (0, 1, 2)
# Micro-batches of the theoretical curve, in documents.
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


@torch.no_grad()
def probe(model: Any, language: Language, seed: int = 0) -> Probes:
    """All probes of a causal language model of transformers, in evaluation mode."""
    rng = np.random.default_rng([seed, 3])
    sample = language.sample(DOCUMENTS, rng)
    width = int(sample.lengths.max())
    ids = torch.full((DOCUMENTS, width + 1), EOS_ID)
    ids[:, 0] = BOS_ID
    ids[:, 1:] = torch.from_numpy(sample.tokens.astype(np.int64))
    scored = torch.from_numpy(sample.mask)
    log_q = model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)
    # Positions that have a next token and one after that, the first word excluded.
    kept = scored.clone()
    kept[:, 0] = False
    kept[:, :-1] &= scored[:, 1:]
    kept[:, -1] = False
    by_shift = [_nll(log_q, ids, kept, shift) for shift in SHIFTS]
    open_nll = _with_open_mask(model, ids, scored)
    words = _word_positions(sample.mask)
    entropy_q = -(log_q[:, :-1].exp() * log_q[:, :-1]).sum(-1)[torch.from_numpy(words)]
    p = language.distributions(sample.states[words])
    entropy_p = language.state_entropies[sample.states[words]]
    mode_q = (
        log_q[:, :-1][torch.from_numpy(words)].exp().numpy()[np.arange(len(p)), p.argmax(axis=1)]
    )
    first = log_q[0, 0].exp().double().numpy()
    ends = language.distributions(sample.states[words])[:, EOS_ID]
    end_q = log_q[:, :-1][torch.from_numpy(words)][:, EOS_ID].exp().double().numpy()
    kinds = [language.token_ids[kind.name] for kind in KINDS]
    return Probes(
        nll_by_shift=tuple(by_shift),
        future_change=_future_change(model, ids, sample.lengths),
        surprisal=float(sample.surprisals[sample.mask].mean()),
        open_nll=open_nll,
        entropy_ratio=float(entropy_q.mean()) / float(entropy_p.mean()),
        mode_ratio=float(mode_q.mean() / p.max(axis=1).mean()),
        padding_nll=_padding_nll(model, ids, sample.lengths),
        kinds=tuple(
            float(np.log(first[i] / k.probability)) for i, k in zip(kinds, KINDS, strict=True)
        ),
        end_ratio=float(end_q.mean() / ends.mean()),
    )


def _nll(log_q: Tensor, ids: Tensor, kept: Tensor, shift: int) -> float:
    """The mean −log q at position t of the token at t + shift."""
    width = ids.shape[1] - 1
    targets = torch.nn.functional.pad(ids, (0, 1))[:, shift : shift + width]
    picked = log_q[:, :width].gather(-1, targets[:, :, None])[..., 0]
    return float(-picked[kept].double().mean())


def _word_positions(mask: Bool[np.ndarray, "N T"]) -> Bool[np.ndarray, "N T"]:
    """Positions after the kind, where words and the end compete."""
    words = mask.copy()
    words[:, :2] = False
    return words


def _with_open_mask(model: Any, ids: Int[Tensor, "N T"], scored: Tensor) -> float | None:
    """The nll of the next token where every position sees the whole document; None if it can't."""
    seen = torch.cat([torch.ones(len(ids), 1, dtype=torch.bool), scored], dim=1)
    lowest = torch.finfo(torch.float32).min
    mask = torch.where(seen[:, None, None, :], 0.0, lowest).expand(-1, 1, ids.shape[1], -1)
    try:
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    except (ValueError, RuntimeError, IndexError, TypeError):  # an architecture without such masks
        return None
    log_q = logits[:, :-1].float().log_softmax(-1)
    picked = log_q.gather(-1, ids[:, 1:, None])[..., 0]
    return float(-picked[scored].double().mean())


def _future_change(model: Any, ids: Int[Tensor, "N T"], lengths: np.ndarray) -> float:
    """The largest change of a log-probability when the later half of a document is changed."""
    row = int(np.argmax(lengths))
    length = int(lengths[row])
    here = ids[row : row + 1, :length].clone()
    other = here.clone()
    half = length // 2
    other[:, half:] = other[:, half:].flip(1).roll(1, 1) if length - half > 2 else EOS_ID
    q, changed = (
        model(input_ids=x, use_cache=False).logits[:, :half].float().log_softmax(-1)
        for x in (here, other)
    )
    return float((q.exp() - changed.exp()).abs().max()) if half else 0.0


def _padding_nll(model: Any, ids: Int[Tensor, "N T"], lengths: np.ndarray) -> float:
    """The least mean nll of padding after the end, over the ids that may pad."""
    nlls = []
    rows = [int(row) for row in np.argsort(lengths, kind="stable")[:: max(1, len(lengths) // 32)]]
    for padding in (EOS_ID, BOS_ID):
        total = 0.0
        for row in rows:
            length = int(lengths[row])
            tail = torch.full((PADDING,), padding)
            x = torch.cat([ids[row, : length + 1], tail])[None]
            log_q = (
                model(input_ids=x[:, :LONGEST_ROW], use_cache=False).logits.float().log_softmax(-1)
            )
            after = log_q[0, length + 1 :, padding]
            total += float(-after.mean()) if len(after) else 0.0
        nlls.append(total / len(rows))
    return min(nlls)


def averaging_curve(language: Language) -> dict[int, Float[np.ndarray, "K"]]:
    """log q/p of each kind where means over micro-batches of so many documents are minimised."""
    sample = language.sample(30_000, np.random.default_rng(0))
    kind, lengths = sample.tokens[:, 0], sample.lengths
    ids = [language.token_ids[k.name] for k in KINDS]
    curve = {}
    for size in SIZES:
        whole = len(lengths) // size * size
        weight = 1 / lengths[:whole].reshape(-1, size).sum(axis=1).repeat(size)
        of_kind = np.array([weight[kind[:whole] == i].mean() for i in ids])
        curve[size] = np.log(of_kind / weight.mean())
    return curve
