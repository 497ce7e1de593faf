"""Claim: on an accelerator, a pass over a text costs little more than the forward passes it needs.

Random Llamas in bfloat16 read windows of random tokens, in alternating rounds:

* bare: the body and the head's matmul in the same batches, no softmax;
* guide: the loop of the Transformers guide on perplexity, `model(input_ids, labels=...)`, a window
  at a time;
* evaluate: `token_rows`, the pass of ``kullback evaluate``, with all statistics of every position;
* compare: `divergence_rows`, that of ``kullback compare``: two models, KL both ways, JS and TV;
* short: `token_rows` of documents of 27 tokens.

Checks, of the same hidden states in float64: nll within 2e-6 on average and 1e-5 at worst, entropy
within 1e-5, KL and TV within 1e-5 of their size; a model against itself has a KL of exactly 0.
Candidates in int8, int4-g32 and fp8 are compared once.

Goals on an H100: evaluate >= 0.87 of bare's tokens/s and 1.0 of the guide's; compare >= 0.83 of two
bare forwards; short >= 50,000 tokens/s; at most 1 GB above the models.

It makes its models itself, writes nothing, and takes about three minutes on an H100.  Without an
accelerator it runs small on the CPU, where only the checks mean anything.

Run it: ``python benchmarks/accelerator.py [--shapes 1b,8b] [--device cuda]``
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM

from kullback.evaluation.passes import ModelPredictor, TokenizedText, divergence_rows, token_rows
from kullback.evaluation.predictors import token_budget
from kullback.models.huggingface import HuggingFaceModel
from kullback.models.quantization import Scheme
from kullback.models.quantized import apply_scheme
from kullback.scoring.device_sums import device_kernels
from kullback.scoring.divergence import divergence_statistics
from kullback.text.documents import Document
from kullback.text.plan import plan
from kullback.text.protocol import Protocol
from kullback.text.tokenizer import Encoding, TextTokenizer


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama, and what it reads."""

    width: int
    inner: int
    """Of the MLP."""
    layers: int
    heads: int
    kv_heads: int
    V: int
    windows: int
    window: int
    documents: int
    """Of 27 tokens that are scored."""


SHAPES = {
    "small": Shape(64, 128, 2, 4, 2, 6000, windows=8, window=128, documents=100),
    "1b": Shape(2048, 8192, 16, 32, 8, 128256, windows=16, window=2048, documents=3000),
    "8b": Shape(4096, 14336, 32, 32, 8, 128256, windows=8, window=2048, documents=1000),
}
STATUS = Path("/proc/self/status")
# The candidate is the reference with noise of this share of each matrix's standard deviation.
NOISE = 0.02


def random_llama(name: str, device: str) -> HuggingFaceModel:
    """A Llama of random weights in bfloat16, made on the device; always the same."""
    shape = SHAPES[name]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.V,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=4096,
        initializer_range=1.0 / shape.width**0.5,
        tie_word_embeddings=name == "1b",
        dtype=torch.bfloat16,
    )
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(default)
    words = {f"token{i}": i for i in range(shape.V)}
    tokenizer = TextTokenizer(Tokenizer(WordLevel(words, unk_token="token0")))
    return HuggingFaceModel.wrap(model, tokenizer, f"Llama {name}")


@torch.no_grad()
def perturb(model: LlamaForCausalLM) -> None:
    """Add noise to every matrix."""
    for weight in model.parameters():
        if weight.dim() == 2:
            weight += NOISE * weight.std() * torch.randn_like(weight)


def random_text(model: HuggingFaceModel, documents: int, tokens: int, window: int) -> TokenizedText:
    """Documents of random tokens, each of one byte, in windows that do not overlap."""
    rng = np.random.default_rng(documents)
    begins = np.arange(tokens)
    spans = np.stack([begins, begins + 1], axis=1)
    encodings = [
        Encoding(rng.integers(0, model.vocabulary_size, tokens), spans) for _ in range(documents)
    ]
    protocol = Protocol(window=window, stride=window, bos="never").resolve(model.context)
    windows = plan(encodings, protocol, model.tokenizer, model.context)
    texts = [Document(f"document {i}", "x" * tokens) for i in range(documents)]
    return TokenizedText(texts, encodings, protocol, windows)


