"""Forecast against truth: how long each finished request was expected to be, and how long it was.

Sums are kept of all requests, pairs of a sample of bounded size, so that a run of any length costs
the same memory. The sample is every k-th finished request; k doubles whenever it is full.
"""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Pairs kept at most: 128 KiB.
MOST_PAIRS = 16384


@dataclass(frozen=True, slots=True)
class ForecastAccuracy:
    """Accuracy over all finished requests, lengths in output tokens.

    `mean_error` is that of forecast minus actual; `within_double` is the share of requests whose
    forecast is between half and double the actual length.
    """

    num_requests: int
    mean_forecast: float
    mean_actual: float
    mean_error: float
    mean_absolute_error: float
    within_double: float


class ForecastLog:
    """Takes pairs of (forecast, actual) output tokens as requests end."""

    def __init__(self, most_pairs: int = MOST_PAIRS) -> None:
        self.num_requests = 0
        self.sum_forecast = 0
        self.sum_actual = 0
        self._sum_absolute = 0
        self._num_within_double = 0
        self._most = most_pairs
        self._every = 1
        self._forecasts = array("I")
        self._actuals = array("I")

    def add(self, forecast: int, actual: int) -> None:
        """Take a finished request's forecast and length."""
        if self.num_requests % self._every == 0:
            self._keep(forecast, actual)
        self.num_requests += 1
        self.sum_forecast += forecast
        self.sum_actual += actual
        self._sum_absolute += abs(forecast - actual)
        self._num_within_double += forecast <= 2 * actual and actual <= 2 * forecast

    def pairs(self) -> list[tuple[int, int]]:
        """(forecast, actual) of the sample, in the order in which requests ended."""
        return list(zip(self._forecasts, self._actuals, strict=True))

    def accuracy(self) -> ForecastAccuracy | None:
        """Over all requests so far; None before the first."""
        count = self.num_requests
        if not count:
            return None
        return ForecastAccuracy(
            num_requests=count,
            mean_forecast=self.sum_forecast / count,
            mean_actual=self.sum_actual / count,
            mean_error=(self.sum_forecast - self.sum_actual) / count,
            mean_absolute_error=self._sum_absolute / count,
            within_double=self._num_within_double / count,
        )

    def as_dict(self) -> dict[str, Any]:
        """All there is to it, as plain values."""
        return {
            "num_requests": self.num_requests,
            "sum_forecast": self.sum_forecast,
            "sum_actual": self.sum_actual,
            "sum_absolute_error": self._sum_absolute,
            "num_within_double": self._num_within_double,
            "every": self._every,
            "forecasts": self._forecasts.tolist(),
            "actuals": self._actuals.tolist(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ForecastLog":
        """The log that `as_dict` made these values of.

        Raises:
            KeyError, TypeError: they are not such values.
        """
        log = cls()
        log.num_requests = int(values["num_requests"])
        log.sum_forecast = int(values["sum_forecast"])
        log.sum_actual = int(values["sum_actual"])
        log._sum_absolute = int(values["sum_absolute_error"])
        log._num_within_double = int(values["num_within_double"])
        log._every = int(values["every"])
        log._forecasts = array("I", values["forecasts"])
        log._actuals = array("I", values["actuals"])
        return log

    def _keep(self, forecast: int, actual: int) -> None:
        if len(self._forecasts) == self._most:
            self._forecasts, self._actuals = self._forecasts[::2], self._actuals[::2]
            self._every *= 2
            if self.num_requests % self._every:
                return
        self._forecasts.append(forecast)
        self._actuals.append(actual)
