"""Trace of a simulated sweep: every epoch in the order in which they ended, and what they found."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.records.status import TrialStatus


@dataclass(frozen=True)
class Point:
    """Epoch of a simulated sweep.

    Args:
        seconds: Time since the start of the sweep at which the epoch ended.
        epochs: Epochs of all trials until then, this one included.
        trial: Number of the trial.
        epoch: Epoch of the trial, from 1.
        scores: Objectives of the epoch; larger is better, and a value that is not finite is minus infinity.
        incumbent: Best first objective of all trials until then.
        is_repeated: True where the trial had trained the epoch before and lost the checkpoint.
    """

    seconds: float
    epochs: int
    trial: int
    epoch: int
    scores: tuple[float, ...]
    incumbent: float
    is_repeated: bool = False


@dataclass
class Trace:
    """Course of a simulated sweep.

    Args:
        lanes: Number of trials at the same time.
        params: Configuration of each trial, by number.
        points: Epochs in the order in which they ended.
        statuses: Status of each trial at the end, by number; a paused one counts as stopped early.
        cut: Trials whose recorded curve ended before the rule paused or ended them.
        continuations: Number of decisions to train a running trial further, those about cut trials included.
        resumes: Number of times a paused trial was resumed.
        idle_s: Seconds that lanes waited for running trials.
        decisions: Number of calls of the allocator that decided something.
        decision_s: Computing time of these decisions in seconds.
        proposals: Number of configurations proposed.
        proposal_s: Computing time of the proposals in seconds.
    """

    lanes: int
    params: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    statuses: dict[int, TrialStatus] = field(default_factory=dict)
    cut: set[int] = field(default_factory=set)
    continuations: int = 0
    resumes: int = 0
    idle_s: float = 0.0
    decisions: int = 0
    decision_s: float = 0.0
    proposals: int = 0
    proposal_s: float = 0.0

    @property
    def epochs(self) -> int:
        """Epochs of all trials."""
        return len(self.points)

    @property
    def seconds(self) -> float:
        """Time from the start to the last epoch."""
        return self.points[-1].seconds if self.points else 0.0

    @property
    def best(self) -> float:
        """Best first objective of all epochs; minus infinity before the first."""
        return self.points[-1].incumbent if self.points else -math.inf

    @property
    def best_trial(self) -> int | None:
        """Number of the trial that reported the best first objective first; None before the first finite value."""
        found = (point.trial for point in self.points if point.scores[0] == self.best)
        return None if self.best == -math.inf else next(found)

    @property
    def decision_ms(self) -> float:
        """Mean computing time of a decision in milliseconds."""
        return 1e3 * self.decision_s / max(self.decisions, 1)

    @property
    def proposal_ms(self) -> float:
        """Mean computing time of a proposal in milliseconds."""
        return 1e3 * self.proposal_s / max(self.proposals, 1)

    def counts(self) -> dict[str, int]:
        """Return the number of trials by status."""
        return dict(Counter(str(status) for status in self.statuses.values()))

    def best_after(self, epochs: int) -> float:
        """Return the best first objective of the first epochs of the sweep; minus infinity for none."""
        return self.points[min(epochs, len(self.points)) - 1].incumbent if self.points and epochs > 0 else -math.inf

    def best_at(self, seconds: float) -> float:
        """Return the best first objective at a time of the sweep; minus infinity before the first epoch."""
        return max((point.incumbent for point in self.points if point.seconds <= seconds), default=-math.inf)

    def epochs_to(self, target: float) -> float:
        """Return the number of epochs until a value was reached; infinite where it was not."""
        return next((point.epochs for point in self.points if point.incumbent >= target), math.inf)

    def seconds_to(self, target: float) -> float:
        """Return the time until a value was reached; infinite where it was not."""
        return next((point.seconds for point in self.points if point.incumbent >= target), math.inf)
