"""Population based training (Jaderberg et al. 2017) over lanes: poor trials resume from good ones, settings changed.

Tune's own scheduler pauses trials and refuses a searcher. Here a trial that has reached a comparison waits for the
others, which use its lane meanwhile. A population of any size thus takes turns on the lanes, and decisions do not
depend on the speed of a lane. The decision about a trial is a note in its folder, which its client carries out; the
donor's checkpoints are put beside it while the donor still waits.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from orchestrator.config.plans import SearchPlan
from orchestrator.config.sections.training import TrainingConfig
from orchestrator.lanes.tune_keys import ENDED, EPOCH, TRIAL
from orchestrator.lanes.weight_transfer import WeightTransfer, take_checkpoints
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.folder.trial_folder import trial_folder
from orchestrator.records.ledger import Ledger, TrialRecord
from orchestrator.runtime.ray_private.tune import TuneController
from orchestrator.search.not_pickled import NotPickled
from search_spaces.domains import ChoiceDomain, Domain, FloatDomain, IntDomain

logger = logging.getLogger(__name__)

_FACTORS = (0.8, 1.2)


class PopulationTraining(NotPickled, FIFOScheduler):
    """Scheduler that compares all trials every few epochs; the poorest take over weights and settings of the best.

    Args:
        plan: Search plan of the sweep.
        ledger: Ledger of the sweep, for running trials and their reports; changes are recorded in it.
        folder: Folder of the sweep.
    """

    def __init__(self, plan: SearchPlan, ledger: Ledger, folder: SweepFolder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._settings, self._space = plan.trial_scheduler, plan.space
        self._seed, self._objective = plan.seed, plan.objective
        self._ledger = ledger
        self._folder = folder
        self._waiting: dict[int, Mapping[str, Any]] = {}  # newest report by number

    def on_trial_add(self, tune_controller: TuneController, trial: TuneTrial) -> None:
        """Add a trial; a wait that an earlier session ordered is lifted, a replacement in the journal carried out."""
        number, folder = _number(trial), self._trial_folder(_number(trial))
        note = WeightTransfer.read(folder)
        if note is None:
            return
        if note.donor is not None and note.epoch is None:
            name = Path(note.donor).name
            logger.warning("Trial %d keeps its weights: an earlier version has not taken those of %s", number, name)
            WeightTransfer().write(folder)
        elif note.waits:
            is_recorded = 0 < note.change <= self._ledger.trial(number).changes
            (replace(note, waits=False) if is_recorded else WeightTransfer()).write(folder)

    def on_trial_result(self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]) -> str:
        """Let a trial wait where it has reached a comparison; no trial is ever stopped."""
        if ENDED not in result and result[EPOCH] % self._settings.perturb_every == 0:
            self._waiting[_number(trial)] = result
            WeightTransfer(waits=True).write(self._trial_folder(_number(trial)))
            self._compare()
        return TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]) -> None:
        """Compare without a trial that has ended."""
        self._compare(ended=_number(trial))

    def on_trial_error(self, tune_controller: TuneController, trial: TuneTrial) -> None:
        """Compare without a trial that has ended."""
        self._compare(ended=_number(trial))

    def on_trial_remove(self, tune_controller: TuneController, trial: TuneTrial) -> None:
        """Compare without a trial that has ended."""
        self._compare(ended=_number(trial))

    def _compare(self, ended: int | None = None) -> None:
        """Decide, once all that train have reached the comparison, which trials continue and which are replaced."""
        self._waiting.pop(ended, None)  # type: ignore[arg-type]
        training = {record.number for record in self._ledger.running()} - {ended}
        if not training <= self._waiting.keys():
            return
        ranked = sorted(self._waiting, key=lambda number: (self._score(self._waiting[number]), -number))
        share = int(len(ranked) * self._settings.quantile)
        replaced = [number for number in ranked[:share] if self._replace(number, ranked[-share:])]
        for number in ranked:  # after the checkpoints of all donors are taken, which overwrite them once they continue
            if number not in replaced:
                WeightTransfer().write(self._trial_folder(number))
        self._waiting.clear()

    def _replace(self, number: int, best: Sequence[int]) -> bool:
        """Replace the weights of a poor trial by those of one of the best; False where these cannot be read.

        Its client carries out the note only once the journal has the change. Where the driver dies between the two,
        `on_trial_add` looks for the change in the journal.
        """
        epoch = self._waiting[number][EPOCH]
        seed = np.random.SeedSequence([self._seed, number, epoch]).generate_state(1)[0]
        chance = np.random.RandomState(seed)
        donor = self._ledger.trial(best[chance.randint(len(best))])
        config = _changed(donor.config, self._explore(donor, chance)) | {"number": number}
        folder, source = self._trial_folder(number), self._trial_folder(donor.number)
        try:
            take_checkpoints(source, folder)
        except OSError as error:
            kept = "keeps its weights and settings: the checkpoints of trial"
            logger.warning("Trial %d %s %d cannot be taken over (%s)", number, kept, donor.number, error)
            return False
        note = WeightTransfer(
            donor=str(source),
            config=config,
            epoch=self._waiting[donor.number][EPOCH],
            change=self._ledger.trial(number).changes + 1,
            waits=True,
        )
        note.write(folder)
        self._ledger.trial_changed(number, donor.number, epoch, config)
        replace(note, waits=False).write(folder)
        return True

    def _score(self, report: Mapping[str, Any]) -> float:
        """Return the present value of the objective; larger is better."""
        value = float(report.get(self._objective.metric, math.nan))
        score = value if self._objective.mode == "max" else -value
        return score if math.isfinite(score) else -math.inf

    def _explore(self, donor: TrialRecord, chance: np.random.RandomState) -> dict[str, Any]:
        """Return new values of the settings that may change, from those of the donor."""
        now = {**donor.config["training"], **donor.config["model"]["options"]}
        domains = {name: self._space[name] for name in self._settings.mutate if name in self._space}
        return {
            name: draw(domain, chance)
            if chance.random_sample() < self._settings.resample_probability
            else perturb(domain, now[name], chance)
            for name, domain in domains.items()
            if name in now
        }

    def _trial_folder(self, number: int) -> Path:
        return self._folder.trials / trial_folder(number)


def _number(trial: TuneTrial) -> int:
    return int(trial.config[TRIAL]["number"])


def draw(domain: Domain, chance: np.random.RandomState) -> Any:
    """Return a value as the domain would draw it."""
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
    """Return a value near the given one: a fifth more or less, or a neighbouring choice."""
    if isinstance(domain, ChoiceDomain):
        place = domain.choices.index(value) + chance.choice((-1, 1))
        return domain.choices[min(max(place, 0), len(domain.choices) - 1)]
    if isinstance(domain, FloatDomain | IntDomain):
        return _fitted(domain, value * chance.choice(_FACTORS))
    return value


def _fitted(domain: FloatDomain | IntDomain, value: float) -> float | int:
    """Return the nearest value that the domain holds."""
    low, high = domain.corners()
    value = min(max(value, low), high)
    if isinstance(domain, FloatDomain):
        return float(domain.nearest(value))
    return round(value if domain.log else low + round((value - low) / domain.step) * domain.step)


def _changed(config: Any, changes: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with other values."""
    training = {name: value for name, value in changes.items() if name in TrainingConfig.model_fields}
    options = {name: value for name, value in changes.items() if name not in training}
    model = {**config["model"], "options": {**config["model"]["options"], **options}}
    return {**config, "model": model, "training": {**config["training"], **training}}
