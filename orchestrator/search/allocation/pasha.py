"""Progressive successive halving: promotion whose highest rung grows only while the order of the trials is in doubt.

Trials are promoted to the second rung at first. Whenever a trial reaches the highest rung in use, the trials there are
put in order twice: by their scores on it and by those on the rung below. Where the two orders agree, more epochs would
not tell the trials apart any better, and the rung stays the highest one; else the next rung is used as well. Orders
agree if each trial is, on the lower rung, within a distance of the trial that has its place there. The distance follows
from the curves: two trials that overtake each other back and forth differ by noise.

Source: Bohdal et al. 2022, "PASHA: Efficient HPO and NAS with progressive resource allocation". Differs: trials that
wait on the highest rung are promoted as soon as it grows, and the best trial is trained to the end, as in
`promotion_asha.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from orchestrator.search.allocation.allocator import AllocationSetting, Feasibility, Scores
from orchestrator.search.allocation.promotion_asha import PromotionAsha

_PERCENTILE = 90.0
_MOST_COMPARED = 100
"""Largest number of trials of the highest rung that are compared, the newest ones."""


class Pasha(PromotionAsha):
    """Rule that promotes the best trials of each rung, up to a highest rung that grows while orders differ.

    With several objectives, orders are those of the first one. With constraints, the most feasible trials are compared.

    Args:
        setting: Bounds of the decisions.
    """

    def __init__(self, setting: AllocationSetting) -> None:
        super().__init__(setting)
        self._highest = min(1, len(self._epochs_of_rungs))
        self._curves: dict[int, dict[int, float]] = {}  # first objective by trial and epoch

    def report(
        self,
        number: int,
        epoch: int,
        scores: Scores,
        seconds: float,
        feasibility: Feasibility = Feasibility.FEASIBLE,
    ) -> bool:
        """See `Allocator.report`."""
        before = self._reached[number]
        self._curves.setdefault(number, {})[epoch] = scores[0]
        continues = super().report(number, epoch, scores, seconds, feasibility)
        if before < self._reached[number] == self._highest and not self._is_order_stable():
            self._highest += 1
        return continues

    def _promotable(self) -> int | None:
        """Return the best trial that may be promoted to a rung in use, from the highest where there is one."""
        for rung in reversed(self._rungs[: self._highest]):
            if (number := rung.promotable(self._worst)) is not None:
                return number
        return None

    def _is_order_stable(self) -> bool:
        """Return whether the trials on the highest rung have the same order there and on the rung below."""
        epochs = self._epochs_of_rungs
        there = [number for number, rung in self._reached.items() if rung >= self._highest]
        best = min(self._feasibility[number] for number in there)
        there = [number for number in there if self._feasibility[number] is best][-_MOST_COMPARED:]
        upper = [self._score_at(number, epochs[self._highest]) for number in there]
        lower = [self._score_at(number, epochs[self._highest - 1]) for number in there]
        return have_same_order(upper, lower, noise_between([self._curves[number] for number in there]))

    def _score_at(self, number: int, epoch: int) -> float:
        """Return the first score at an epoch or later."""
        curve = self._curves[number]
        return curve[epoch] if epoch in curve else curve[min(each for each in curve if each > epoch)]


def have_same_order(upper: Sequence[float], lower: Sequence[float], distance: float) -> bool:
    """Return whether each trial is, by its lower score, within a distance of the one whose place it takes.

    Args:
        upper: Scores of the trials on the higher rung.
        lower: Scores of the same trials on the lower rung.
        distance: Difference of two scores that does not count.
    """
    by_upper = sorted(range(len(upper)), key=lambda place: (-upper[place], place))
    by_lower = sorted(range(len(lower)), key=lambda place: (-lower[place], place))
    return all(
        lower[one] == lower[other] or abs(lower[one] - lower[other]) <= distance
        for one, other in zip(by_upper, by_lower, strict=True)
    )


def noise_between(curves: Sequence[dict[int, float]]) -> float:
    """Return the difference between scores that noise explains: 0 where no two curves cross twice.

    It is a high percentile, over the pairs of curves that cross at least twice, of their difference at the newest epoch
    that both have.

    Args:
        curves: Scores by epoch of each trial.
    """
    epochs = sorted({epoch for curve in curves for epoch in curve})
    values = np.array([[curve.get(epoch, math.nan) for epoch in epochs] for curve in curves])
    found = [_differences(values[place], values[place + 1 :]) for place in range(len(curves) - 1)]
    together = np.concatenate(found) if found else np.zeros(0)
    return float(np.percentile(together, _PERCENTILE)) if len(together) else 0.0


def _differences(curve: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the newest difference to each of the curves that a curve crosses at least twice."""
    with np.errstate(invalid="ignore"):
        difference = others - curve
    found = []
    for row in difference:
        known = row[np.isfinite(row)]
        signs = np.sign(known[known != 0])
        if np.count_nonzero(np.diff(signs)) > 1:
            found.append(abs(float(known[-1])))
    return np.array(found)
