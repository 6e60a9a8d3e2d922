"""Comparison of two samples: probability of superiority, effect sizes, tests, and the size a sample needs.

Values are signed so that larger is better. A value of minus infinity stands for a configuration that diverged: it
counts in ranks as worse than all others, and not in means.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from enum import StrEnum

import numpy as np

MOST_NEEDED = 1000
"""Largest size of a sample that is named; a difference that needs more is of no use."""
POWER = 0.8
_MAGNITUDES = ((0.147, "negligible"), (0.33, "small"), (0.474, "medium"))


class Unit(StrEnum):
    """Content of a sample."""

    SEEDS = "seeds"
    CONFIGURATIONS = "configurations"


def superiority(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the probability that a value of the first sample is larger than one of the other; ties count half.

    Args:
        one: Values of the first sample.
        other: Values of the other sample.
    """
    first, second = np.asarray(one)[:, None], np.asarray(other)[None, :]
    wins = np.count_nonzero(first > second) + np.count_nonzero(first == second) / 2
    return float(wins / (len(one) * len(other)))


def superiority_interval(share: float, sizes: tuple[int, int], level: float) -> tuple[float, float]:
    """Return a score interval of a probability of superiority, which stays within 0 and 1 and is never empty.

    It solves (share - p)^2 = z^2 V(p), with Newcombe's approximation of the variance of a Mann-Whitney statistic
    (Newcombe 2006, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic", method 5).
    A bootstrap would call three values that all beat three others certain.

    Args:
        share: Estimated probability.
        sizes: Sizes of both samples.
        level: Probability with which the interval contains the true value.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    product, excess = sizes[0] * sizes[1], (sizes[0] + sizes[1]) / 2 - 1
    squared = float(norm.ppf((1 + level) / 2)) ** 2

    def gap(p: float) -> float:
        variance = p * (1 - p) * (1 + excess * ((1 - p) / (2 - p) + p / (1 + p))) / product
        return (share - p) ** 2 - squared * variance

    low = 0.0 if share == 0.0 else float(brentq(gap, 0.0, share if share < 1.0 else 1.0 - 1e-12))
    high = 1.0 if share == 1.0 else float(brentq(gap, share if share > 0.0 else 1e-12, 1.0))
    return low, high


def magnitude(delta: float) -> str:
    """Return the usual word for a Cliff's delta: negligible, small, medium or large.

    Args:
        delta: Cliff's delta, from -1 to 1.
    """
    return next((word for bound, word in _MAGNITUDES if abs(delta) < bound), "large")


def hedges_g(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Return the difference of the means in standard deviations, corrected for small samples (Hedges' g).

    Args:
        one: Values of the first sample.
        other: Values of the other sample.

    Returns:
        Difference; None where a sample has fewer than two finite values, or none of them varies.
    """
    first, second = _finite(one), _finite(other)
    if min(len(first), len(second)) < 2:
        return None
    freedom = len(first) + len(second) - 2
    squares = first.var(ddof=1) * (len(first) - 1) + second.var(ddof=1) * (len(second) - 1)
    if not squares:
        return None
    difference = float(first.mean() - second.mean())
    return difference / math.sqrt(squares / freedom) * (1 - 3 / (4 * freedom - 1))


def p_value(one: Sequence[float], other: Sequence[float], unit: Unit) -> float:
    """Return the two-sided p-value of two samples being the same on average.

    Seeds of a configuration are compared by Welch's t-test: their values are near normal, and few. Configurations,
    whose values are skewed, are compared by the rank test of Mann and Whitney, and so are samples of which one does
    not vary at all.

    Args:
        one: Values of the first sample, at least two.
        other: Values of the other sample, at least two.
        unit: What the samples consist of.
    """
    from scipy.stats import mannwhitneyu, ttest_ind

    first, second = _finite(one), _finite(other)
    is_normal = unit is Unit.SEEDS and len(first) == len(one) and len(second) == len(other)
    if is_normal and first.var() > 0 and second.var() > 0:
        return float(ttest_ind(first, second, equal_var=False).pvalue)
    return float(mannwhitneyu(one, other, alternative="two-sided").pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for multiple comparisons by Holm's step-down method, in the order given.

    Args:
        p_values: p-values of all comparisons.
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def size_needed(one: Sequence[float], other: Sequence[float], unit: Unit, alpha: float) -> int | None:
    """Return the size of each sample at which a difference as large as the present one would be found.

    It would be found with a probability of `POWER`: for seeds by the power of the t-test, for configurations by
    Noether's formula for ranks.

    Args:
        one: Values of the first sample.
        other: Values of the other sample.
        unit: What the samples consist of.
        alpha: Level of the test, corrected for the number of comparisons.

    Returns:
        Size; None where more than `MOST_NEEDED` are needed.
    """
    needed = _seeds_needed(one, other, alpha) if unit is Unit.SEEDS else _noether(superiority(one, other), alpha)
    return needed if needed is not None and needed <= MOST_NEEDED else None


def _seeds_needed(one: Sequence[float], other: Sequence[float], alpha: float) -> int | None:
    from scipy.stats import nct, t

    first, second = _finite(one), _finite(other)
    if min(len(first), len(second)) < 2:
        return None
    deviation = math.sqrt((first.var(ddof=1) + second.var(ddof=1)) / 2)
    difference = abs(float(first.mean() - second.mean()))
    if not difference or not deviation:
        return None

    def has_power(size: int) -> bool:
        freedom, shift = 2 * size - 2, difference / deviation * math.sqrt(size / 2)
        power = float(nct.sf(t.ppf(1 - alpha / 2, freedom), freedom, shift))
        return math.isnan(power) or power >= POWER  # not a number where the difference is very large

    if not has_power(MOST_NEEDED):
        return None
    return 2 + bisect.bisect_left(range(2, MOST_NEEDED), True, key=has_power)


def _noether(share: float, alpha: float) -> int | None:
    from scipy.stats import norm

    if share == 0.5:
        return None
    both = ((norm.ppf(1 - alpha / 2) + norm.ppf(POWER)) / (share - 0.5)) ** 2 / 3
    return max(2, math.ceil(float(both) / 2))


def _finite(values: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    found = np.asarray(values, dtype=np.float64)
    return found[np.isfinite(found)]
