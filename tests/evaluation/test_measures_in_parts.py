"""Measures of a text whose rows come in parts are those of the whole."""

from __future__ import annotations

import math
import re
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import msgspec
import numpy as np
import pytest

from kullback.errors import InvalidValueError
from kullback.evaluation.measures import (
    InMemory,
    Places,
    TextMeasures,
    TextPart,
    measure_text,
)
from kullback.scoring.token_statistics import TokenStatistics


@dataclass(frozen=True, eq=False)
class InParts:
    """Rows that begin a new part at each of `cuts`."""

    rows: InMemory
    cuts: list[int]

    def __len__(self) -> int:
        return len(self.rows)

    def parts(self) -> Iterator[TextPart]:
        """The parts, some of them perhaps empty."""
        for first, last in zip([0, *self.cuts], [*self.cuts, len(self)], strict=True):
            yield (
                sliced(self.rows.statistics, slice(first, last)),
                sliced(self.rows.places, slice(first, last)),
            )


@dataclass(frozen=True, eq=False)
class Generated:
    """Rows that are made when they are read."""

    count: int
    size: int

    def __len__(self) -> int:
        return self.count * self.size

    def parts(self) -> Iterator[TextPart]:
        """Parts of `size` rows."""
        for part in range(self.count):
            rows = text([self.size], seed=part)
            yield rows.statistics, rows.places


def sliced(rows, part: slice):
    """Some of the rows."""
    return replace(rows, **{f.name: getattr(rows, f.name)[part] for f in fields(rows)})


def text(sizes: list[int], seed: int = 0, dtype: type = np.float32) -> InMemory:
    """Rows of documents of these sizes, whose tokens are correlated."""
    rng, M = np.random.default_rng(seed), sum(sizes)
    confidence = rng.beta(0.8, 1.0, M).astype(dtype).astype(np.float64)
    confidence[rng.random(M) < 0.1] = 1.0  # equal values share a bin
    hit = rng.random(M) < confidence**1.2
    slow = 1 + 0.5 * np.sin(np.arange(M) / 400)
    nll = np.where(hit, 0.1, rng.standard_exponential(M) * 3) * slow
    statistics = replace(
        TokenStatistics.empty(M),
        nll=nll,
        entropy=rng.random(M) * slow,
        rank=np.where(hit, 1, rng.integers(2, 20, M)),
        top1_probability=confidence,
        sum_of_squares=(confidence**2).astype(dtype).astype(np.float64),
    )
    bytes_M = rng.integers(1, 8, M)
    return InMemory(
        statistics,
        Places(
            document_M=np.repeat(np.arange(len(sizes)), sizes),
            position_M=np.arange(M) % 512 + 1,
            bytes_M=bytes_M,
            words_M=bytes_M / 5.5,
            weight_M=rng.choice([1.0, 0.875], M),
        ),
    )


TEXTS: dict[str, list[int]] = {
    "one document": [150_001],
    "three long documents": [70_000, 90_010, 66_000],
    "many short documents": np.random.default_rng(1).integers(1, 60, 1000).tolist(),
    "a long one and short ones": [30_000, *[40] * 50, 700],
}


def flat(measured: TextMeasures) -> dict[str, object]:
    """Every number and text of the measures, by its place."""
    values: dict[str, object] = {}

    def visit(name: str, value: object) -> None:
        if isinstance(value, dict):
            for key, part in value.items():
                visit(f"{name}.{key}", part)
        elif isinstance(value, list | tuple | np.ndarray):
            for key, part in enumerate(value):
                visit(f"{name}[{key}]", part)
        elif isinstance(value, msgspec.Struct):
            visit(name, msgspec.structs.asdict(value))
        elif hasattr(value, "__dataclass_fields__"):
            for field in fields(value):
                visit(f"{name}.{field.name}", getattr(value, field.name))
        else:
            values[name] = value

    visit("", measured)
    return values


# Drawn from a covariance whose null space is chance: equal to rounding of its smallest eigenvalues.
DRAWN = re.compile(r"by_chance|(ece|calibration_error|squared_error|rms_error)\.bounds")


@pytest.mark.parametrize("sizes", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parts_give_what_the_whole_gives(sizes: list[int], dtype: type) -> None:
    """Seven uneven parts, one of them empty, give every measure of one part to rounding."""
    rows = text(sizes, dtype=dtype)
    cuts = [int(len(rows) * share) for share in (0.02, 0.3, 0.31, 0.31, 0.6, 0.95)]
    whole, parts = measure_text(rows), measure_text(InParts(rows, cuts))
    expected, values = flat(whole), flat(parts)
    assert values.keys() == expected.keys()
    assert len(values) > 500
    for name, value in expected.items():
        if isinstance(value, float):
            relative = 1e-8 if DRAWN.search(name) else 1e-12
            assert values[name] == pytest.approx(value, rel=relative, abs=0, nan_ok=True), name
        else:
            assert values[name] == value, name
    for a, b in zip(whole.calibration.diagram, parts.calibration.diagram, strict=True):
        assert (a.low, a.high, a.weight) == (b.low, b.high, b.weight)


@pytest.mark.parametrize("parts", [1, 300])
def test_many_documents_need_other_passes_only(parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where sums over documents would be too many for the memory, every measure is the same."""
    rows = text(TEXTS["many short documents"])
    expected = flat(measure_text(rows))
    monkeypatch.setattr("kullback.uncertainty.bin_sums.MANY_DOCUMENTS", 999)
    monkeypatch.setattr("kullback.uncertainty.bin_sums.BLOCK", 50)
    monkeypatch.setattr("kullback.evaluation.measures.MOST_DOCUMENT_SUMS", 5000)
    cuts = np.linspace(0, len(rows), parts + 1).astype(int)[1:-1].tolist()
    values = flat(measure_text(InParts(rows, cuts)))
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, float):
            assert values[name] == pytest.approx(value, rel=1e-11, abs=0, nan_ok=True), name
        else:
            assert values[name] == value, name


def test_memory_does_not_grow_with_the_text() -> None:
    """Three times as many parts of a document need no more memory."""

    def peak(parts: int) -> int:
        tracemalloc.start()
        measure_text(Generated(parts, 1 << 16))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    few = peak(4)
    assert peak(12) < 1.1 * few
    assert few < 100 * 2**20


def test_a_text_without_words_or_bytes() -> None:
    """Without words there is no word perplexity; without bytes the text cannot be measured."""
    rows = text([300])
    without_words = replace(rows.places, words_M=np.zeros(300))
    measures = measure_text(InMemory(rows.statistics, without_words)).measures
    assert "word_perplexity" not in measures
    assert "byte_perplexity" in measures
    without_bytes = replace(rows.places, bytes_M=np.zeros(300, np.int64))
    with pytest.raises(InvalidValueError, match="no byte"):
        measure_text(InMemory(rows.statistics, without_bytes))
    with pytest.raises(InvalidValueError, match="no token was scored"):
        measure_text(text([0]))


def test_damage_is_named_by_its_place_in_the_text() -> None:
    """A NaN in a later part has the number that its token has in the whole text."""
    rows = text([2000])
    rows.statistics.entropy[1500] = math.nan
    with pytest.raises(InvalidValueError, match="1500"):
        measure_text(InParts(rows, [700, 1400]))
    rows = text([2000])
    rows.statistics.nll[1500] = math.inf  # an answer
    measured = measure_text(InParts(rows, [700, 1400]))
    assert measured.measures["cross_entropy"].value == math.inf
    assert math.isfinite(measured.measures["entropy"].standard_error)
