"""Optuna's samplers by name, behind one that proposes the same after an interruption.

A new sampler is created for each trial, with random numbers derived from the sweep's seed and the trial's number. A
sweep that was interrupted and resumed therefore proposes what it would have proposed in one session.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna import samplers
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from orchestrator.config.sections.study import SamplerConfig
from orchestrator.search.samplers.choice import LATE, begins_in_the_middle, choose_sampler, choose_startup
from orchestrator.search.samplers.even_start import EvenStart, LateStart
from orchestrator.search.samplers.fading_prior import FadingPrior
from orchestrator.search.samplers.grid import GridSampler
from orchestrator.search.samplers.learnable import DIVERGED, OUTCOME, REJECTED, REPEATS, LearnableStudy, TrialWindow
from orchestrator.search.steering.present_space import PresentSpace, single_value
from search_spaces import SearchSpace

__all__ = ["DIVERGED", "OUTCOME", "REJECTED", "SweepSampler", "create_sampler"]

# Proposals hardly depend on more trials: TPE takes at most 25 for good ones, and weighs old ones less.
_TPE_WINDOW = 300
_IN_TURN = {"gp_tpe": ("gp", "tpe")}
"""Names that stand for several samplers, which propose the trials in turn."""
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


class SweepSampler(BaseSampler):
    """One of Optuna's samplers, with a seed of its own for every trial.

    Args:
        sampler: Name and options.
        space: Search space of the sweep.
        seed: Seed of the sweep.
        known: Configurations around which a part of the early trials is drawn.
        start: First trials that are spread evenly; None where the sampler draws them.
    """

    def __init__(
        self,
        sampler: SamplerConfig,
        space: SearchSpace,
        seed: int,
        known: Sequence[Mapping[str, Any]] = (),
        start: EvenStart | None = None,
    ) -> None:
        self._sampler = sampler
        self._seed = seed
        self._prior = FadingPrior(known, sampler.startup_trials, seed)
        self._center: tuple[int, Mapping[str, Any] | None] | None = None
        self._grid = GridSampler(space, seed) if sampler.name == "grid" else None
        self._current: tuple[int, BaseSampler] | None = None
        self._view: tuple[int, LearnableStudy] | None = None
        self._windows: dict[str, TrialWindow] = {}  # by the name of Optuna's sampler
        self._start = start
        self._early: tuple[int, bool] | None = None
        self._present: PresentSpace | None = None

    def change_space(self, present: PresentSpace) -> None:
        """Draw from another space from now on."""
        self._present, self._windows, self._current, self._view = present, {}, None, None

    @property
    def name(self) -> str:
        """Name of Optuna's sampler; where `auto` was asked for, the chosen one."""
        return self._sampler.name

    def is_exhausted(self, study: optuna.Study, fixed: Mapping[str, Any] = MappingProxyType({})) -> bool:
        """Return whether every configuration with the fixed values was proposed; only a grid ends."""
        return self._grid is not None and self._grid.is_exhausted(study, fixed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Prepare the sampler of a trial."""
        self._current = self._view = self._center = self._early = None
        self._sampler_of(trial).before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the names that are drawn together; none for a trial that resumes with its own values."""
        if trial.params or self._center_of(study, trial) is not None or self._is_early(study, trial):
            return {}
        found = self._sampler_of(trial).infer_relative_search_space(self._snapshot(study, trial), trial)
        present = self._present
        return found if present is None else {name: present.stored(name, drawn) for name, drawn in found.items()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return values of the names that are drawn together."""
        if trial.params or self._center_of(study, trial) is not None or self._is_early(study, trial):
            return {}
        if (present := self._present) is not None:
            search_space = {name: present.drawn(name, stored) for name, stored in search_space.items()}
        return self._sampler_of(trial).sample_relative(self._snapshot(study, trial), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the value of a name that is drawn alone."""
        center = self._center_of(study, trial)
        if self._present is not None:
            param_distribution = self._present.drawn(param_name, param_distribution)
            if param_distribution.single():
                return single_value(param_distribution)
        if center is not None and param_name in center:
            return self._prior.draw(trial.number, param_name, param_distribution, center[param_name])
        shown = self._snapshot(study, trial)
        if self._start is not None:
            few = len(shown.get_trials(False, _ENDED)) < self._sampler.startup_trials
            if few or self._is_early(study, trial):
                return self._start.draw(trial.number, param_name, param_distribution)
        return self._sampler_of(trial).sample_independent(shown, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Pass the end of a trial to its sampler; several may be running, and another seed is no trial of a sampler."""
        if REPEATS not in trial.user_attrs:
            self._create_for(trial.number).after_trial(study, trial, state, values)

    def _sampler_of(self, trial: FrozenTrial) -> BaseSampler:
        if self._current is None or self._current[0] != trial.number:
            self._current = trial.number, self._create_for(trial.number)
        return self._current[1]

    def _center_of(self, study: optuna.Study, trial: FrozenTrial) -> Mapping[str, Any] | None:
        """Return the known configuration that a trial is drawn around; None where the sampler proposes it."""
        if self._center is None or self._center[0] != trial.number:
            shown = self._snapshot(study, trial).get_trials(deepcopy=False) if self._prior.share(0) else []
            results = sum(seen.state.is_finished() and REJECTED not in seen.user_attrs for seen in shown)
            self._center = trial.number, self._prior.center_of(trial.number, results)
        return self._center[1]

    def _is_early(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Return whether too few trials were trained for long enough when a trial is proposed."""
        if self._start is None:
            return False
        if self._early is None or self._early[0] != trial.number:
            self._early = trial.number, self._start.is_early(study.get_trials(deepcopy=False))
        return self._early[1]

    def _snapshot(self, study: optuna.Study, trial: FrozenTrial) -> LearnableStudy:
        """Return the study as it was when the trial was proposed."""
        if self._view is None or self._view[0] != trial.number:
            name = self._name_for(trial.number)
            if name not in self._windows:
                # The evolutionary samplers read the trials of their population from the study itself.
                is_tpe = name == "tpe"
                seen = {} if self._present is None else {"seen": self._present.seen}
                size = _TPE_WINDOW if is_tpe else None
                self._windows[name] = TrialWindow(size, study.directions, completes_paused=is_tpe, **seen)
            completes = name == "gp"  # it learns from complete trials only
            least = self._sampler.startup_trials
            self._view = trial.number, LearnableStudy(study, self._windows[name], completes=completes, least=least)
        return self._view[1]

    def _name_for(self, number: int) -> str:
        """Return the name of the sampler that proposes a trial."""
        in_turn = _IN_TURN.get(self._sampler.name, (self._sampler.name,))
        return in_turn[number % len(in_turn)]

    def _create_for(self, number: int) -> BaseSampler:
        if self._grid is not None:
            return self._grid
        own = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        if self._sampler.random_share and np.random.RandomState(own).random_sample() < self._sampler.random_share:
            return samplers.RandomSampler(seed=own ^ 1)
        arguments = _Arguments(dict(self._sampler.options), self._sampler.startup_trials, self._seed, own)
        return _SAMPLERS[self._name_for(number)](arguments)


def create_sampler(
    sampler: SamplerConfig,
    space: SearchSpace,
    seed: int,
    *,
    trials: int = 100,
    objectives: int = 1,
    constraints: int = 0,
    ends_early: bool = True,
    second_rung: int = 1,
    known: Sequence[Mapping[str, Any]] = (),
    tournament: bool = False,
) -> SweepSampler:
    """Return the sampler of a sweep.

    Args:
        sampler: Name and options.
        space: Search space of the sweep.
        seed: Seed of the sweep.
        trials: Number of trials, by which `auto` chooses.
        objectives: Number of objectives, by which `auto` chooses.
        constraints: Number of constraints, by which `auto` chooses.
        ends_early: False where every trial is trained to the end, by which `auto` chooses.
        second_rung: Epochs of the trials that a late start waits for.
        known: Configurations around which a part of the early trials is drawn.
        tournament: True where the search has arms, of which none may get a better first configuration.
    """
    if sampler.name == "auto":
        name = choose_sampler(
            space,
            trials=trials,
            objectives=objectives,
            constraints=constraints,
            ends_early=ends_early,
            rules=sampler.rules,
        ).name
        sampler = sampler.model_copy(update={"name": name})
    # Experimental by name only: several years old, and without an alternative.
    warnings.filterwarnings("ignore", "Argument ``", optuna.exceptions.ExperimentalWarning)
    startup = choose_startup(sampler, objectives=objectives, ends_early=ends_early)
    start: EvenStart | None = None
    middle = begins_in_the_middle(sampler, tournament=tournament)
    if startup == "even":
        start = EvenStart(sampler.startup_trials, seed, middle=middle)
    elif startup == LATE:
        start = LateStart(sampler.startup_trials, seed, epochs=second_rung, most=trials // 2, middle=middle)
    return SweepSampler(sampler, space, seed, known, start)


def has_tried_all(study: optuna.Study, fixed: Mapping[str, Any] = MappingProxyType({})) -> bool:
    """Return whether the sampler of a study is a grid that has proposed every point with the fixed values.

    Args:
        study: Study of a sweep.
        fixed: Values by searched name.
    """
    return isinstance(study.sampler, SweepSampler) and study.sampler.is_exhausted(study, fixed)


class _Arguments(NamedTuple):
    """Arguments of a sampler: those of the configuration, and the seeds of the sweep and of one trial."""

    options: dict[str, Any]
    startup_trials: int
    sweep_seed: int
    seed: int


def _tpe(arguments: _Arguments) -> BaseSampler:
    # `group` lets the multivariate model handle names that are present under a condition only.
    options = {"multivariate": True, "constant_liar": True, **arguments.options}
    options.setdefault("group", options["multivariate"])
    return samplers.TPESampler(seed=arguments.seed, n_startup_trials=arguments.startup_trials, **options)


def _random(arguments: _Arguments) -> BaseSampler:
    return samplers.RandomSampler(seed=arguments.seed)


def _qmc(arguments: _Arguments) -> BaseSampler:
    # One sequence for the whole sweep; its position is in the database.
    independent = samplers.RandomSampler(seed=arguments.seed)
    return samplers.QMCSampler(
        seed=arguments.sweep_seed, independent_sampler=independent, warn_independent_sampling=False, **arguments.options
    )


def _gp(arguments: _Arguments) -> BaseSampler:
    return samplers.GPSampler(seed=arguments.seed, n_startup_trials=arguments.startup_trials, **arguments.options)


def _cmaes(arguments: _Arguments) -> BaseSampler:
    startup = arguments.startup_trials
    return samplers.CmaEsSampler(
        seed=arguments.seed, n_startup_trials=startup, warn_independent_sampling=False, **arguments.options
    )


def _nsga2(arguments: _Arguments) -> BaseSampler:
    return samplers.NSGAIISampler(seed=arguments.seed, **arguments.options)


def _nsga3(arguments: _Arguments) -> BaseSampler:
    return samplers.NSGAIIISampler(seed=arguments.seed, **arguments.options)


_SAMPLERS: Mapping[str, Callable[[_Arguments], BaseSampler]] = {
    "tpe": _tpe,
    "random": _random,
    "qmc": _qmc,
    "gp": _gp,
    "cmaes": _cmaes,
    "nsga2": _nsga2,
    "nsga3": _nsga3,
}
