"""Population based training (Jaderberg et al. 2017) over lanes: poor trials go on from good ones, with other settings.

Tune's own pauses trials and refuses a searcher. Here a trial that reaches a look gives up its lane as soon as another
one waits for it, and leases one again; so a population of any size takes turns on the lanes there are. What a trial
is to do differently from then on is left as a note in its folder, which its client acts on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from orchestrator.config.schema import SweepConfig
from orchestrator.config.training import TrainingConfig
from orchestrator.lanes.client import ENDED, EPOCH, TRIAL
from orchestrator.lanes.handover import Handover
from orchestrator.lanes.trial_folder import trial_folder
from orchestrator.ledger import Ledger, TrialRecord, TrialStatus
from orchestrator.search.not_pickled import NotPickled
from orchestrator.sweep_folder import SweepFolder
from search_spaces.domains import ChoiceDomain, Domain, FloatDomain, IntDomain

_FACTORS = (0.8, 1.2)


class PopulationTraining(NotPickled, FIFOScheduler):
    """Looks at a trial every few epochs; one among the poorest takes over weights and settings of one of the best.

    Args:
        config: Of the sweep.
        ledger: Knows what every trial has reported, also in earlier sessions; told of what changes.
        folder: Of the sweep.
    """

    def __init__(self, config: SweepConfig, ledger: Ledger, folder: SweepFolder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._config = config
        self._settings, self._space = config.trial_scheduler, config.space
        self._ledger = ledger
        self._folder = folder

    def on_trial_result(self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]) -> str:
        """An epoch is done; no trial is ever stopped."""
        if ENDED not in result and result[EPOCH] % self._settings.perturb_every == 0:
            self._look(trial.config[TRIAL]["number"], result)
        return TrialScheduler.CONTINUE

    def _look(self, number: int, result: dict[str, Any]) -> None:
        chance = np.random.RandomState(
            np.random.SeedSequence([self._config.seed, number, result[EPOCH]]).generate_state(1)[0]
        )
        donor = self._donor(number, result, chance)
        if donor is None:
            Handover().leave(self._trial_folder(number))
            return
        config = _changed(donor.config, self._explore(donor, chance)) | {"number": number}
        self._ledger.trial_changed(number, donor.number, result[EPOCH], config)
        Handover(donor=str(self._trial_folder(donor.number)), config=config).leave(self._trial_folder(number))

    def _donor(self, number: int, result: dict[str, Any], chance: np.random.RandomState) -> TrialRecord | None:
        """One of the best, for a trial among the poorest; not one that is behind, or has trained to its end."""
        scores = {record.number: self._score(record.reports[-1]) for record in self._ledger.trials() if record.reports}
        scores[number] = self._score(result)
        ranked = sorted(scores, key=lambda each: (scores[each], -each))
        share = int(len(ranked) * self._settings.quantile)
        if share == 0 or number not in ranked[:share]:
            return None
        best = [self._ledger.trial(each) for each in ranked[-share:]]
        donors = [
            record
            for record in best
            if record.status in (TrialStatus.RUNNING, TrialStatus.INTERRUPTED)
            and result[EPOCH] <= record.epochs < record.config["training"]["epochs"]
            and math.isfinite(scores[record.number])
        ]
        return donors[chance.randint(len(donors))] if donors else None

    def _score(self, report: Mapping[str, Any]) -> float:
        """The objective as it is now, the more the better."""
        objective = self._config.objective
        value = float(report.get(objective.metric, math.nan))
        score = value if objective.mode == "max" else -value
        return score if math.isfinite(score) else -math.inf

    def _explore(self, donor: TrialRecord, chance: np.random.RandomState) -> dict[str, Any]:
        """New values of the settings that may change, from those of the donor."""
        now = {**donor.config["training"], **donor.config["model"]["options"]}
        domains = {name: self._space[name] for name in self._settings.mutate if name in self._space}
        return {
            name: draw(domain, chance)
            if chance.random_sample() < self._settings.resample_probability
            else perturb(domain, now[name], chance)
            for name, domain in domains.items()
            if name in now
        }

    def _trial_folder(self, number: int) -> Any:
        return self._folder.trials / trial_folder(number)


def draw(domain: Domain, chance: np.random.RandomState) -> Any:
    """A value as the domain would draw it."""
    match domain:
        case ChoiceDomain():
            return domain.choices[chance.randint(len(domain.choices))]
        case FloatDomain() | IntDomain():
            low, high = domain.corners()
            if domain.log:
                return _fitted(domain, math.exp(chance.uniform(math.log(low), math.log(high))))
            return _fitted(domain, chance.uniform(low, high))
        case _:
            return domain.corners()[0]


def perturb(domain: Domain, value: Any, chance: np.random.RandomState) -> Any:
    """A value near the given one: a fifth more or less, or one place on among choices."""
    if isinstance(domain, ChoiceDomain):
        place = domain.choices.index(value) + chance.choice((-1, 1))
        return domain.choices[min(max(place, 0), len(domain.choices) - 1)]
    if isinstance(domain, FloatDomain | IntDomain):
        return _fitted(domain, value * chance.choice(_FACTORS))
    return value


def _fitted(domain: FloatDomain | IntDomain, value: float) -> float | int:
    """The nearest value that the domain holds."""
    low, high = domain.corners()
    value = min(max(value, low), high)
    if domain.step is not None and not domain.log:
        value = low + round((value - low) / domain.step) * domain.step
    return round(value) if isinstance(domain, IntDomain) else float(min(value, high))


def _changed(config: Any, changes: dict[str, Any]) -> dict[str, Any]:
    """A trial's configuration with other values."""
    training = {name: value for name, value in changes.items() if name in TrainingConfig.model_fields}
    options = {name: value for name, value in changes.items() if name not in training}
    model = {**config["model"], "options": {**config["model"]["options"], **options}}
    return {**config, "model": model, "training": {**config["training"], **training}}
