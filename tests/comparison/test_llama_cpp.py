"""llama.cpp's statistics of two files, against its formulas written out token by token."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax

from kullback.comparison.llama_cpp import (
    LlamaCppStatistics,
    TokenColumns,
    check_same_tokens,
    llama_cpp_statistics,
)
from kullback.errors import InvalidValueError
from kullback.predictions.llama_cpp_logits import LlamaCppLogits
from kullback.uncertainty.intervals import mean_with_interval
from tiny_logits import write_logits

CHUNKS, CONTEXT, V = 20, 16, 41
ROWS = CHUNKS * (CONTEXT - 1 - CONTEXT // 2)
f32 = np.float32


def files(
    folder: Path, scale: float = 0.3, spread: float = 3.0, chunks: int = CHUNKS
) -> tuple[LlamaCppLogits, LlamaCppLogits]:
    """The files of a base model and of one nearby."""
    rng = np.random.default_rng(0)
    rows = chunks * (CONTEXT - 1 - CONTEXT // 2)
    tokens = rng.integers(0, V, (chunks, CONTEXT))
    logits = rng.normal(size=(rows, V)) * spread
    write_logits(folder / "base", tokens, logits)
    write_logits(folder / "q", tokens, logits + rng.normal(size=(rows, V)) * scale)
    return LlamaCppLogits.open(folder / "base"), LlamaCppLogits.open(folder / "q")


def statistics(base: LlamaCppLogits, q: LlamaCppLogits) -> LlamaCppStatistics:
    """The statistics of a model whose logits are those of the file Q."""
    rows = slice(0, len(base))
    return llama_cpp_statistics(base, TokenColumns.of(base, rows, q.log_probabilities(rows)))


def literally(base: LlamaCppLogits, q: LlamaCppLogits) -> dict[str, tuple[float, float | None]]:
    """Each printed value and its ±, with a loop over tokens and words."""
    sums = dict.fromkeys(("nll", "nll2", "base", "base2", "both", "kld", "kld2"), 0.0)
    changes, klds, same = [], [], 0
    for row in range(len(base)):
        token = base.targets[row]
        log_p = base.log_probabilities(slice(row, row + 1))[0]
        logits = q.log_probabilities(slice(row, row + 1))[0]
        log_sum = f32(math.log(sum(float(np.exp(x - max(logits))) for x in logits)))
        top = max(logits) + log_sum
        nll, nll_base = top - logits[token], -log_p[token]
        kld = 0.0
        for i in range(V):
            if log_p[i] > f32(-16):
                kld += float(np.exp(log_p[i]) * (log_p[i] - logits[i] + top))
        sums["nll"] += float(nll)
        sums["nll2"] += float(nll * nll)
        sums["base"] += float(nll_base)
        sums["base2"] += float(nll_base * nll_base)
        sums["both"] += float(nll * nll_base)
        sums["kld"] += kld
        sums["kld2"] += kld * kld
        klds.append(kld)
        changes.append(np.exp(-nll) - np.exp(-nll_base))
        same += int(np.argmax(logits) == np.argmax(log_p))
    n = len(base)

    def mean(total: float, total2: float) -> tuple[float, float]:
        variance = total2 / n - (total / n) ** 2
        return total / n, math.sqrt(variance / (n - 1)) if variance > 0 and n > 10 else 0.0

    a, da = mean(sums["nll"], sums["nll2"])
    b, db = mean(sums["base"], sums["base2"])
    cov = (sums["both"] / n - a * b) / (n - 1)
    d_ratio = math.sqrt(da * da + db * db - 2 * cov)
    A, B = math.exp(a), math.exp(b)
    squares = [float(c * c) for c in changes]
    p, dp = mean(sum(map(float, changes)), sum(squares))
    mse, d_mse = mean(sum(squares), sum(s * s for s in squares))
    found: dict[str, tuple[float, float | None]] = {
        "Mean PPL(Q)": (A, A * da),
        "Mean PPL(base)": (B, B * db),
        "Cor(ln(PPL(Q)), ln(PPL(base)))": (cov / (da * db), None),
        "Mean ln(PPL(Q)/PPL(base))": (a - b, d_ratio),
        "Mean PPL(Q)/PPL(base)": (A / B, A / B * d_ratio),
        "Mean PPL(Q)-PPL(base)": (
            A - B,
            math.sqrt((A * da) ** 2 + (B * db) ** 2 - 2 * A * B * cov),
        ),
        "Mean KLD": mean(sums["kld"], sums["kld2"]),
        "Mean Δp": (p, dp),
        "RMS Δp": (math.sqrt(mse), 0.5 / math.sqrt(mse) * d_mse),
        "Same top p": (same / n, math.sqrt(same / n * (1 - same / n) / (n - 1))),
    }
    shares = {"99.9%": 0.999, "99.0%": 0.99, "95.0%": 0.95, "90.0%": 0.9, "Median": 0.5,
              "10.0%": 0.1, "5.0%": 0.05, "1.0%": 0.01, "0.1%": 0.001}  # fmt: skip
    for what, values in (("KLD", klds), ("Δp", changes)):
        ordered = np.sort(np.array(values, dtype=np.float32)).astype(np.float64)
        more = {"75.0%": 0.75, "25.0%": 0.25} if what == "Δp" else {}
        for name, share in {**shares, **more}.items():
            found[f"{name} {what}"] = (float(np.quantile(ordered, share)), None)
        found[f"Maximum {what}"] = (ordered[-1], None)
        found[f"Minimum {what}"] = (ordered[0], None)
    return found


def all_of(found: LlamaCppStatistics) -> dict[str, tuple[float, float | None]]:
    """Values and errors by name."""
    return {
        name: (one.value, one.error)
        for section in found.sections.values()
        for name, one in section.items()
    }


@pytest.mark.parametrize(("scale", "spread"), [(0.3, 3.0), (0.01, 1.0), (3.0, 8.0)])
def test_every_number_is_that_of_the_formulas(scale: float, spread: float, tmp_path: Path) -> None:
    """All means, errors, percentiles and extremes are those of a loop over tokens and words."""
    pair = files(tmp_path, scale, spread)
    found, expected = all_of(statistics(*pair)), literally(*pair)
    assert found.keys() == expected.keys()
    for name, (value, error) in expected.items():
        assert found[name][0] == pytest.approx(value, rel=2e-5, abs=2e-7), name
        assert (found[name][1] is None) == (error is None), name
        if error is not None:
            assert found[name][1] == pytest.approx(error, rel=1e-3, abs=1e-9), name


def test_names_stand_in_the_order_of_the_printout(tmp_path: Path) -> None:
    """The sections and their first and last lines are those of llama.cpp."""
    found = statistics(*files(tmp_path))
    assert [
        (title, next(iter(each)), list(each)[-1]) for title, each in found.sections.items()
    ] == [
        ("Perplexity statistics", "Mean PPL(Q)", "Mean PPL(Q)-PPL(base)"),
        ("KL divergence statistics", "Mean KLD", "Minimum KLD"),
        ("Token probability statistics", "Mean Δp", "Same top p"),
    ]
    text = str(found)
    assert f"{100 * found['Same top p'].value:.3f} ± " in text
    assert f"{found['Mean KLD'].value:.6f} ± " in text
    with pytest.raises(KeyError):
        found["Mean"]


def test_our_interval_is_that_over_chunks(tmp_path: Path) -> None:
    """Beside each mean stands the same value with an interval whose clusters are chunks."""
    base, q = files(tmp_path)
    found = statistics(base, q)
    for section in found.sections.values():
        for name, one in section.items():
            if name.startswith(("Mean", "RMS", "Same")):
                assert one.ours is not None, name
                assert one.ours.value == pytest.approx(one.value, rel=1e-6), name
                assert one.ours.clusters == CHUNKS, name
                low, high = one.ours.interval
                assert low < one.value < high, name
    chunk = np.repeat(np.arange(CHUNKS), base.rows_per_chunk)
    nll = {
        name: -np.take_along_axis(x, base.targets[:, None], 1)[:, 0].astype(np.float64)
        for name, x in (
            ("base", base.log_probabilities(slice(0, ROWS))),
            ("q", log_softmax(q.log_probabilities(slice(0, ROWS)).astype(np.float64), axis=1)),
        )
    }
    expected = mean_with_interval(nll["q"] - nll["base"], chunk, "nats/token")
    ours = found["Mean ln(PPL(Q)/PPL(base))"].ours
    assert ours is not None
    np.testing.assert_allclose(ours.interval, expected.interval, rtol=1e-4)
    # The difference of perplexities, by moving each chunk's weight a little.
    difference = found["Mean PPL(Q)-PPL(base)"].ours
    assert difference is not None
    leave_one_out = np.array(
        [
            math.exp(nll["q"][chunk != c].mean()) - math.exp(nll["base"][chunk != c].mean())
            for c in range(CHUNKS)
        ]
    )
    jackknife = math.sqrt((CHUNKS - 1) * leave_one_out.var())
    assert difference.standard_error == pytest.approx(jackknife, rel=0.1)


def test_correlated_tokens_widen_our_interval_only(tmp_path: Path) -> None:
    """Where all tokens of a chunk are as far apart, ours is wider than llama.cpp's."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, V, (CHUNKS, CONTEXT))
    logits = rng.normal(size=(ROWS, V)) * 2
    per_chunk = np.repeat(np.geomspace(0.05, 1, CHUNKS), ROWS // CHUNKS)[:, None]
    write_logits(tmp_path / "base", tokens, logits)
    write_logits(tmp_path / "q", tokens, logits + per_chunk * rng.normal(size=(ROWS, V)))
    pair = (LlamaCppLogits.open(tmp_path / name) for name in ("base", "q"))
    kld = statistics(*pair)["Mean KLD"]
    assert kld.ours is not None
    assert kld.error is not None
    assert kld.ours.standard_error > 1.8 * kld.error
    assert kld.ours.independent_error == pytest.approx(kld.error, rel=1e-6)


def test_q_rounded_to_its_file_moves_kl_by_less_than_a_step(tmp_path: Path) -> None:
    """The KL from Q's file is within 2.4e-4 nats of that from its logits, if none is clipped."""
    base, q = files(tmp_path, scale=0.5, spread=2.0)
    rng = np.random.default_rng(0)
    rng.integers(0, V, (CHUNKS, CONTEXT))
    logits = rng.normal(size=(ROWS, V)) * 2.0
    logits_q = logits + rng.normal(size=(ROWS, V)) * 0.5
    assert np.ptp(logits_q, axis=1).max() < 16
    log_p = base.log_probabilities(slice(0, ROWS)).astype(np.float64)
    kld = (np.exp(log_p) * (log_p - log_softmax(logits_q, axis=1))).sum(axis=1)
    found = statistics(base, q)
    assert found["Mean KLD"].value == pytest.approx(kld.mean(), abs=16 / 65535)
    assert found["Maximum KLD"].value == pytest.approx(kld.max(), abs=16 / 65535)


def test_a_model_beside_itself_has_no_divergence(tmp_path: Path) -> None:
    """The same file twice: same top everywhere, no Δp, a ratio of one; 0/0 is NaN as in C."""
    base, _ = files(tmp_path)
    found = statistics(base, base)
    assert found["Same top p"].value == 1.0
    assert abs(found["Mean KLD"].value) < 1e-4
    assert abs(found["Maximum Δp"].value) < 1e-4
    assert found["Mean PPL(Q)/PPL(base)"].value == pytest.approx(1.0, abs=1e-4)
    assert str(found)


def test_ten_tokens_have_no_error(tmp_path: Path) -> None:
    """As in llama.cpp, the error of a mean of so few values is 0."""
    found = statistics(*files(tmp_path, chunks=1))
    assert found.tokens == 7
    assert found["Mean KLD"].error == 0.0
    assert math.isnan(found["Cor(ln(PPL(Q)), ln(PPL(base)))"].value)


@pytest.mark.parametrize(
    ("shape", "words", "shift", "message"),
    [
        ((CHUNKS, CONTEXT), V + 1, 0, "vocabulary of 41, .* of 42"),
        ((CHUNKS - 1, CONTEXT), V, 0, "20 chunks of 16 tokens, .* 19 of 16"),
        ((CHUNKS, CONTEXT), V, 1, "different texts: token 3 of chunk 2"),
    ],
)
def test_files_of_other_texts_are_refused(
    shape: tuple[int, int], words: int, shift: int, message: str, tmp_path: Path
) -> None:
    """Another vocabulary, another number of chunks and other tokens are each named."""
    base, _ = files(tmp_path)
    tokens = base.tokens_CT[: shape[0]].copy()
    tokens[2, 3] = (tokens[2, 3] + shift) % V
    rows = shape[0] * base.rows_per_chunk
    write_logits(tmp_path / "other", tokens, np.zeros((rows, words)))
    with pytest.raises(InvalidValueError, match=message):
        check_same_tokens(base, LlamaCppLogits.open(tmp_path / "other"))
