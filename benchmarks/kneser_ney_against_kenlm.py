"""Our interpolated modified Kneser-Ney against KenLM, on the same counts.

``pip install kenlm; python benchmarks/kneser_ney_against_kenlm.py``: fits models of orders 2 to 5
to the words of docs/derivation.md, writes each as an ARPA file (the interpolated probability of
every n-gram seen, the back-off weight of every context), and lets KenLM score held-out text.  It
prints the largest difference of a word's log-probability; KenLM stores float32.

The package from PyPI has the reader and scorer of KenLM, not its estimator `lmplz`: the discounts
are held to Chen and Goodman's formulas by `tests/models/test_kneser_ney.py`.
"""

from __future__ import annotations

import math
import re
import tempfile
from pathlib import Path

import numpy as np

from kullback.models.kneser_ney import NgramModel

TEXT = Path(__file__).resolve().parents[1] / "docs" / "derivation.md"
GOAL = 1e-5


def arpa(model: NgramModel, words: list[str]) -> str:
    """The model as an ARPA file."""
    V = model.vocabulary_size
    grams: list[list[tuple[int, ...]]] = [[(token,) for token in range(V)]]
    for table in model._tables:
        contexts, tokens = np.divmod(table.keys, V)
        grams.append([(*grams[-1][c], int(t)) for c, t in zip(contexts, tokens, strict=True)])
    lines = ["\\data\\"]
    lines += [f"ngram {n}={len(of) + 3 * (n == 1)}" for n, of in enumerate(grams, 1)]
    for n, of_order in enumerate(grams, 1):
        lines += ["", f"\\{n}-grams:"] + (
            ["-99\t<unk>", "-99\t<s>\t0", "-99\t</s>"] if n == 1 else []
        )
        contexts = np.full((len(of_order), model.order - 1), -1)
        for row, gram in enumerate(of_order):
            contexts[row, model.order - n :] = gram[:-1]
        targets = [gram[-1] for gram in of_order]
        log_probs = np.concatenate(
            [model.log_probs(contexts[i : i + 256]) for i in range(0, len(contexts), 256)]
        )[np.arange(len(targets)), targets]
        for i, gram in enumerate(of_order):
            line = f"{log_probs[i] / math.log(10):.9f}\t{' '.join(words[t] for t in gram)}"
            if n < model.order:
                gamma = float(model._tables[n - 1].gammas[i])
                line += f"\t{math.log10(gamma):.9f}" if gamma != 1 else "\t0"
            lines.append(line)
    return "\n".join([*lines, "", "\\end\\", ""])


def main() -> None:
    """Compare the scores of every held-out word."""
    import kenlm

    spelled = re.findall(r"\w+|[^\w\s]", TEXT.read_text(encoding="utf-8").lower())
    words = sorted(set(spelled))
    ids = {word: i for i, word in enumerate(words)}
    tokens = np.array([ids[word] for word in spelled])
    split = len(tokens) * 9 // 10
    for order in (2, 3, 4, 5):
        model = NgramModel.fit([tokens[:split]], order=order, vocabulary_size=len(words), bos=None)
        ours = model.token_log_probs(tokens[None, split:])[0]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.arpa"
            path.write_text(arpa(model, words), encoding="utf-8")
            theirs = kenlm.Model(str(path)).full_scores(
                " ".join(spelled[split:]), bos=False, eos=False
            )
            scores = np.array([score for score, *_ in theirs]) * math.log(10)
        worst = float(np.abs(ours - scores).max())
        print(
            f"order {order}: {len(ours)} words, {-ours.mean():.6f} and {-scores.mean():.6f} "
            f"nats/word, largest difference {worst:.1e} {'met' if worst < GOAL else 'MISSED'}"
        )


if __name__ == "__main__":
    main()
