"""Export of a source as training data for another training stack, with true surprisals.

The files contain the same sentences as text, as token ids and as surprisals, so that any trainer
can be checked against the exact entropy: no model has an expected loss below it on fresh sentences.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from kullback.runtime.files import draft_folder
from kullback.runtime.limits import check_fits
from kullback.runtime.locks import locked_output
from kullback.runtime.outputs import Output, check_outputs
from kullback.runtime.ranges import EXPORTED_TOKENS, SEEDS
from kullback.sources.catalogue import Source
from kullback.text.special_tokens import BOS_ID
from kullback.text.tokenizer_training import tokenizer_config, word_tokenizer

__all__ = ["export_source"]

# While it is made: ids and surprisals, joined and then as files, and the sentences.
BYTES_PER_TOKEN = 25

README = """{name}: a language whose entropy is known exactly.

train.txt              one sentence per line
train.tokens.npy       uint16: <s> w w w </s> <s> w ... (ids of tokenizer.json)
train.surprisals.npy   float64: the true -log p of each token, nats; 0 for <s>, which is given
tokenizer.json         a Hugging Face tokenizer

Score every token except <s>.  The entropy floor is {floor:.12f} nats/token: the expected loss of a
perfect model on fresh sentences.  mean(loss - surprisal) over the same tokens estimates the KL
divergence that remains.
"""


def export_source(source: Source, tokens: int, folder: Path, seed: int) -> dict[str, Any]:
    """Write at least `tokens` tokens of complete sentences of the training language into `folder`.

    Returns the content of ``source.json``: the source, the seed, the numbers of sentences and
    tokens (without ``<s>``), and the entropy and the mean surprisal in nats/token.

    The files appear together, in a new or empty folder.  Raises `InvalidValueError` for fewer than
    one token and for any other folder, `RunError` where it cannot be written.
    """
    SEEDS.check("seed", seed)
    EXPORTED_TOKENS.check("tokens", tokens)
    check_fits(
        tokens * BYTES_PER_TOKEN,
        f"an export of {tokens:,} tokens",
        "ask for fewer tokens (--tokens), or export several parts with other seeds",
    )
    check_outputs(Output("the folder (-o)", folder, "new folder"))
    with locked_output(folder), draft_folder(folder) as draft:
        return _export(source, tokens, draft, seed)


def _export(source: Source, tokens: int, folder: Path, seed: int) -> dict[str, Any]:
    """The files of an export, in a folder of their own."""
    language, rng = source.training, np.random.default_rng(seed)
    lines: list[str] = []
    ids, surprisals, done = [], [], 0
    while done < tokens:
        missing = int((tokens - done) / language.tokens_per_sentence) + 1
        sample = language.sample(min(missing, 1 << 16), rng)
        mask = np.concatenate([np.ones((len(sample), 1), bool), sample.mask], axis=1)
        ids.append(np.insert(sample.tokens, 0, BOS_ID, axis=1)[mask].astype(np.uint16))
        surprisals.append(np.insert(sample.surprisals, 0, 0.0, axis=1)[mask])
        lines.extend(sample.texts())
        done += int(sample.lengths.sum())
    facts = {
        "source": dict(source.spec),
        "seed": seed,
        "sentences": len(lines),
        "tokens": done,
        "entropy_per_token": language.entropy_per_token,
        "mean_surprisal": float(np.concatenate(surprisals).sum()) / done,
    }
    (folder / "train.txt").write_bytes(("\n".join(lines) + "\n").encode())
    (folder / "train.tokens.npy").write_bytes(_npy(np.concatenate(ids)))
    (folder / "train.surprisals.npy").write_bytes(_npy(np.concatenate(surprisals)))
    tokenizer = word_tokenizer(language.vocabulary).to_str(pretty=True)
    (folder / "tokenizer.json").write_bytes(tokenizer.encode())
    (folder / "tokenizer_config.json").write_bytes(tokenizer_config().encode())
    readme = README.format(name=source.name, floor=language.entropy_per_token)
    (folder / "README.txt").write_bytes(readme.encode())
    source_json = json.dumps(facts, ensure_ascii=False, indent=2)
    (folder / "source.json").write_bytes(source_json.encode())
    return facts


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
