"""Statistics of compared strategies: average ranks with bootstrap intervals, epochs to a target, worst tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

SHARES = (0.25, 0.5, 1.0)
"""Shares of the budget at which strategies are compared."""


@dataclass(frozen=True)
class Interval:
    """Value with the ends of an interval of 95 percent.

    Args:
        value: Value.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float


def ranks(scores: np.ndarray) -> np.ndarray:
    """Return the rank of each method, 1 for the largest score; equal ones share the mean of their ranks.

    Args:
        scores: Scores, the methods along the last axis.
    """
    above = (scores[..., None, :] > scores[..., :, None]).sum(axis=-1)
    equal = (scores[..., None, :] == scores[..., :, None]).sum(axis=-1)
    return 1 + above + (equal - 1) / 2


def average_ranks(scores: Sequence[np.ndarray], *, resamples: int = 1000, seed: int = 0) -> list[Interval]:
    """Return the average rank of each method over tasks, the same weight each, with bootstrap intervals over seeds.

    Within a task every seed of one method meets every seed of the others: the seeds of two packages have nothing in
    common. Intervals resample the seeds of each method within each task.

    Args:
        scores: For each task a matrix of scores, method by seed, padded with NaN where a method has fewer seeds.
        resamples: Number of bootstrap samples.
        seed: Seed of the bootstrap.
    """
    chance = np.random.default_rng(seed)
    tasks = [[row[~np.isnan(row)] for row in matrix] for matrix in scores]
    value = np.mean([expected_ranks(rows) for rows in tasks], axis=0)
    drawn = [
        np.mean([expected_ranks([chance.choice(row, len(row)) for row in rows]) for rows in tasks], axis=0)
        for _ in range(resamples)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    return [Interval(float(a), float(b), float(c)) for a, b, c in zip(value, low, high, strict=True)]


def expected_ranks(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Return the expected rank of each method when one of its seeds is drawn: 1, and the chances that others are better.

    Args:
        rows: Scores of the seeds of each method; larger is better.
    """
    ordered = [np.sort(row) for row in rows]
    found = np.ones(len(rows))
    for mine, row in enumerate(rows):
        for other, theirs in enumerate(ordered):
            if other != mine:
                above = len(theirs) - np.searchsorted(theirs, row, side="right")
                equal = len(theirs) - above - np.searchsorted(theirs, row, side="left")
                found[mine] += float(np.mean(above + equal / 2)) / len(theirs)
    return found


def expected_epochs(needed: Sequence[float], budget: float) -> float:
    """Return the expected epochs to a target: all epochs spent on the way to it or to the end, per search that found it.

    Source: expected running time, Hansen et al. 2009 (COCO).

    Args:
        needed: Epochs that each search needed; infinite where it did not find the target.
        budget: Epochs of a search that does not find it.
    """
    spent = sum(min(epochs, budget) for epochs in needed)
    found = sum(map(math.isfinite, needed))
    return spent / found if found else math.inf


def geometric_mean(ratios: Sequence[float]) -> float:
    """Return the geometric mean of ratios; infinite where one of them is."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if all(map(math.isfinite, ratios)) else math.inf


def worst(ratios: Mapping[str, float]) -> tuple[str, float]:
    """Return the task with the largest ratio, and the ratio."""
    return max(ratios.items(), key=lambda item: item[1])
