"""Configurations of a sweep, each with the trials that train it, one trial per seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from orchestrator.records.objectives import Objectives
from orchestrator.records.status import TrialStatus
from orchestrator.records.trials import TrialRecord
from orchestrator.seeds.estimates import Estimate, estimate


@dataclass(frozen=True)
class Configuration:
    """Configuration of a sweep.

    Args:
        first: Trial with the first seed.
        repeats: Trials with further seeds, by seed.
        objectives: Objectives and constraints of the sweep.
    """

    first: TrialRecord
    repeats: tuple[TrialRecord, ...]
    objectives: Objectives

    @property
    def number(self) -> int:
        """Number of the trial with the first seed."""
        return self.first.number

    @property
    def trials(self) -> tuple[TrialRecord, ...]:
        """All trials, by seed."""
        return (self.first, *self.repeats)

    @cached_property
    def values(self) -> Mapping[int, float]:
        """Best value of the first objective by index of the seed, of the trials trained to the end."""
        first = self.objectives.configs[0]
        found = {trial.replicate: trial.best(first.metric, first.mode) for trial in self.finished}
        return {replicate: value for replicate, value in found.items() if value is not None}

    @property
    def finished(self) -> list[TrialRecord]:
        """Trials trained to the end that meet the constraints, by seed."""
        return [
            trial
            for trial in self.trials
            if trial.status is TrialStatus.FINISHED and self.objectives.is_feasible(trial)
        ]

    @cached_property
    def estimate(self) -> Estimate | None:
        """Mean of the values with its interval; None without a value."""
        return estimate([self.values[replicate] for replicate in sorted(self.values)])

    def is_complete(self, seeds: int) -> bool:
        """Return whether the configuration has been trained to the end with all seeds.

        Args:
            seeds: Number of seeds of the sweep.
        """
        return all(replicate in self.values for replicate in range(seeds))


def configurations(records: Iterable[TrialRecord], objectives: Objectives) -> list[Configuration]:
    """Group trials by configuration, ordered by number.

    Args:
        records: Trials of the sweep.
        objectives: Objectives and constraints of the sweep.
    """
    firsts: dict[int, TrialRecord] = {}
    repeats: dict[int, list[TrialRecord]] = {}
    for record in records:
        if record.is_repeat:
            repeats.setdefault(record.configuration, []).append(record)
        else:
            firsts[record.number] = record
    return [
        Configuration(
            first, tuple(sorted(repeats.get(number, ()), key=lambda trial: (trial.replicate, trial.number))), objectives
        )
        for number, first in sorted(firsts.items())
    ]


def best_configuration(found: Sequence[Configuration], seeds: int) -> Configuration | None:
    """Return the configuration with the best mean of those trained with all seeds; None where there is none.

    Args:
        found: Configurations of the sweep.
        seeds: Number of seeds of the sweep.
    """
    complete = [(each.estimate.mean, each) for each in found if each.is_complete(seeds) and each.estimate is not None]
    if not complete:
        return None
    maximised = complete[0][1].objectives.configs[0].mode == "max"
    return min(complete, key=lambda pair: (-pair[0] if maximised else pair[0], pair[1].number))[1]


def seed_of(first: int, replicate: int) -> int:
    """Return the seed of a replicate: the first is the given one, the others follow from it.

    All configurations of a sweep share them, so that their differences can be paired by seed.

    Args:
        first: Seed of the sweep.
        replicate: Index of the seed, from 0.
    """
    if replicate == 0:
        return first
    return int(np.random.SeedSequence([first, replicate]).generate_state(1)[0])
