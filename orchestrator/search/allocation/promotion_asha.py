"""Asynchronous successive halving by promotion.

A trial pauses at each rung. A free lane resumes the best paused trial among the top 1 / `reduction_factor` of a rung,
highest rung first; where there is none, it begins a new configuration. Nothing is stopped for good: a trial that was
not promoted is reconsidered whenever its rung grows. With several objectives a rung is ordered by non-dominated rank.
Trials that violate a constraint come last on a rung, and those that no epoch makes feasible are not promoted while
there are others.

Source: Li et al. 2018, "A system for massively parallel hyperparameter tuning". Differs: a trial that would be
promoted at once does not pause. When every configuration was proposed, nothing is promotable and no feasible trial was
trained to the end, the best trial of the highest rung is promoted all the same, a feasible one where there is any.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Mapping
from typing import Any

from orchestrator.search.allocation.allocator import AllocationSetting, Allocator, Feasibility, Propose, Resume, Scores
from orchestrator.search.allocation.ranking import best_first


class PromotionAsha(Allocator):
    """Rule that promotes the best trials of each rung to the next.

    Args:
        setting: Bounds of the decisions.
    """

    def __init__(self, setting: AllocationSetting) -> None:
        super().__init__(setting)
        self._epochs_of_rungs = rung_epochs(setting)
        self._rungs = [Rung(setting.reduction_factor) for _ in self._epochs_of_rungs]
        self._reached: dict[int, int] = {}  # newest rung by trial; -1 before the first
        self._epochs: dict[int, int] = {}  # newest epoch by trial
        self._running: set[int] = set()
        self._paused_early: dict[int, None] = {}  # before the next rung, in order
        self._epochs_used = 0
        self._feasibility: dict[int, Feasibility] = {}  # by trial, as reported last
        self._complete: Feasibility | None = None  # best one of the complete trials
        self._worst = Feasibility.RULED_OUT  # that a promoted trial may have

    def start(self, number: int, params: Mapping[str, Any]) -> None:
        """See `Allocator.start`; a trial that waits on a rung is promoted from it."""
        self._running.add(number)
        is_early = number in self._paused_early
        self._paused_early.pop(number, None)
        rung = self._reached.setdefault(number, -1)
        if rung >= 0 and not is_early:
            self._rungs[rung].promote(number)

    def report(
        self,
        number: int,
        epoch: int,
        scores: Scores,
        seconds: float,
        feasibility: Feasibility = Feasibility.FEASIBLE,
    ) -> bool:
        """See `Allocator.report`; a trial pauses at a rung unless it is the next to be promoted.

        Once the epochs of all trials are used, every trial pauses.
        """
        self._epochs_used += max(0, epoch - self._epochs.get(number, 0))
        self._epochs[number] = max(epoch, self._epochs.get(number, 0))
        self._note_feasibility(number, feasibility, is_complete=epoch >= self.setting.max_epochs)
        reached = bisect.bisect_right(self._epochs_of_rungs, epoch) - 1
        is_last = epoch >= self.setting.max_epochs
        if reached <= self._reached[number]:
            return is_last or not self._are_epochs_used()
        for passed in range(self._reached[number] + 1, reached + 1):
            self._rungs[passed].add(number, scores, feasibility)
            if passed < reached:
                self._rungs[passed].promote(number)
        self._reached[number] = reached
        if is_last:
            return True
        self._rungs[reached].wait(number)
        if self._promotable() == number and not self._are_epochs_used():
            self._rungs[reached].promote(number)
            return True
        self._rungs[reached].stop_waiting(number)  # until it is paused
        return False

    def pause(self, number: int, resume_epoch: int) -> None:
        """See `Allocator.pause`; what it costs to resume a trial does not change the order."""
        if number not in self._running:
            return
        self._running.discard(number)
        rung = self._reached[number]
        if rung < 0 or self._rungs[rung].is_promoted(number):
            self._paused_early[number] = None
        else:
            self._rungs[rung].wait(number)

    def end(self, number: int) -> None:
        """See `Allocator.end`; the scores of the trial stay on its rungs."""
        self._running.discard(number)
        self._paused_early.pop(number, None)
        if self._reached.get(number, -1) >= 0:
            self._rungs[self._reached[number]].stop_waiting(number)

    def next_trial(self, proposed: int) -> Resume | Propose | None:
        """See `Allocator.next_trial`; promotions come first, the highest rung before the others."""
        if self._are_epochs_used():
            return None
        if (number := self._promotable()) is not None:
            return Resume(number)
        if proposed < self.setting.trials:
            return Propose()
        for number in self._paused_early:
            return Resume(number)
        if (number := self._last_resort()) is not None:
            return Resume(number)
        return None

    @property
    def is_finished(self) -> bool:
        """See `Allocator.is_finished`."""
        if self._are_epochs_used():
            return True
        proposed = len(self._reached)
        return proposed >= self.setting.trials and not self._running and self.next_trial(proposed) is None

    def _are_epochs_used(self) -> bool:
        return self.setting.epochs is not None and self._epochs_used >= self.setting.epochs

    def _note_feasibility(self, number: int, feasibility: Feasibility, *, is_complete: bool) -> None:
        self._feasibility[number] = feasibility
        if feasibility < Feasibility.RULED_OUT:
            self._worst = Feasibility.INFEASIBLE
        if is_complete:
            self._complete = feasibility if self._complete is None else min(feasibility, self._complete)

    def _promotable(self) -> int | None:
        """Return the best trial that may be promoted, from the highest rung where there is one."""
        for rung in reversed(self._rungs):
            if (number := rung.promotable(self._worst)) is not None:
                return number
        return None

    def _last_resort(self) -> int | None:
        """Return the best trial of the highest rung where nothing as feasible would be trained to the end."""
        if self._running or self._complete is Feasibility.FEASIBLE:
            return None
        found: tuple[Feasibility, int] | None = None
        for rung in reversed(self._rungs):
            number = rung.best_waiting()
            if number is not None and (found is None or rung.feasibility(number) < found[0]):
                found = rung.feasibility(number), number
        if found is None or (self._complete is not None and found[0] >= self._complete):
            return None
        return found[1]


def rung_epochs(setting: AllocationSetting) -> list[int]:
    """Return the epochs of the rungs, ascending: the grace epochs times powers of the reduction factor.

    Args:
        setting: Bounds of the decisions; no rung lies at or beyond its last epoch.
    """
    epochs, rung = [], setting.grace_epochs
    while rung < setting.max_epochs:
        epochs.append(rung)
        rung *= setting.reduction_factor
    return epochs


class Rung:
    """Trials that have reached a rung, with the scores they had there.

    With one objective each method takes logarithmic time in the number of trials, apart from shifting a list.

    Args:
        reduction_factor: One in this many trials is promoted.
    """

    def __init__(self, reduction_factor: int) -> None:
        self._reduction_factor = reduction_factor
        self._scores: dict[int, Scores] = {}
        self._feasibility: dict[int, Feasibility] = {}
        self._keys: list[tuple[int, float, int]] = []  # of one objective, best first
        self._waiting: set[int] = set()
        self._heap: list[tuple[int, float, int]] = []  # keys of those waiting, and of some that no longer wait
        self._promoted: set[int] = set()
        self._order: list[int] | None = None  # of several objectives, best first

    def add(self, number: int, scores: Scores, feasibility: Feasibility) -> None:
        """Add a trial that has reached the rung; it does not wait for a promotion yet."""
        self._scores[number] = tuple(scores)
        self._feasibility[number] = feasibility
        self._order = None
        if len(scores) == 1:
            bisect.insort(self._keys, self._key(number))

    def wait(self, number: int) -> None:
        """Let a trial wait for its promotion."""
        if number not in self._waiting:
            self._waiting.add(number)
            heapq.heappush(self._heap, self._key(number))

    def stop_waiting(self, number: int) -> None:
        """Withdraw a trial from promotion."""
        self._waiting.discard(number)

    def promote(self, number: int) -> None:
        """Note the promotion of a trial."""
        self._waiting.discard(number)
        self._promoted.add(number)

    def is_promoted(self, number: int) -> bool:
        """Return whether a trial was promoted from here."""
        return number in self._promoted

    def feasibility(self, number: int) -> Feasibility:
        """Return the feasibility that a trial had here."""
        return self._feasibility[number]

    def promotable(self, worst: Feasibility) -> int | None:
        """Return the best waiting trial among the top 1 / `reduction_factor` of the rung; None where there is none.

        Args:
            worst: Worst feasibility that it may have.
        """
        count = len(self._scores) // self._reduction_factor
        best = self.best_waiting() if count else None
        if best is None or self._feasibility[best] > worst:
            return None
        if not self._keys:
            return best if best in self._ordered()[:count] else None
        return best if bisect.bisect_left(self._keys, self._key(best)) < count else None

    def best_waiting(self) -> int | None:
        """Return the best waiting trial; None where none waits."""
        if not self._waiting:
            return None
        if not self._keys:
            return next(number for number in self._ordered() if number in self._waiting)
        while self._heap[0][-1] not in self._waiting:
            heapq.heappop(self._heap)
        return self._heap[0][-1]

    def _ordered(self) -> list[int]:
        if self._order is None:
            self._order = []
            for feasibility in Feasibility:
                numbers = sorted(number for number, found in self._feasibility.items() if found is feasibility)
                self._order += [numbers[place] for place in best_first([self._scores[number] for number in numbers])]
        return self._order

    def _key(self, number: int) -> tuple[int, float, int]:
        return self._feasibility[number], -self._scores[number][0], number
