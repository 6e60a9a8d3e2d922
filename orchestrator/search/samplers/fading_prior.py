"""Proposals around known good values, whose share fades as results arrive.

A prior as in piBO (Hvarfner et al. 2022) and PriorBand (Mallik et al. 2023): early trials are drawn near what the
papers report, later ones where this sweep's own results point, so that a misleading prior costs a few trials only.
Differs from both: a trial is drawn either from the prior or by the sampler, so that any sampler is used unchanged.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

_FIRST_SHARE = 0.5
_WIDTH = 0.2  # standard deviation, as a share of the domain
_KEPT_CHOICE = 0.5  # probability of the known choice, beside its part of the rest
_SALT = 0x9E3779B9  # keeps these random numbers apart from those of the sampler of the same trial


class FadingPrior:
    """Distribution around known configurations, and the share of trials that is drawn from it.

    Args:
        centers: Known configurations by searched name; the values of other names are drawn by the sampler.
        half_life: Number of trials with results after which the share has halved.
        seed: Seed of the sweep.
    """

    def __init__(self, centers: Sequence[Mapping[str, Any]], half_life: int, seed: int) -> None:
        self._centers = [dict(center) for center in centers if center]
        self._half_life, self._seed = half_life, seed

    def share(self, results: int) -> float:
        """Return the probability that a trial is drawn from the prior.

        Args:
            results: Number of trials with results.
        """
        return _FIRST_SHARE * self._half_life / (self._half_life + results) if self._centers else 0.0

    def center_of(self, number: int, results: int) -> Mapping[str, Any] | None:
        """Return the known configuration that a trial is drawn around; None where the sampler proposes it.

        Args:
            number: Number of the trial.
            results: Number of trials with results.
        """
        chance = self._chance(number, "")
        if chance.random_sample() >= self.share(results):
            return None
        return self._centers[chance.randint(len(self._centers))]

    def draw(self, number: int, name: str, distribution: BaseDistribution, value: Any) -> Any:
        """Draw a value of a domain near a known one.

        Args:
            number: Number of the trial.
            name: Searched name.
            distribution: Distribution of the name.
            value: Known value.
        """
        chance = self._chance(number, name)
        if isinstance(distribution, CategoricalDistribution):
            keeps = chance.random_sample() < _KEPT_CHOICE and value in distribution.choices
            return value if keeps else distribution.choices[chance.randint(len(distribution.choices))]
        if not isinstance(distribution, FloatDistribution | IntDistribution) or distribution.low == distribution.high:
            return value
        return _near(distribution, float(value), float(chance.random_sample()))

    def _chance(self, number: int, name: str) -> np.random.RandomState:
        """Return random numbers that depend on seed, trial and name only, in whatever order names are drawn."""
        entropy = [self._seed, number, _SALT, zlib.crc32(name.encode())]
        return np.random.RandomState(np.random.SeedSequence(entropy).generate_state(1)[0])


def _near(distribution: FloatDistribution | IntDistribution, value: float, quantile: float) -> float | int:
    """Return the quantile of a normal distribution around a value, cut at the ends of the domain."""
    low, high = float(distribution.low), float(distribution.high)
    center = min(max(value, low), high)
    if isinstance(distribution, IntDistribution):
        low, high = low - 0.5, high + 0.5  # each whole number has the same width
    if distribution.log:
        low, high, center = math.log(low), math.log(high), math.log(center)
    normal = NormalDist(center, _WIDTH * (high - low))
    below, above = normal.cdf(low), normal.cdf(high)
    drawn = normal.inv_cdf(below + quantile * (above - below)) if above > below else center
    drawn = min(max(drawn, low), high)
    if distribution.log:
        drawn = math.exp(drawn)
    if isinstance(distribution, IntDistribution):
        return int(min(max(_on_grid(drawn, distribution.low, distribution.step), distribution.low), distribution.high))
    if distribution.step is not None:
        drawn = _on_grid(drawn, distribution.low, distribution.step)
    return float(min(max(drawn, distribution.low), distribution.high))


def _on_grid(value: float, low: float, step: float) -> float:
    return low + round((value - low) / step) * step
