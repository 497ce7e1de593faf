"""Checks of the kernels of accelerators, on the device that is named; run by test_device_sums.

``python device_sums_checks.py cuda`` runs them on a GPU.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from kullback.errors import InvalidValueError
from kullback.predictions.base import DensePredictions, FactoredPredictions, Head
from kullback.scoring.device_sums import device_kernels
from kullback.scoring.divergence import DivergenceStatistics, divergence_statistics
from kullback.scoring.token_statistics import TokenStatistics, token_statistics

DEVICE = sys.argv[1] if len(sys.argv) > 1 else "cpu"
# Two blocks of columns, the second of which is short; on a GPU more rows than are read at once.
ROWS, V = (4, 5000) if DEVICE == "cpu" else (600, 60000)


def noise(seed: int, columns: int = V) -> Tensor:
    """Standard normal numbers, always the same."""
    return torch.randn(ROWS, columns, generator=torch.Generator().manual_seed(seed))


def targets(columns: int = V) -> Tensor:
    """Target tokens from the first column to the last."""
    return torch.arange(ROWS) * (columns - 1) // (ROWS - 1)


def statistics(logits: Tensor, top_k: int = 0) -> TokenStatistics:
    """The statistics of logits on the device."""
    predictions = DensePredictions(logits.to(DEVICE))
    return token_statistics(predictions, targets(logits.shape[1]), top_k)


def divergences(p_logits: Tensor, q_logits: Tensor) -> DivergenceStatistics:
    """The divergences of logits on the device."""
    first, second = (DensePredictions(logits.to(DEVICE)) for logits in (p_logits, q_logits))
    columns = min(p_logits.shape[1], q_logits.shape[1])
    return divergence_statistics(first, second, targets(columns))


MEASURES = ("kl", "reverse_kl", "jensen_shannon", "total_variation")


def brute_force(p_logits: Tensor, q_logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """KL(p‖q), KL(q‖p), Jensen-Shannon and total variation in float64."""
    log_p, log_q = (torch.log_softmax(x.double(), dim=1) for x in (p_logits, q_logits))
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)

    def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
        terms = log_p.exp() * (log_p - log_q)
        return torch.where(log_p == -torch.inf, 0, terms).sum(dim=1)

    js = (kl(log_p, log_m) + kl(log_q, log_m)) / 2
    return kl(log_p, log_q), kl(log_q, log_p), js, (log_p.exp() - log_q.exp()).abs().sum(dim=1) / 2


def close(actual: np.ndarray, expected: Tensor, relative: float, absolute: float = 0.0) -> None:
    """Check the largest difference."""
    np.testing.assert_allclose(actual, expected.double().cpu().numpy(), relative, absolute)


def check_statistics_of_one_model() -> None:
    """All columns of the statistics against float64."""
    logits = 3 * noise(1)
    actual = statistics(logits, top_k=10)
    log_p = torch.log_softmax(logits.double(), dim=1)
    of_target = logits.gather(1, targets()[:, None])
    close(actual.nll, -log_p.gather(1, targets()[:, None])[:, 0], 0, 2e-6)
    close(actual.entropy, -(log_p.exp() * log_p).sum(dim=1), 0, 2e-6)
    close(actual.sum_of_squares, log_p.exp().square().sum(dim=1), 1e-5)
    np.testing.assert_array_equal(actual.rank, 1 + (logits > of_target).sum(dim=1).numpy())
    tops = log_p.topk(10, dim=1)
    np.testing.assert_array_equal(actual.top_tokens, tops.indices.numpy())
    close(actual.top_log_probabilities, tops.values, 0, 2e-6)
    close(actual.top1_probability, tops.values[:, 0].exp(), 1e-5)


def check_equal_logits() -> None:
    """The most probable of equal tokens is the first, within a block and across blocks."""
    logits = torch.zeros(ROWS, V)
    logits[:, [7, 100, 4095, 4096, 4999]] = 1.0
    actual = statistics(logits, top_k=5)
    assert (actual.top1 == 7).all()
    np.testing.assert_array_equal(actual.top_tokens[0], [7, 100, 4095, 4096, 4999])


def check_top_tokens_of_many_blocks() -> None:
    """The largest of a row wherever they are: in one block, in several, equal, or fewer than K."""
    columns = 9 * 4096 + 7
    logits = noise(17, columns)
    logits[0, 4096 + torch.arange(6)] = 9.0 + torch.arange(6.0)  # all in the second block
    logits[1] = logits[1].round()  # many equal ones in all blocks
    logits[2] = -torch.inf
    logits[2, [3, 5 * 4096 + 1, columns - 1]] = torch.tensor([1.0, 2.0, 1.0])
    logits[3, 4096 * torch.tensor([8, 1, 4, 6, 2, 7])] = 9.0  # equal, one in each of six blocks
    actual = statistics(logits, top_k=5)
    _, order = logits.sort(dim=1, descending=True, stable=True)
    expected = order[:, :5].masked_fill(logits.gather(1, order[:, :5]) == -torch.inf, -1)
    np.testing.assert_array_equal(actual.top_tokens, expected.numpy())
    np.testing.assert_array_equal(statistics(logits).top1, order[:, 0].numpy())
    log_p = torch.log_softmax(logits.double(), dim=1).gather(1, order[:, :5])
    close(actual.top_log_probabilities, log_p, 0, 2e-6)
    pair = divergences(logits, torch.where(logits > 8, logits - 1, logits))
    np.testing.assert_array_equal(pair.top5_overlap[[0, 2, 3]], [5, 3, 5])


def check_divergences_of_all_sizes() -> None:
    """Five digits from KL 1e-6 to 26, wherever the logits' origin is."""
    for scale, origin in ((1.5e-3, 0.0), (0.02, 150.0), (0.3, 0.0), (1.0, 150.0), (10.0, 0.0)):
        p_logits = 3 * noise(2)
        q_logits = p_logits + scale * noise(3) + origin
        actual = divergences(p_logits, q_logits)
        expected = brute_force(p_logits, q_logits)
        for name, value in zip(MEASURES, expected, strict=True):
            close(getattr(actual, name), value, 1e-5)


