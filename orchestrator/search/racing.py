"""Further seeds of configurations, and tournaments, in a running search.

A repeat, the training of a configuration with a further seed, is a trial of the study with the attributes `repeats`
and `replicate`. Samplers do not see it (`samplers/learnable.py`), trial schedulers neither pause nor stop it
(`schedulers/allocated.py`, `schedulers/replay.py`), and it does not count as one of `trials`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from orchestrator.config.plans import SearchPlan
from orchestrator.config.trial import TrialConfig
from orchestrator.records.ledger import Ledger, TrialRecord, TrialStatus
from orchestrator.records.objectives import Objectives
from orchestrator.search.pauses import begin_again
from orchestrator.search.samplers.grid import point_key
from orchestrator.search.samplers.learnable import REPEATS, REPLICATE
from orchestrator.search.samplers.samplers import has_tried_all
from orchestrator.seeds.configurations import Configuration, configurations, seed_of
from orchestrator.seeds.race import RaceState, Repeat, race
from search_spaces import ChoiceDomain
from search_spaces.grid import grid_points, grid_size


class Step(Enum):
    """Next step of a search where no repeat may begin."""

    WAIT = "wait"
    FINISHED = "finished"


class SeedRace:
    """Race of a search: repeats once all configurations are tried, and before that the arms of a tournament in turn.

    Called in the thread "tune".

    Args:
        study: Study of the sweep.
        plan: Search plan of the sweep.
        ledger: Ledger of the sweep.
    """

    def __init__(self, study: optuna.Study, plan: SearchPlan, ledger: Ledger) -> None:
        self._study = study
        self._plan = plan
        self._ledger = ledger
        self._known: tuple[tuple[int, ...], RaceState] | None = None
        self._small: dict[Any, list[dict[str, Any]]] | None = None  # configurations of small arms

    def fix_arm(self) -> bool:
        """Enqueue the arm of a tournament that has the fewest configurations, unless enqueued values wait.

        An arm that has its share of the trials is left out, and one whose configurations were all tried: trained
        again with the same seed, they would count as further ones.

        Returns:
            False where no arm is left.
        """
        name = self._plan.tournament
        if name is None or self._waiting():
            return True
        counts = dict.fromkeys(arms_of(self._plan), 0)
        for record in self._ledger.trials():
            if not record.is_repeat and record.params.get(name) in counts:
                counts[record.params[name]] += 1
        share = self._share(len(counts))
        for arm in sorted(counts, key=lambda arm: counts[arm]):
            if counts[arm] < share and (values := self._untried(name, arm)) is not None:
                self._study.enqueue_trial(values)
                return True
        return False

    def _share(self, arms: int) -> int:
        return -(-self._plan.trials // arms)

    def _untried(self, name: str, arm: Any) -> dict[str, Any] | None:
        """Return values to enqueue for an arm; None where all its configurations were tried.

        Of a small arm, any sampler but a grid would draw some again, so its configurations are listed.
        """
        if self._small is None:
            self._small = _small_arms(self._plan, self._share(len(arms_of(self._plan))))
        if arm in self._small:
            tried = {point_key(trial.params) for trial in self._study.get_trials(deepcopy=False)}
            return next((point for point in self._small[arm] if point_key(point) not in tried), None)
        return None if has_tried_all(self._study, {name: arm}) else {name: arm}

    def next_repeat(self) -> Step | optuna.Trial:
        """Return a repeat, to be started like a trial that `study.ask` returns, or why none may begin."""
        for trial in self._waiting():  # interrupted, or created by a driver that died before it recorded it
            if REPEATS in trial.user_attrs:
                return begin_again(self._study, trial.number)
        if self._plan.seeds == 1:
            return Step.FINISHED
        state = self._race(self._ledger.trials())
        if state.due:
            return self._begin(state.due[0])
        return Step.WAIT if state.open else Step.FINISHED

    def _waiting(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=[TrialState.WAITING])

    def _race(self, records: list[TrialRecord]) -> RaceState:
        """Return the state of the race; it changes only as trials begin or end, and further seeds pause."""
        paused = (record.number for record in records if record.is_repeat and record.status is TrialStatus.PAUSED)
        key = (len(records), self._ledger.count_ended(), *paused)
        if self._known is None or self._known[0] != key:
            self._known = key, race_state(self._plan, records)
        return self._known[1]

    def _begin(self, repeat: Repeat) -> optuna.Trial:
        """Create the trial of a repeat, with the values of its configuration."""
        first = self._study.get_trials(deepcopy=False)[repeat.configuration]
        template = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=first.params,
            distributions=first.distributions,
            user_attrs={REPEATS: repeat.configuration, REPLICATE: repeat.replicate},
        )
        storage, study_id = self._study._storage, self._study._study_id
        return optuna.Trial(self._study, storage.create_new_trial(study_id, template))


def _small_arms(plan: SearchPlan, most: int) -> dict[Any, list[dict[str, Any]]]:
    """Return the configurations of the arms that have at most as many as given, by arm."""
    small = {}
    for arm in arms_of(plan):
        part = plan.space.with_choice(str(plan.tournament), arm)
        size = grid_size(part)
        if size is not None and size <= most:
            small[arm] = list(grid_points(part))
    return small


def arms_of(plan: SearchPlan) -> tuple[Any, ...]:
    """Return the arms of a tournament; none without one.

    Args:
        plan: Search plan of the sweep.
    """
    domain = None if plan.tournament is None else plan.space[plan.tournament]
    return domain.choices if isinstance(domain, ChoiceDomain) else ()


def race_state(plan: SearchPlan, records: list[TrialRecord]) -> RaceState:
    """Return the state of the race, to be used once all configurations have begun.

    Args:
        plan: Search plan of the sweep.
        records: Trials of the sweep; a paused one, which the allocation rule resumes no more, does not take part.
    """
    found = configurations(records, Objectives.of(plan.objectives, plan.constraints))
    still_open = sum(each.first.status in (TrialStatus.RUNNING, TrialStatus.INTERRUPTED) for each in found)
    if plan.seeds == 1 or still_open:
        return RaceState(open=still_open)
    name = plan.tournament
    arms = None if name is None else {each.number: str(each.first.params.get(name)) for each in found}
    return race(found, plan.seeds, arms)


def repeat_of(trial: optuna.Trial) -> Repeat | None:
    """Return what a trial repeats; None for a trial with the first seed."""
    attributes: Mapping[str, Any] = trial.user_attrs
    return Repeat(attributes[REPEATS], attributes[REPLICATE]) if REPEATS in attributes else None


def repeated_config(first: TrialRecord, number: int, replicate: int) -> TrialConfig:
    """Return the configuration of a trial with another seed.

    Args:
        first: Trial with the first seed.
        number: Number of the repeat.
        replicate: Index of its seed, from 1.
    """
    seed = seed_of(int(first.config["seed"]), replicate)
    return TrialConfig.model_validate({**first.config, "number": number, "seed": seed})


def record_mean(ledger: Ledger, objectives: Objectives, number: int) -> None:
    """Record the mean of the configuration that a trial belongs to, where at least two seeds have ended.

    Args:
        ledger: Ledger of the sweep.
        objectives: Objectives and constraints of the sweep.
        number: Number of a trial that has ended.
    """
    record = ledger.trial(number)
    if record.is_repeat:
        own = [trial for trial in ledger.trials() if trial.configuration == record.configuration]
        _record_mean(ledger, configurations(own, objectives)[0])


def record_means(ledger: Ledger, objectives: Objectives) -> None:
    """Record the means that an interrupted session has not.

    Args:
        ledger: Ledger of the sweep.
        objectives: Objectives and constraints of the sweep.
    """
    for each in configurations(ledger.trials(), objectives):
        if each.repeats:
            _record_mean(ledger, each)


def _record_mean(ledger: Ledger, configuration: Configuration) -> None:
    found = configuration.estimate
    if found is not None and found.half_width is not None:
        numbers = [trial.number for trial in configuration.trials if trial.replicate in configuration.values]
        ends = found.mean - found.half_width, found.mean + found.half_width
        ledger.configuration_measured(configuration.number, numbers, found.mean, ends)
