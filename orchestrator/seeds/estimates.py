"""Means over seeds with Student's intervals, of values and of paired differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["CONFIDENCE", "Estimate", "estimate", "paired_difference"]

CONFIDENCE = 0.95
"""Probability with which the intervals contain the mean, if values are normally distributed."""


@dataclass(frozen=True)
class Estimate:
    """Mean of several values and its interval.

    Args:
        count: Number of values.
        mean: Mean of the values.
        deviation: Standard deviation of the values; None for a single one.
        half_width: Half of the interval of `CONFIDENCE` around the mean; None for a single value.
    """

    count: int
    mean: float
    deviation: float | None
    half_width: float | None

    @property
    def is_resolved(self) -> bool:
        """True if the interval does not contain zero."""
        return self.half_width is not None and abs(self.mean) > self.half_width

    def as_dict(self) -> dict[str, float | int | None]:
        """Return plain data, with both ends of the interval."""
        ends = (None, None) if self.half_width is None else (self.mean - self.half_width, self.mean + self.half_width)
        return {"n": self.count, "mean": self.mean, "deviation": self.deviation, "low": ends[0], "high": ends[1]}


def estimate(values: Sequence[float]) -> Estimate | None:
    """Return the mean of values with the interval of Student's t distribution; None for no values.

    Args:
        values: Values of independent repetitions.
    """
    if not values:
        return None
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return Estimate(1, mean, None, None)
    from scipy.stats import t  # takes half a second to import

    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    quantile = float(t.ppf((1 + CONFIDENCE) / 2, count - 1))
    return Estimate(count, mean, deviation, quantile * deviation / math.sqrt(count))


def paired_difference(values: Mapping[int, float], control: Mapping[int, float]) -> Estimate | None:
    """Return the mean of the differences to a control over the seeds that both have; None without any.

    Args:
        values: Value by seed.
        control: Value of the control by seed.
    """
    return estimate([values[seed] - control[seed] for seed in sorted(values.keys() & control.keys())])
