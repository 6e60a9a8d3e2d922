"""Strategies of search built from this project's own parts.

Its samplers, with Tune's rules that stop trials early, or with its own rules that pause and resume them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import optuna
from lane_simulation import Job, Strategy
from optuna.trial import TrialState
from ray.tune.schedulers import AsyncHyperBandScheduler
from tasks import Choice, Index, Parameter, Task

from orchestrator.config.sections.study import SamplerConfig
from orchestrator.search.allocation.allocator import AllocationSetting, Allocator, Resume
from orchestrator.search.samplers.learnable import PAUSED_AT
from orchestrator.search.samplers.samplers import DIVERGED, OUTCOME, create_sampler
from orchestrator.search.schedulers.early_stopping import brackets
from orchestrator.search.simulation.curves import record_params
from search_spaces import ChoiceDomain, FloatDomain, IntDomain, SearchSpace

EPOCH, SCORE = "epoch", "score"
GRACE_EPOCHS, REDUCTION_FACTOR = 1, 3


def search_space(task: Task) -> SearchSpace:
    """Return the space of a task as a sweep has it."""
    return SearchSpace({name: _domain(parameter) for name, parameter in task.parameters.items()})


def _domain(parameter: Parameter) -> FloatDomain | IntDomain | ChoiceDomain:
    if isinstance(parameter, Choice):
        return ChoiceDomain(choices=parameter.choices)
    if isinstance(parameter, Index):
        return IntDomain(low=0, high=parameter.size - 1)
    return FloatDomain(low=parameter.low, high=parameter.high)


class SampledStrategy(Strategy):
    """Strategy whose configurations one of the sweep's samplers proposes; each is trained to the end.

    Args:
        task: Task.
        seed: Seed.
        sampler: Section `sampler` of a sweep.
        known: Configurations that a part of the early trials is drawn around.
        first: Configurations that are tried first.
        trials: Largest number of configurations.
        second_rung: Epochs of the trials that a late start waits for.
    """

    def __init__(
        self,
        task: Task,
        seed: int,
        sampler: Mapping[str, Any],
        *,
        known: Sequence[Mapping[str, Any]] = (),
        first: Sequence[Mapping[str, Any]] = (),
        trials: int = 100,
        second_rung: int = 1,
    ) -> None:
        self.task, self.seed = task, seed
        self.space = search_space(task)
        self.study = optuna.create_study(
            sampler=create_sampler(
                SamplerConfig(**sampler), self.space, seed, trials=trials, second_rung=second_rung, known=known
            ),
            direction="maximize",
        )
        for params in first:
            self.study.enqueue_trial(dict(params))
        self.take = task.open_table()
        self.open: dict[int, optuna.Trial] = {}
        self.best: dict[int, float] = {}
        self.diverged: set[int] = set()

    def next_job(self) -> Job | None:
        """Propose a configuration."""
        trial = self.study.ask()
        row = self.take(self.space.sample(trial))
        record_params(trial, row.values, trial.distributions)
        self.open[trial.number], self.best[trial.number] = trial, -math.inf
        return Job(trial.number, row)

    def report(self, number: int, epoch: int, score: float) -> bool:
        """Record an epoch, and continue."""
        if math.isfinite(score):
            self.open[number].report(score, epoch)
            self.best[number] = max(self.best[number], score)
        else:
            self.open[number].set_user_attr(OUTCOME, DIVERGED)
            self.diverged.add(number)
        return True

    def leave(self, number: int, *, ended: bool) -> None:
        """Record the end of a trial."""
        trial = self.open.pop(number)
        if number in self.diverged:
            self.study.tell(trial, state=TrialState.FAIL)
        elif ended:
            self.study.tell(trial, self.best[number])
        else:
            self.study.tell(trial, state=TrialState.PRUNED)


class StoppingStrategy(SampledStrategy):
    """Strategy that stops trials by Tune's asynchronous successive halving, for good.

    Args:
        task: Task.
        seed: Seed.
        sampler: Section `sampler` of a sweep.
        hyperband: True for as many brackets as there are rungs.
    """

    def __init__(self, task: Task, seed: int, sampler: Mapping[str, Any], *, hyperband: bool = False) -> None:
        super().__init__(task, seed, sampler)
        count = brackets(task.epochs, GRACE_EPOCHS, REDUCTION_FACTOR) if hyperband else 1
        options: dict[str, Any] = {"grace_period": GRACE_EPOCHS, "reduction_factor": REDUCTION_FACTOR}
        self.rule = AsyncHyperBandScheduler(
            time_attr=EPOCH, metric=SCORE, mode="max", max_t=task.epochs, brackets=count, **options
        )

    def next_job(self) -> Job | None:
        """Propose a configuration, and add it to a bracket."""
        job = super().next_job()
        if job is not None:
            self.rule.on_trial_add(None, SimpleNamespace(trial_id=str(job.number)))
        return job

    def report(self, number: int, epoch: int, score: float) -> bool:
        """Record an epoch, and return whether the trial is among the best of its rung."""
        super().report(number, epoch, score)
        trial: Any = SimpleNamespace(trial_id=str(number))
        return bool(self.rule.on_trial_result(None, trial, {EPOCH: epoch, SCORE: score}) != self.rule.STOP)


class AllocatedStrategy(SampledStrategy):
    """Strategy that pauses and resumes trials by one of the sweep's rules.

    Args:
        task: Task.
        seed: Seed.
        sampler: Section `sampler` of a sweep.
        create: Creates the rule.
        trials: Largest number of configurations.
        epochs: Epochs of all trials together.
        known: Configurations that a part of the early trials is drawn around.
        first: Configurations that are tried first.
    """

    def __init__(
        self,
        task: Task,
        seed: int,
        sampler: Mapping[str, Any],
        *,
        create: Callable[[AllocationSetting], Allocator],
        trials: int,
        epochs: int,
        known: Sequence[Mapping[str, Any]] = (),
        first: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        rung = min(GRACE_EPOCHS * REDUCTION_FACTOR, task.epochs)
        super().__init__(task, seed, sampler, known=known, first=first, trials=trials, second_rung=rung)
        self.rule = create(
            AllocationSetting(trials, task.epochs, GRACE_EPOCHS, REDUCTION_FACTOR, epochs=epochs, seed=seed)
        )
        self.params: dict[int, Mapping[str, Any]] = {}
        self.epochs: dict[int, int] = {}

    def next_job(self) -> Job | None:
        """Return what the rule decides: a paused trial, or a new configuration."""
        decision = self.rule.next_trial(len(self.params))
        if decision is None:
            return None
        if isinstance(decision, Resume):
            self.rule.start(decision.number, self.params[decision.number])
            return Job(decision.number)
        job = super().next_job()
        if job is None or job.row is None:
            return None
        self.params[job.number] = job.row.values
        self.rule.start(job.number, job.row.values)
        return job

    def report(self, number: int, epoch: int, score: float) -> bool:
        """Record an epoch, and return whether the rule lets the trial continue."""
        super().report(number, epoch, score)
        self.epochs[number] = epoch
        return self.rule.report(number, epoch, (score,), 1.0)

    def leave(self, number: int, *, ended: bool) -> None:
        """Pause a trial, or record its end."""
        if ended:
            super().leave(number, ended=True)
            self.rule.end(number)
            return
        self.study._storage.set_trial_user_attr(self.open[number]._trial_id, PAUSED_AT, self.epochs[number])
        self.rule.pause(number, self.epochs[number])
