"""How a study proposes configurations: Optuna's samplers by name, one that forgets nothing by being stopped.

A sampler is made anew for each trial, with random numbers that belong to the sweep's seed and the trial's number. A
sweep that was interrupted and resumed therefore proposes what it would have proposed undisturbed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna import samplers
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from orchestrator.config.sections.study import SamplerConfig
from orchestrator.search.samplers.grid import GridSampler
from orchestrator.search.samplers.learnable import DIVERGED, OUTCOME, LearnableStudy, TrialMemory
from search_spaces import SearchSpace

__all__ = ["DIVERGED", "OUTCOME", "SweepSampler", "create_sampler"]

# What is proposed hardly depends on more: TPE takes at most 25 trials for good ones, and weighs old ones less.
_TPE_MEMORY = 300


class SweepSampler(BaseSampler):
    """One of Optuna's samplers, with a seed of its own for every trial.

    Args:
        sampler: Name and options.
        space: What is searched.
        seed: Of the sweep.
    """

    def __init__(self, sampler: SamplerConfig, space: SearchSpace, seed: int) -> None:
        self._sampler = sampler
        self._seed = seed
        self._grid = GridSampler(space, seed) if sampler.name == "grid" else None
        self._current: tuple[int, BaseSampler] | None = None
        self._view: tuple[int, LearnableStudy] | None = None
        self._memory: TrialMemory | None = None

    def is_exhausted(self, study: optuna.Study) -> bool:
        """Whether every configuration there is was proposed; only a grid ever ends."""
        return self._grid is not None and self._grid.is_exhausted(study)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Begins a trial."""
        self._current = self._view = None
        self._of(trial).before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Names that are drawn together; none for a trial that goes on with the values it has."""
        if trial.params:
            return {}
        return self._of(trial).infer_relative_search_space(self._seen(study, trial), trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Values of the names that are drawn together."""
        if trial.params:
            return {}
        return self._of(trial).sample_relative(self._seen(study, trial), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The value of a name that is drawn alone."""
        return self._of(trial).sample_independent(self._seen(study, trial), trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Ends a trial; several may be running."""
        self._made_for(trial.number).after_trial(study, trial, state, values)

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        if self._current is None or self._current[0] != trial.number:
            self._current = trial.number, self._made_for(trial.number)
        return self._current[1]

    def _seen(self, study: optuna.Study, trial: FrozenTrial) -> LearnableStudy:
        """The study as it stood when the trial was begun."""
        if self._memory is None:
            self._memory = TrialMemory(_TPE_MEMORY if self._sampler.name == "tpe" else None, study.directions)
        if self._view is None or self._view[0] != trial.number:
            self._view = trial.number, LearnableStudy(study, self._memory)
        return self._view[1]

    def _made_for(self, number: int) -> BaseSampler:
        if self._grid is not None:
            return self._grid
        own = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        wanted = _Wanted(dict(self._sampler.options), self._sampler.startup_trials, self._seed, own)
        return _SAMPLERS[self._sampler.name](wanted)


def create_sampler(sampler: SamplerConfig, space: SearchSpace, seed: int) -> SweepSampler:
    """The sampler a sweep asks for.

    Args:
        sampler: Name and options.
        space: What is searched.
        seed: Of its random numbers.
    """
    return SweepSampler(sampler, space, seed)


class _Wanted(NamedTuple):
    """What a sampler is made of: the configuration's part, and the seeds of the sweep and of one trial in it."""

    options: dict[str, Any]
    startup_trials: int
    sweep_seed: int
    seed: int


def _tpe(wanted: _Wanted) -> BaseSampler:
    # `group` lets the multivariate model handle names that are present under a condition only.
    options = {"multivariate": True, "constant_liar": True, **wanted.options}
    options.setdefault("group", options["multivariate"])
    return samplers.TPESampler(seed=wanted.seed, n_startup_trials=wanted.startup_trials, **options)


def _random(wanted: _Wanted) -> BaseSampler:
    return samplers.RandomSampler(seed=wanted.seed)


def _qmc(wanted: _Wanted) -> BaseSampler:
    # The sequence is one for the whole sweep; how far it got is in the database.
    independent = samplers.RandomSampler(seed=wanted.seed)
    return samplers.QMCSampler(
        seed=wanted.sweep_seed, independent_sampler=independent, warn_independent_sampling=False, **wanted.options
    )


def _gp(wanted: _Wanted) -> BaseSampler:
    return samplers.GPSampler(seed=wanted.seed, n_startup_trials=wanted.startup_trials, **wanted.options)


def _cmaes(wanted: _Wanted) -> BaseSampler:
    startup = wanted.startup_trials
    return samplers.CmaEsSampler(
        seed=wanted.seed, n_startup_trials=startup, warn_independent_sampling=False, **wanted.options
    )


def _nsga2(wanted: _Wanted) -> BaseSampler:
    return samplers.NSGAIISampler(seed=wanted.seed, **wanted.options)


def _nsga3(wanted: _Wanted) -> BaseSampler:
    return samplers.NSGAIIISampler(seed=wanted.seed, **wanted.options)


_SAMPLERS: Mapping[str, Callable[[_Wanted], BaseSampler]] = {
    "tpe": _tpe,
    "random": _random,
    "qmc": _qmc,
    "gp": _gp,
    "cmaes": _cmaes,
    "nsga2": _nsga2,
    "nsga3": _nsga3,
}