class Jobs:
    """What is timed, on the same windows."""

    def __init__(
        self, reference: HuggingFaceModel, candidate: HuggingFaceModel, shape: Shape
    ) -> None:
        self.reference, self.candidate = ModelPredictor(reference), ModelPredictor(candidate)
        self.text = random_text(reference, 1, shape.windows * shape.window + 1, shape.window)
        self.documents = random_text(reference, shape.documents, 28, shape.window)
        self.inputs = [
            torch.from_numpy(window.inputs[None]).to(reference.device)
            for window in self.text.windows
        ]
        at_once = max(1, token_budget(self.reference) // shape.window)
        self.batches = torch.cat(self.inputs).split(at_once)

    @torch.inference_mode()
    def bare(self, predictor: ModelPredictor | None = None) -> None:
        """The body and the head of every batch; a quarter of a GB of logits at a time."""
        model = (predictor or self.reference).model.model
        for batch in self.batches:
            hidden = model.base_model(input_ids=batch, use_cache=False)[0].flatten(0, 1)
            for rows in hidden.split(1024):
                model.lm_head(rows)

    def two_bare(self) -> None:
        self.bare(self.reference)
        self.bare(self.candidate)

    @torch.inference_mode()
    def guide(self) -> None:
        for window in self.inputs:
            float(self.reference.model.model(input_ids=window, labels=window).loss)

    def evaluate(self) -> None:
        for _ in token_rows(self.reference, self.text):
            pass

    def compare(self) -> None:
        for _ in divergence_rows(self.reference, self.candidate, self.text):
            pass

    def short_documents(self) -> None:
        for _ in token_rows(self.reference, self.documents):
            pass

    @torch.inference_mode()
    def check(self) -> list[str]:
        """Errors against float64 of the same hidden states, as lines of text."""
        window = self.inputs[0][:, :256]
        first, second = (
            predictor.model.predict(window) for predictor in (self.reference, self.candidate)
        )
        log_p, log_q = (
            torch.log_softmax(x.hidden_MD.double() @ x.head.weight_VD.double().T, dim=1)
            for x in (first, second)
        )
        # As of a text that the model predicts as well as it claims.
        targets = torch.multinomial(log_p.exp().float(), 1)[:, 0]
        ours = divergence_statistics(first, second, targets)
        same = divergence_statistics(first, first, targets)
        nll = -log_p.gather(1, targets[:, None])[:, 0].cpu()
        entropy = -(log_p.exp() * log_p).sum(dim=1).cpu()
        kl = (log_p.exp() * (log_p - log_q)).sum(dim=1).cpu()
        tv = (log_p.exp() - log_q.exp()).abs().sum(dim=1).cpu() / 2
        errors = {
            "nll, mean": (abs((torch.from_numpy(ours.reference.nll) - nll).mean()), 2e-6),
            "nll, worst": ((torch.from_numpy(ours.reference.nll) - nll).abs().max(), 1e-5),
            "entropy, worst": (
                (torch.from_numpy(ours.reference.entropy) - entropy).abs().max(), 1e-5,
            ),
            "KL, worst, relative": (((torch.from_numpy(ours.kl) - kl) / kl).abs().max(), 1e-5),
            "TV, worst, relative": (
                ((torch.from_numpy(ours.total_variation) - tv) / tv).abs().max(), 1e-5,
            ),
            "KL of a model to itself": (torch.from_numpy(same.kl).abs().max(), 0.0),
        }  # fmt: skip
        return [
            f"  {'ok  ' if float(error) <= goal else 'MISS'} {name}: {float(error):.1e} ({goal:g})"
            for name, (error, goal) in errors.items()
        ] + [f"  mean KL {float(kl.mean()):.2e}, mean nll {float(nll.mean()):.4f}"]


def seconds(job: Callable[[], object], device: str) -> float:
    """The wall time of a job, the device's work included."""
    start = time.perf_counter()
    job()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def schemes(shape: str, device: str, reference: HuggingFaceModel, text: TokenizedText) -> list[str]:
    """Candidates that are quantised from the reference, compared with it once."""
    lines = []
    for name in ("int8", "int4-g32", "fp8"):
        candidate = apply_scheme(random_llama(shape, device), Scheme.parse(name)).model
        rows = divergence_rows(ModelPredictor(reference), ModelPredictor(candidate), text)
        kl = np.concatenate([part.kl for part in rows])
        lines.append(f"  {name}: mean KL {kl.mean():.2e} nats/token, {len(kl)} tokens")
    return lines


def peaks(timed: dict[str, Callable[[], object]], device: str) -> dict[str, float]:
    """What each job takes above the models at most, in GB; the first run of each.

    On a CPU it is resident memory, where the system tells it.
    """
    peak = {}
    for name, job in timed.items():
        before = start_peak(device)
        seconds(job, device)
        peak[name] = (read_peak(device) - before) / 1e9
    return peak


def start_peak(device: str) -> float:
    """Forget the peak of the memory so far; the bytes that are in use."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    if not STATUS.exists():
        return float("nan")
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def read_peak(device: str) -> float:
    """The most bytes in use since."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    return resident("VmHWM") if STATUS.exists() else float("nan")


def resident(name: str) -> float:
    """What Linux says of this process, in bytes."""
    lines = STATUS.read_text().splitlines()
    return 1024 * next(float(line.split()[1]) for line in lines if line.startswith(name))


def measure(name: str, device: str, rounds: int) -> None:
    """Check and time one shape."""
    shape = SHAPES[name]
    reference, candidate = random_llama(name, device), random_llama(name, device)
    perturb(candidate.model)
    jobs = Jobs(reference, candidate, shape)
    parameters = sum(weight.numel() for weight in reference.model.parameters())
    print(f"{name}: {parameters / 1e9:.2f} B parameters, {shape.windows} windows of "
          f"{shape.window}, {len(jobs.batches[0])} at once")  # fmt: skip
    print("\n".join(jobs.check()), flush=True)
    timed = {
        "bare": jobs.bare,
        "guide": jobs.guide,
        "evaluate": jobs.evaluate,
        "two bare": jobs.two_bare,
        "compare": jobs.compare,
        "short": jobs.short_documents,
    }
    counts = dict.fromkeys(timed, len(jobs.text)) | {"short": len(jobs.documents)}
    memory = peaks(timed, device)
    times: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds):
        for job, run in timed.items():
            times[job].append(seconds(run, device))
    rate = {job: counts[job] / statistics.median(times[job]) for job in timed}
    for job in timed:
        print(f"  {job:<9} {rate[job]:10.0f} tokens/s, {memory[job]:5.2f} GB above the models")
    print(f"  evaluate / bare {rate['evaluate'] / rate['bare']:.3f} (0.87), evaluate / guide "
          f"{rate['evaluate'] / rate['guide']:.3f} (1.0), compare / two bare "
          f"{rate['compare'] / rate['two bare']:.3f} (0.83)", flush=True)  # fmt: skip
    if name != "8b":
        print("\n".join(schemes(name, device, reference, jobs.text)), flush=True)


def main() -> None:
    """Measure the shapes that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shapes", help="of 1b, 8b, small; default: small on a CPU, else 1b,8b")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    on_cpu = arguments.device == "cpu"
    kernels = "Triton's kernels" if device_kernels(arguments.device.split(":")[0]) else "torch"
    name = "CPU" if on_cpu else torch.cuda.get_device_name(arguments.device)
    print(f"{name}, torch {torch.__version__}, statistics by {kernels}")
    for shape in (arguments.shapes or ("small" if on_cpu else "1b,8b")).split(","):
        measure(shape, arguments.device, arguments.rounds)


if __name__ == "__main__":
    main()