def check_a_model_against_itself() -> None:
    """All divergences are exactly 0."""
    logits = 5 * noise(4)
    actual = divergences(logits, logits.clone())
    for name in MEASURES:
        assert (getattr(actual, name) == 0).all(), name
    assert (actual.top5_overlap == 5).all()
    assert actual.top1_agreement.all()


def check_excluded_tokens() -> None:
    """KL is infinite where the candidate excludes a token; JS counts it as float64 does."""
    p_logits, q_logits = 2 * noise(5), 2 * noise(6)
    p_logits[0, 5] = q_logits[1, 6] = -torch.inf
    p_logits[2, 9] = q_logits[2, 9] = -torch.inf
    actual = divergences(p_logits, q_logits)
    kl, reverse, js, _ = brute_force(p_logits[3:], q_logits[3:])
    assert actual.kl[1] == np.inf > actual.kl[0]
    assert actual.reverse_kl[0] == np.inf > actual.reverse_kl[1]
    assert np.isfinite(actual.kl[2])
    close(actual.kl[3:], kl, 1e-5)
    close(actual.reverse_kl[3:], reverse, 1e-5)
    close(actual.total_variation, brute_force(p_logits, q_logits)[3], 1e-6)
    log_p, log_q = (torch.log_softmax(x[:2].double(), dim=1) for x in (p_logits, q_logits))
    m = (log_p.exp() + log_q.exp()) / 2
    terms = [torch.where(p.exp() > 0, p.exp() * (p - m.log()), 0).sum(1) for p in (log_p, log_q)]
    close(actual.jensen_shannon[:2], sum(terms, torch.zeros(2)) / 2, 1e-5)
    close(actual.jensen_shannon[3:], js, 1e-5)


def check_total_variation_of_nearly_equal_models() -> None:
    """Where the KL is 1e-8, six digits of the total variation are those of float64."""
    p_logits = 3 * noise(15)
    q_logits = p_logits + 1.4e-4 * noise(16) + 10
    actual = divergences(p_logits, q_logits)
    close(actual.total_variation, brute_force(p_logits, q_logits)[3], 4e-6)


