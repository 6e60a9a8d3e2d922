"""Schedulers of Syne Tune, called by the simulation of lanes instead of by its tuner.

Version 0.16 has ASHA, BOHB and CQR; MOBSTER and Hyper-Tune were last in version 0.13. Scores are given as losses to be
minimised; a training that diverged is reported with the largest loss so far.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from typing import Any

from lane_simulation import Job, Strategy
from syne_tune.backend.trial_status import Trial
from syne_tune.config_space import choice, randint, uniform
from tasks import Choice, Index, Parameter, Task

_TRIALS_PER_FIT = 4  # of CQR, whose fit takes half a second; its own default is every trial
_GP = {
    "debug_log": False,
    "opt_skip_init_length": 30,
    "opt_skip_period": 8,
    "opt_warmstart": True,
    "max_size_data_for_model": 200,
}
"""Options of the Gaussian processes: kernels are fitted to every eighth report after 30, to 200 reports at most, from
the last fit and once more from random values; with Syne Tune's own values (every third after 150, to 500, from two
random values) a search takes several minutes."""
_EPOCH, _LOSS = "epoch", "loss"


class SyneTune(Strategy):
    """Scheduler of Syne Tune.

    Args:
        task: Task.
        create: Creates the scheduler from space and largest number of epochs.
    """

    def __init__(self, task: Task, create: Callable[[dict[str, Any], int], Any]) -> None:
        self.task, self.take = task, task.open_table()
        self.names = list(task.parameters)
        self.scheduler = create({name: _domain(kind) for name, kind in task.parameters.items()}, task.epochs)
        self.trials: dict[int, Trial] = {}
        self.worst = 0.0

    def next_job(self) -> Job | None:
        """Return the scheduler's suggestion: a new trial, or one that resumes."""
        number = len(self.trials)
        suggestion = self._suggest(number)
        if suggestion is None:
            return None
        if not suggestion.spawn_new_trial_id:
            return Job(int(suggestion.checkpoint_trial_id))
        row = self.take({name: suggestion.config[name] for name in self.names})
        config = {**suggestion.config, **row.values}
        trial = Trial(trial_id=self._identity(number), config=config, creation_time=datetime.datetime.now())
        self.trials[number] = trial
        self.scheduler.on_trial_add(trial)
        return Job(number, row)

    def _suggest(self, number: int) -> Any:  # noqa: ARG002 - older versions need it
        return self.scheduler.suggest()

    def _identity(self, number: int) -> Any:
        return number

    def report(self, number: int, epoch: int, score: float) -> bool:
        """Report an epoch, and return whether the scheduler lets the trial continue."""
        loss = -score if math.isfinite(score) else self.worst
        self.worst = max(self.worst, loss)
        trial, result = self.trials[number], {_EPOCH: epoch, _LOSS: loss}
        if epoch >= self.task.epochs or not math.isfinite(score):
            self.scheduler.on_trial_complete(trial, result)
            return False
        return bool(self.scheduler.on_trial_result(trial, result) == "CONTINUE")


class OlderSyneTune(SyneTune):
    """Scheduler of Syne Tune up to version 0.13, whose trials have identities as texts and which numbers them."""

    def _suggest(self, number: int) -> Any:
        return self.scheduler.suggest(number)

    def _identity(self, number: int) -> Any:
        return str(number)


def _domain(parameter: Parameter) -> Any:
    if isinstance(parameter, Choice):
        return choice(list(parameter.choices))
    if isinstance(parameter, Index):
        return randint(0, parameter.size - 1)
    return uniform(parameter.low, parameter.high)


def syne_tune(searcher: str, task: Task, seed: int) -> SyneTune:
    """Create asynchronous successive halving of Syne Tune 0.16 with one of its searchers, as its baselines do.

    Args:
        searcher: Name of the searcher: `random_search` for ASHA, `kde` for BOHB, `cqr` for CQR.
        task: Task.
        seed: Seed.
    """
    import numpy as np
    from syne_tune.optimizer.schedulers.asha import AsynchronousSuccessiveHalving
    from syne_tune.optimizer.schedulers.searchers.last_value_multi_fidelity_searcher import (
        LastValueMultiFidelitySearcher,
    )

    np.random.seed(seed)  # brackets are drawn from the global generator

    def create(space: dict[str, Any], epochs: int) -> Any:
        every = _TRIALS_PER_FIT if searcher == "cqr" else 1
        searched = LastValueMultiFidelitySearcher(space, random_seed=seed, searcher=searcher, update_frequency=every)
        return AsynchronousSuccessiveHalving(
            space, metric=_LOSS, searcher=searched, time_attr=_EPOCH, max_t=epochs, random_seed=seed
        )

    return SyneTune(task, create)


def older_syne_tune(name: str, task: Task, seed: int) -> SyneTune:
    """Create a strategy of Syne Tune 0.13: MOBSTER or HyperTune, of type promotion; a GP for tasks of one epoch.

    Args:
        name: Name of a baseline.
        task: Task.
        seed: Seed.
    """
    from syne_tune.optimizer import baselines

    def create(space: dict[str, Any], epochs: int) -> Any:
        options: dict[str, Any] = {"mode": "min", "random_seed": seed, "search_options": _GP}
        if epochs == 1:
            return baselines.BayesianOptimization(space, metric=_LOSS, **options)
        options |= {"max_t": epochs, "type": "promotion", "grace_period": 1, "reduction_factor": 3}
        if name == "HyperTune":
            options["brackets"] = 4
        return getattr(baselines, name)(space, metric=_LOSS, resource_attr=_EPOCH, **options)

    return OlderSyneTune(task, create)
