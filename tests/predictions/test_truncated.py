"""Truncated predictions: exact for the tokens that they keep, refused where all are needed."""

from __future__ import annotations

import pytest
import torch

from kullback.errors import InvalidValueError
from kullback.predictions.truncated import TruncatedPredictions, truncate
from kullback.scoring.divergence import divergence_statistics
from kullback.scoring.token_statistics import token_statistics
from tiny_recordings import V, dense, targets


@pytest.mark.parametrize("k", [1, 7, V])
def test_all_probabilities_sum_to_one(k: int) -> None:
    """The top k, the target and the rest have the mass of the whole distribution."""
    logits, target = dense(), torch.from_numpy(targets(30))
    top = TruncatedPredictions.of(logits, target, k)
    log_p = torch.log_softmax(logits.logits_MV.double(), dim=1)
    expected, tokens = log_p.topk(k)
    assert torch.equal(top.top_tokens_MK, tokens)
    torch.testing.assert_close(top.top_log_probabilities_MK, expected, rtol=0, atol=1e-12)
    outside = (tokens != target[:, None]).all(dim=1)
    mass = expected.exp().sum(dim=1) + top.target_log_probability_M.exp() * outside
    mass += top.log_rest_M.exp()
    torch.testing.assert_close(mass, torch.ones_like(mass), rtol=0, atol=1e-12)


def test_a_rest_that_underflows_is_not_zero() -> None:
    """The mass of tokens 1,000 nats below the largest is known as a logarithm."""
    logits = dense(rows=1)
    logits.logits_MV[0] = -1000.0
    logits.logits_MV[0, 3] = 0.0
    (columns,) = truncate(logits, torch.tensor([3]), V, k=1)
    expected = torch.tensor([V - 1.0], dtype=torch.float64).log() - 1000.0
    torch.testing.assert_close(columns["log_rest"], expected)


def test_measures_of_whole_distributions_refuse_truncated_ones() -> None:
    """Entropy and KL are not computed from the top k as if it were all."""
    tokens = torch.from_numpy(targets(30))
    top = TruncatedPredictions.of(dense(), tokens, k=4)
    with pytest.raises(InvalidValueError, match="4 most probable of 61 tokens"):
        token_statistics(top, tokens)
    for pair in ((top, dense()), (dense(), top)):
        with pytest.raises(InvalidValueError, match="whole distribution"):
            divergence_statistics(*pair, tokens)