def check_padded_vocabulary() -> None:
    """The columns that only one model has are reported as padding."""
    p_logits, q_logits = noise(7), noise(8, V + 300)
    actual = divergences(p_logits, q_logits)
    close(actual.kl, brute_force(p_logits, q_logits[:, :V])[0], 1e-5)
    assert (actual.reference_padding == 0).all()
    close(actual.candidate_padding, torch.softmax(q_logits.double(), 1)[:, V:].sum(1), 1e-5)


def check_probability_of_the_top_token() -> None:
    """The candidate's probability of the reference's most probable token."""
    p_logits, q_logits = noise(9), noise(10)
    actual = divergences(p_logits, q_logits)
    q = torch.softmax(q_logits.double(), dim=1)
    close(actual.candidate_at_reference_top1, q.gather(1, p_logits.argmax(1)[:, None])[:, 0], 1e-5)


def refusal(logits: Tensor) -> str:
    """The message of the error that logits raise; empty where they are accepted."""
    try:
        statistics(logits)
    except InvalidValueError as error:
        return str(error)
    return ""


def check_damaged_logits() -> None:
    """NaN, +inf and a row of only -inf are refused with the row's number."""
    for value, content in ((torch.nan, "NaN"), (torch.inf, "+inf"), (-torch.inf, "only -inf")):
        logits = noise(11)
        logits[1, 4500:] = value
        if content == "only -inf":
            logits[1] = value
        message = refusal(logits)
        assert "row 1" in message, message
        assert content in message, message


def check_factored_predictions() -> None:
    """A head's logits, the target's made in float64, give the statistics of the same logits."""
    generator = torch.Generator().manual_seed(12)
    hidden, weight = (torch.randn(n, 32, generator=generator) for n in (ROWS, 3000))
    head = Head(weight.to(DEVICE), torch.linspace(-1, 1, 3000).to(DEVICE), 0.5, 20.0)
    actual = token_statistics(FactoredPredictions(hidden.to(DEVICE), head), targets(3000))
    logits = (hidden.double() @ weight.double().T + torch.linspace(-1, 1, 3000).double()) * 0.5
    log_p = torch.log_softmax(20 * (logits / 20).tanh(), dim=1)
    close(actual.nll, -log_p.gather(1, targets(3000)[:, None])[:, 0], 0, 2e-5)


def check_16_bit_head() -> None:
    """Products of 16-bit numbers are exact: the logits are those of the widened numbers.

    Of 5,000 products the sums are made in three parts.
    """
    generator = torch.Generator().manual_seed(13)
    for width, error in ((256, 2e-4), (5000, 1e-3)):
        hidden, weight = (
            torch.randn(n, width, generator=generator).bfloat16() for n in (ROWS, 3000)
        )
        head = Head(weight.to(DEVICE), product_dtype=torch.bfloat16)
        logits = head.logits(hidden.float().to(DEVICE))
        assert logits.dtype == torch.float32
        close(logits.cpu().numpy(), hidden.double() @ weight.double().T, 1e-5, error)


def check_float64_is_left_to_torch() -> None:
    """A float64 model keeps its digits."""
    logits = 3 * noise(14).double()
    actual = statistics(logits)
    expected = -torch.log_softmax(logits, dim=1).gather(1, targets()[:, None])[:, 0]
    close(actual.nll, expected, 1e-13)


def check_one_column() -> None:
    """A vocabulary of one token has no surprise."""
    actual = token_statistics(
        DensePredictions(torch.zeros(2, 1, device=DEVICE)), torch.zeros(2, dtype=torch.int64)
    )
    assert (actual.nll == 0).all()
    assert (actual.entropy == 0).all()


def checks() -> Iterator[str]:
    """Run all checks."""
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            check()
            yield name


if __name__ == "__main__":
    if device_kernels(torch.device(DEVICE).type) is None:
        sys.exit("the kernels do not run here")
    print(len(list(checks())), "checks")
