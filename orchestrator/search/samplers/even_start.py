"""Evenly spread values for the first trials of a sweep, before a sampler uses results; the middle of the space first.

Latin hypercubes (McKay et al. 1979): among as many trials as one has, the values of a name fall into as many intervals
of equal width, one into each. Each name has an order of its own, so that conditions and a space that changes need no
care, and a value depends on seed, number and name only. Not scipy's `qmc`, whose import takes longer than the start of
a sweep may.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from orchestrator.search.samplers.learnable import PAUSED_AT, REJECTED, REPEATS

_LARGER = 2
"""Trials of a hypercube of a late start, as a multiple of those that it waits for."""
_NOT_COUNTED = frozenset({REPEATS, REJECTED})
_SALT = 0x85EBCA6B  # keeps these random numbers apart from those of the sampler of the same trial


class EvenStart:
    """Latin hypercubes, one after another.

    Args:
        size: Number of trials of one hypercube.
        seed: Seed of the sweep.
        middle: True for the middle of the space in place of the first trial.
    """

    def __init__(self, size: int, seed: int, *, middle: bool = False) -> None:
        self._size, self._seed, self._middle = size, seed, middle

    def draw(self, number: int, name: str, distribution: BaseDistribution) -> Any:
        """Return the value of a name in a trial.

        Args:
            number: Number of the trial.
            name: Searched name.
            distribution: Distribution of the name.
        """
        if self._middle and number == 0:
            return _middle(distribution)
        cube, place = divmod(number, self._size)
        entropy = [self._seed, cube, _SALT, zlib.crc32(name.encode())]
        chance = np.random.default_rng(entropy)
        interval = chance.permutation(self._size)[place]
        share = (interval + chance.random(self._size)[place]) / self._size
        return _at(distribution, float(share))

    def is_early(self, trials: Sequence[FrozenTrial]) -> bool:
        """Return whether trials are spread evenly although `startup_trials` have ended.

        Args:
            trials: All trials of the study, the one that is proposed included.
        """
        return False


class LateStart(EvenStart):
    """Latin hypercubes until enough trials were trained for some epochs.

    Scores of the first epochs order configurations poorly. A model of them takes the search to configurations that
    learn fast at first, where evenly spread ones find better ones at the same cost (benchmarks/results/search).

    Args:
        trained: Number of trials to wait for.
        seed: Seed of the sweep.
        epochs: Epochs that each of them was trained for.
        most: Largest number of evenly spread trials, which `startup_trials` may exceed.
        middle: True for the middle of the space in place of the first trial.
    """

    def __init__(self, trained: int, seed: int, *, epochs: int, most: int, middle: bool = False) -> None:
        super().__init__(max(1, min(_LARGER * trained, most)), seed, middle=middle)
        self._trained, self._epochs, self._most = trained, epochs, most
        self._is_over = False

    def is_early(self, trials: Sequence[FrozenTrial]) -> bool:
        """See `EvenStart.is_early`."""
        if not self._is_over:
            configurations = [trial for trial in trials if not trial.user_attrs.keys() & _NOT_COUNTED]
            trained = sum(_epochs_of(trial) >= self._epochs for trial in configurations)
            self._is_over = len(configurations) > self._most or trained >= self._trained
        return not self._is_over


def _epochs_of(trial: FrozenTrial) -> float:
    """Return the number of epochs that a trial was trained for; infinite for a complete one."""
    if trial.state is TrialState.COMPLETE:
        return math.inf
    paused_at: int = trial.user_attrs.get(PAUSED_AT, 0)
    return max([paused_at, *trial.intermediate_values])


def _middle(distribution: BaseDistribution) -> Any:
    """Return the middle of a distribution: the lower of two, and the first of unordered values."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    assert isinstance(distribution, FloatDistribution | IntDistribution), "Optuna has no other"
    low, high, step = float(distribution.low), float(distribution.high), distribution.step
    value = math.sqrt(low * high) if distribution.log else (low + high) / 2
    if step is not None:
        value = distribution.low + math.ceil((value - low) / step - 0.5) * step
    return _within(distribution, value)


def _at(distribution: BaseDistribution, share: float) -> Any:
    """Return the value below which a share of a distribution lies."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(share * len(distribution.choices))]
    assert isinstance(distribution, FloatDistribution | IntDistribution), "Optuna has no other"
    low, high, step = float(distribution.low), float(distribution.high), distribution.step
    if step is not None:
        low, high = low - 0.5 * step, high + 0.5 * step  # each value of a grid has the same width
    if distribution.log:
        value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    else:
        value = low + share * (high - low)
    if step is not None:
        value = distribution.low + round((value - distribution.low) / step) * step
    return _within(distribution, value)


def _within(distribution: FloatDistribution | IntDistribution, value: float) -> float | int:
    """Return a value as the distribution has it; rounding may have taken it out of the domain."""
    value = min(max(value, distribution.low), distribution.high)
    return int(value) if isinstance(distribution, IntDistribution) else float(value)
