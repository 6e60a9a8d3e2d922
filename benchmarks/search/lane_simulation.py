"""Simulation of lanes that train tabulated configurations, for any strategy of search.

An epoch takes the same time in every lane. A strategy decides what a free lane trains next, and after each epoch
whether its trial continues; a trial that was paused resumes at the epoch after its last. Only epochs that are trained
count.
"""

from __future__ import annotations

import heapq
import math
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from tasks import Curve, Row, Task


@dataclass(frozen=True)
class Job:
    """Trial that a free lane trains next.

    Args:
        number: Number of the trial.
        row: Row of the table that a new trial trains; None for a paused one that resumes.
    """

    number: int
    row: Row | None = None


class Strategy(ABC):
    """Strategy of a search."""

    @abstractmethod
    def next_job(self) -> Job | None:
        """Return what a free lane trains next; None where it is to wait for the others."""

    @abstractmethod
    def report(self, number: int, epoch: int, score: float) -> bool:
        """Note an epoch of a trial, and return whether the trial continues.

        Args:
            number: Number of the trial.
            epoch: Epoch, from 1.
            score: Score after this epoch; minus infinity where the training diverged.
        """

    def leave(self, number: int, *, ended: bool) -> None:  # noqa: B027 - some rules need nothing more than reports
        """Note that a trial left its lane.

        Args:
            number: Number of the trial.
            ended: True where it is complete or diverged; False where `report` ended it.
        """


@dataclass
class Run:
    """Result of a simulated search.

    Args:
        improvements: Epochs spent by all lanes, and the best score then, at each improvement.
        spent: Epochs spent in all.
        trials: Number of configurations begun.
        decision_s: Processor time of the strategy, in seconds.
    """

    improvements: list[tuple[int, float]] = field(default_factory=list)
    spent: int = 0
    trials: int = 0
    decision_s: float = 0.0

    def best_at(self, epochs: float) -> float:
        """Return the best score after a number of epochs; minus infinity before the first."""
        return max((score for spent, score in self.improvements if spent <= epochs), default=-math.inf)

    def epochs_to(self, target: float) -> float:
        """Return the number of epochs until a score was reached; infinite where it was not."""
        return next((spent for spent, score in self.improvements if score >= target), math.inf)


class _Lanes:
    """Lanes of one simulated search."""

    def __init__(self, task: Task, strategy: Strategy, lanes: int, budget: int) -> None:
        self.task, self.strategy, self.budget = task, strategy, budget
        self.run = Run()
        self.free = list(range(lanes))
        self.busy: list[tuple[int, int, int]] = []  # end of the epoch, lane, trial
        self.curves: dict[int, Curve] = {}
        self.done: dict[int, int] = {}

    def fill(self, now: int) -> None:
        """Give each free lane a trial, as long as the strategy has one."""
        while self.free:
            started = time.process_time()
            job = self.strategy.next_job()
            self.run.decision_s += time.process_time() - started
            if job is None:
                return
            if job.row is not None:
                self.curves[job.number], self.done[job.number] = job.row.curve, 0
                self.run.trials += 1
            heapq.heappush(self.busy, (now + 1, self.free.pop(0), job.number))

    def step(self) -> int:
        """Finish the epoch that ends next, and return its time."""
        now, lane, number = heapq.heappop(self.busy)
        epoch = self.done[number] = self.done[number] + 1
        self.run.spent += 1
        curve = self.curves[number]
        score = curve[epoch - 1] if epoch <= len(curve) else -math.inf
        if score > (self.run.improvements[-1][1] if self.run.improvements else -math.inf):
            self.run.improvements.append((self.run.spent, score))
        ended = epoch >= self.task.epochs or not math.isfinite(score)
        started = time.process_time()
        resumes = self.strategy.report(number, epoch, score) and not ended
        if not resumes:
            self.strategy.leave(number, ended=ended)
        self.run.decision_s += time.process_time() - started
        if resumes:
            heapq.heappush(self.busy, (now + 1, lane, number))
        else:
            self.free.append(lane)
        return now


def simulate(task: Task, strategy: Strategy, *, lanes: int, budget: int) -> Run:
    """Simulate a search until its budget is spent.

    Args:
        task: Space with tabulated curves.
        strategy: Strategy of the search.
        lanes: Number of trials at the same time.
        budget: Epochs of all lanes together.
    """
    state = _Lanes(task, strategy, lanes, budget)
    state.fill(0)
    while state.busy and state.run.spent < budget:
        now = state.step()
        if state.busy and state.busy[0][0] == now:
            continue  # the lanes that end together are filled together
        state.fill(now)
    return state.run
