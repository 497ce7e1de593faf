"""Forecasts and outcomes of the tokens of a text, and their checks.

Axes: M tokens, m those of one part, in text order.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from kullback.errors import InvalidValueError
from kullback.uncertainty.documents import document_order
from kullback.uncertainty.sweeps import Computation, Task, mapped, one_pass, together

__all__ = ["ForecastRows", "ResidualRows", "checked", "document_rows", "forecast_rows"]

Result = TypeVar("Result")


class ForecastRows(NamedTuple):
    """A part of the rows of a text: what was forecast, and what came."""

    document_m: Int[np.ndarray, "m"] | None
    forecast_m: Float[np.ndarray, "m"]
    outcome_m: Num[np.ndarray, "m"] | Bool[np.ndarray, "m"]


class ResidualRows(NamedTuple):
    """A part of the rows of a text: forecasts up to 1, and outcome − forecast."""

    document_m: Int[np.ndarray, "m"] | None
    forecast_m: Float[np.ndarray, "m"]
    residual_m: Float[np.ndarray, "m"]


def document_rows(rows: ResidualRows) -> tuple[Int[np.ndarray, "m"] | None, int]:
    """The document of each row, and the number of rows."""
    return rows.document_m, len(rows.forecast_m)


def checked(computation: Computation[ResidualRows, Result]) -> Computation[ForecastRows, Result]:
    """A computation on the residuals of forecasts that are checked in the first pass.

    Raises `InvalidValueError` for forecasts outside [0, 1], NaN and infinity.
    """
    task = Task(mapped(_residuals, computation))
    yield from together(Task(one_pass(_Checks())), task)
    return task.result


def _residuals(rows: ForecastRows) -> ResidualRows:
    forecast_m = np.minimum(rows.forecast_m, 1.0)
    return ResidualRows(rows.document_m, forecast_m, rows.outcome_m - forecast_m)


class _Checks:
    """The check of forecasts and outcomes."""

    def __init__(self) -> None:
        self._row = 0

    def add(self, rows: ForecastRows, /) -> None:
        # A probability may round to slightly above 1.
        wrong = np.flatnonzero(~((rows.forecast_m >= 0) & (rows.forecast_m <= 1 + 1e-6)))
        if len(wrong):
            token = int(wrong[0])
            raise InvalidValueError(
                f"forecast[{self._row + token}] is {rows.forecast_m[token]}: a probability must be "
                "in [0, 1]"
            )
        wrong = np.flatnonzero(~np.isfinite(rows.outcome_m))
        if len(wrong):
            token = int(wrong[0])
            raise InvalidValueError(
                f"outcome[{self._row + token}] is {rows.outcome_m[token]}: it must be finite"
            )
        self._row += len(rows.forecast_m)


def forecast_rows(
    forecast_M: Float[np.ndarray, "M"],
    outcome_M: Num[np.ndarray, "M"] | Bool[np.ndarray, "M"],
    document_M: Int[np.ndarray, "M"] | None,
) -> ForecastRows:
    """Arrays as one part, document by document.

    Raises `InvalidValueError` for unequal lengths and where there are none.
    """
    forecast = np.asarray(forecast_M, dtype=np.float64)
    outcome = np.asarray(outcome_M, dtype=np.float64)
    if forecast.ndim != 1 or forecast.shape != outcome.shape or len(forecast) == 0:
        raise InvalidValueError(
            f"forecast has shape {forecast.shape} and outcome {outcome.shape}: give as many "
            "forecasts as outcomes, at least one"
        )
    document = None if document_M is None else np.asarray(document_M)
    if document is not None and document.shape != forecast.shape:
        raise InvalidValueError(
            f"document has shape {document.shape} for {len(forecast)} forecasts: give one entry a "
            "token"
        )
    rows = ForecastRows(document, forecast, outcome)
    order_M = document_order(document)
    if order_M is None or document is None:
        return rows
    _Checks().add(rows)  # before the tokens get other numbers
    return ForecastRows(document[order_M], forecast[order_M], outcome[order_M])
