"""Claim: on an accelerator, a pass over a text costs little more than the forward passes it needs.

Random Llamas in bfloat16 read windows of random tokens, in alternating rounds:

* bare: the body and the head's matmul, no softmax;
* guide: the loop of the Transformers guide on perplexity, `model(input_ids, labels=...)`;
* evaluate: hidden states, the head and all statistics of every position;
* compare: the same of two models, with KL both ways and Jensen-Shannon;
* short: documents of 27 tokens, one after the other.

Checks, of the same hidden states in float64: nll within 2e-6 on average and 1e-5 at worst, entropy
within 1e-5, KL within 1e-5 of its size; a model against itself has a KL of exactly 0.

Goals on an H100: evaluate >= 0.87 of bare's tokens/s and 1.0 of the guide's; compare >= 0.83 of two
bare forwards; at most 1 GB above the models.

It makes its models itself, writes nothing, and takes about two minutes on an H100.  Without an
accelerator it runs small on the CPU, where only the checks mean anything.

Run it: ``python benchmarks/accelerator.py [--shapes 1b,8b] [--device cuda]``
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from kullback.models.huggingface import HuggingFaceModel
from kullback.scoring.device_sums import device_kernels
from kullback.scoring.divergence import divergence_statistics
from kullback.scoring.token_statistics import token_statistics
from kullback.text.tokenizer import TextTokenizer

# Width, width of the MLP, layers, heads, heads of keys, V.
SHAPES = {
    "small": (64, 128, 2, 4, 2, 6000),
    "1b": (2048, 8192, 16, 32, 8, 128256),
    "8b": (4096, 14336, 32, 32, 8, 128256),
}
# The candidate is the reference with noise of this share of each matrix's standard deviation.
NOISE = 0.02


def random_llama(shape: str, device: str, seed: int) -> HuggingFaceModel:
    """A Llama of random weights in bfloat16, made on the device."""
    width, inner, layers, heads, kv_heads, V = SHAPES[shape]
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=4096,
        initializer_range=1.0 / width**0.5,
        tie_word_embeddings=False,
        dtype=torch.bfloat16,
    )
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(default)
    words = {f"token{i}": i for i in range(V)}
    tokenizer = TextTokenizer(Tokenizer(WordLevel(words, unk_token="token0")))
    return HuggingFaceModel.wrap(model, tokenizer, f"Llama {shape}")


@torch.no_grad()
def perturb(model: LlamaForCausalLM) -> None:
    """Add noise to every matrix."""
    for weight in model.parameters():
        if weight.dim() == 2:
            weight += NOISE * weight.std() * torch.randn_like(weight)


class Jobs:
    """What is timed, on the same windows."""

    def __init__(
        self,
        reference: HuggingFaceModel,
        candidate: HuggingFaceModel,
        windows: Tensor,
    ):
        self.reference, self.candidate = reference, candidate
        self.windows = [window[None] for window in windows]
        self.short = [window[None, :27] for window in windows.reshape(-1, 32)[:300]]

    @torch.inference_mode()
    def bare(self, model: HuggingFaceModel | None = None) -> None:
        model = model or self.reference
        for window in self.windows:
            hidden = model.model.base_model(input_ids=window, use_cache=False)[0]
            model.model.lm_head(hidden)

    def two_bare(self) -> None:
        self.bare(self.reference)
        self.bare(self.candidate)

    @torch.inference_mode()
    def guide(self) -> None:
        for window in self.windows:
            float(self.reference.model(input_ids=window, labels=window).loss)

    @torch.inference_mode()
    def _evaluate(self, window: Tensor) -> None:
        token_statistics(self.reference.predict(window), window[0].roll(-1))

    @torch.inference_mode()
    def _compare(self, window: Tensor) -> None:
        predictions = (model.predict(window) for model in (self.reference, self.candidate))
        divergence_statistics(*predictions, window[0].roll(-1))

    def evaluate(self) -> None:
        for window in self.windows:
            self._evaluate(window)

    def compare(self) -> None:
        for window in self.windows:
            self._compare(window)

    def short_documents(self) -> None:
        for window in self.short:
            self._evaluate(window)

    @torch.inference_mode()
    def check(self) -> list[str]:
        """Errors against float64 of the same hidden states, as lines of text."""
        window = self.windows[0][:, :256]
        first, second = (model.predict(window) for model in (self.reference, self.candidate))
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
        errors = {
            "nll, mean": (abs((torch.from_numpy(ours.reference.nll) - nll).mean()), 2e-6),
            "nll, worst": ((torch.from_numpy(ours.reference.nll) - nll).abs().max(), 1e-5),
            "entropy, worst": (
                (torch.from_numpy(ours.reference.entropy) - entropy).abs().max(), 1e-5,
            ),
            "KL, worst, relative": (((torch.from_numpy(ours.kl) - kl) / kl).abs().max(), 1e-5),
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


def measure(shape: str, device: str, n_windows: int, window: int, rounds: int) -> None:
    """Check and time one shape."""
    reference = random_llama(shape, device, 0)
    candidate = random_llama(shape, device, 0)
    perturb(candidate.model)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(SHAPES[shape][-1], (n_windows, window), generator=generator)
    jobs = Jobs(reference, candidate, tokens.to(device))
    parameters = sum(weight.numel() for weight in reference.model.parameters())
    print(f"{shape}: {parameters / 1e9:.2f} B parameters, {n_windows} windows of {window}")
    print("\n".join(jobs.check()), flush=True)
    timed = {
        "bare": jobs.bare,
        "guide": jobs.guide,
        "evaluate": jobs.evaluate,
        "two bare": jobs.two_bare,
        "compare": jobs.compare,
        "short": jobs.short_documents,
    }
    counts = dict.fromkeys(timed, n_windows * window) | {"short": 27 * len(jobs.short)}
    memory: dict[str, float] = {}
    for name, job in timed.items():
        if device.startswith("cuda"):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() if device.startswith("cuda") else 0
        seconds(job, device)
        peak = torch.cuda.max_memory_allocated() if device.startswith("cuda") else 0
        memory[name] = (peak - before) / 1e9
    times: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds):
        for name, job in timed.items():
            times[name].append(seconds(job, device))
    rate = {name: counts[name] / statistics.median(times[name]) for name in timed}
    for name in timed:
        print(f"  {name:<9} {rate[name]:10.0f} tokens/s, {memory[name]:5.2f} GB above the models")
    print(f"  evaluate / bare {rate['evaluate'] / rate['bare']:.3f} (0.87), evaluate / guide "
          f"{rate['evaluate'] / rate['guide']:.3f} (1.0), compare / two bare "
          f"{rate['compare'] / rate['two bare']:.3f} (0.83)", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shapes", help="of 1b, 8b, small; default: small on a CPU, else 1b")
    parser.add_argument("--windows", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    on_cpu = arguments.device == "cpu"
    kernels = "Triton's kernels" if device_kernels(arguments.device.split(":")[0]) else "torch"
    name = "CPU" if on_cpu else torch.cuda.get_device_name(arguments.device)
    print(f"{name}, torch {torch.__version__}, statistics by {kernels}")
    for shape in (arguments.shapes or ("small" if on_cpu else "1b")).split(","):
        window = 128 if shape == "small" else 2048
        measure(
            shape,
            arguments.device,
            arguments.windows or 8,
            window,
            arguments.rounds,
        )


if __name__ == "__main__":
    main()
