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
    common. Intervals resample the seeds of each method, the same ones for all tasks: where tasks share their
    configurations, a seed that begins well does so on all of them.

    Args:
        scores: For each task a matrix of scores, method by seed, padded with NaN where a method has fewer seeds.
        resamples: Number of bootstrap samples.
        seed: Seed of the bootstrap.
    """
    chance = np.random.default_rng(seed)
    value = np.mean([expected_ranks(matrix) for matrix in scores], axis=0)
    counts = np.array([(~np.isnan(matrix)).sum(axis=1) for matrix in scores])  # task by method
    times = [chance.multinomial(count, np.full(count, 1 / count), size=resamples) for count in counts.min(axis=0)]
    drawn = np.zeros((resamples, len(scores[0])))
    for matrix, present in zip(scores, counts, strict=True):
        shares = np.zeros((resamples, *matrix.shape))
        for method, (count, often) in enumerate(zip(present, times, strict=True)):
            more = chance.multinomial(count, np.full(count, 1 / count), size=resamples)[:, often.shape[1] :]
            weights = np.concatenate([often, more], axis=1)  # seeds that another task lacks are drawn for this one
            shares[:, method, :count] = weights / weights.sum(axis=1, keepdims=True)
        drawn += expected_ranks(matrix, shares) / len(scores)
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    return [Interval(float(a), float(b), float(c)) for a, b, c in zip(value, low, high, strict=True)]


def expected_ranks(scores: np.ndarray, shares: np.ndarray | None = None) -> np.ndarray:
    """Return the expected rank of each method with one seed drawn: 1, and the chances that the others are better.

    Args:
        scores: Scores, method by seed, padded with NaN at the end of a row.
        shares: Probability of each seed of a method, with any leading axes; None for equal ones.
    """
    present = ~np.isnan(scores)
    if shares is None:
        shares = present / present.sum(axis=1, keepdims=True)
    flat = np.where(present, scores, 0.0).reshape(-1)
    better = (flat[None, :] > flat[:, None]) + 0.5 * (flat[None, :] == flat[:, None])
    flat_shares = shares.reshape(*shares.shape[:-2], -1)
    against_all = (flat_shares @ better.T * flat_shares).reshape(shares.shape).sum(axis=-1)
    blocks = better.reshape(*scores.shape, *scores.shape)
    own = np.stack([blocks[method, :, method, :] for method in range(len(scores))])
    against_itself = np.einsum("...ms,mst,...mt->...m", shares, own, shares)
    return 1 + against_all - against_itself


def expected_epochs(needed: Sequence[float], budget: float) -> float:
    """Return the expected epochs to a target: all epochs spent until it or the end, per search that found it.

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
