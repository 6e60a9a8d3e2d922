"""Interface of the rules that allocate epochs to trials: which trial a free lane trains next, and when it pauses.

An allocator knows trials by number and learning curve only. It imports neither Ray nor Optuna, so that a sweep, a
simulation on recorded curves and a replay of a stored sweep run the same code. Every method is deterministic given the
order of the calls: a resumed sweep repeats the calls of its journal.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

Scores = Sequence[float]
"""Objectives of one epoch, one number each; larger is better, and a value that is not finite is minus infinity."""


class Feasibility(IntEnum):
    """Standing of a trial towards the constraints of its sweep, by its best epoch so far; smaller is better."""

    FEASIBLE = 0
    INFEASIBLE = 1  # further epochs may change that
    RULED_OUT = 2  # a cost of its network is beyond its bound, which no epoch changes


@dataclass(frozen=True)
class AllocationSetting:
    """Bounds within which an allocator decides.

    Args:
        trials: Largest number of configurations.
        max_epochs: Epochs of a complete trial.
        grace_epochs: Epochs that every trial gets before it may pause.
        reduction_factor: One in this many trials is promoted from a rung.
        epochs: Epochs that all trials may use together; None for no limit.
        seed: Seed of the sweep.
    """

    trials: int
    max_epochs: int
    grace_epochs: int = 1
    reduction_factor: int = 3
    epochs: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Resume:
    """Decision to resume a paused trial.

    Args:
        number: Number of the trial.
    """

    number: int


@dataclass(frozen=True)
class Propose:
    """Decision to begin a trial with a new configuration."""


class Allocator(ABC):
    """Rule that allocates epochs.

    A trial is running between `start` and `pause` or `end`. `next_trial` is called when a lane is free, `report` after
    each epoch. The journal of a sweep holds every call except those of `next_trial`, which therefore changes nothing:
    a resumption is noted by `start`.

    Args:
        setting: Bounds of the decisions.
    """

    def __init__(self, setting: AllocationSetting) -> None:
        self.setting = setting

    def end_proposals(self, proposed: int) -> None:
        """Note that no further configuration can be proposed, as where a grid is used up.

        Args:
            proposed: Number of configurations proposed so far; from now on the value of `setting.trials`.
        """
        self.setting = replace(self.setting, trials=proposed)

    @abstractmethod
    def start(self, number: int, params: Mapping[str, Any]) -> None:
        """Note that a trial begins, or resumes after `pause`.

        Args:
            number: Number of the trial.
            params: Searched values of its configuration.
        """

    @abstractmethod
    def report(
        self,
        number: int,
        epoch: int,
        scores: Scores,
        seconds: float,
        feasibility: Feasibility = Feasibility.FEASIBLE,
    ) -> bool:
        """Note an epoch of a running trial, and return whether the trial continues; False pauses it.

        Args:
            number: Number of the trial.
            epoch: Epoch, from 1. An epoch that a resumed trial repeats is reported again.
            scores: Objectives of the epoch.
            seconds: Duration in seconds of the epochs since the newest one reported before, without repeated ones.
            feasibility: Whether the trial meets the constraints.
        """

    @abstractmethod
    def pause(self, number: int, resume_epoch: int) -> None:
        """Note that a trial is paused.

        Args:
            number: Number of the trial.
            resume_epoch: Epoch of the checkpoint from which it would resume; 0 where none is left. Called again for a
                paused trial whose checkpoint was removed.
        """

    @abstractmethod
    def end(self, number: int) -> None:
        """Note that a trial has ended for good: complete, diverged, failed or stopped by the user.

        Args:
            number: Number of the trial.
        """

    def resume_by_hand(self, number: int) -> None:  # noqa: B027 - most rules have nothing to note
        """Note that the user resumes a paused trial; comes before `start` where the rule has paused it as well.

        Args:
            number: Number of the trial.
        """

    @abstractmethod
    def next_trial(self, proposed: int) -> Resume | Propose | None:
        """Return what a free lane trains next; None where it is to wait for running trials, or nothing is left.

        Args:
            proposed: Number of configurations proposed so far. No more than `setting.trials` are proposed.
        """

    @property
    def spent(self) -> str:
        """Text that the epochs which the rule allows itself have ended the search; empty where they have not."""
        return ""

    @property
    @abstractmethod
    def is_finished(self) -> bool:
        """True when no trial will be started or resumed any more, whatever the running ones report."""
