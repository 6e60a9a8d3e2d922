"""Optuna behind Ray Tune: proposes trials through ask and tell, and learns what really became of them.

Ray's own `OptunaSearch` tells a trial that was stopped early as complete, and forgets failed ones (see
docs/decisions). Here the searcher only asks; a Tune callback sees every report and every end, and tells.
"""

from __future__ import annotations

import math
import re
import threading
import warnings
from pathlib import Path
from typing import Any

import optuna
import ray
from optuna.trial import TrialState
from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from orchestrator.config.schema import SamplerConfig, SweepConfig, resolve_trial
from orchestrator.lanes.client import ENDED, EPOCH, REPORTED
from orchestrator.lanes.messages import Fate
from orchestrator.ledger import Ledger, TrialStatus

_ANSWER_S = 30.0
_STATES = {
    TrialStatus.FINISHED: TrialState.COMPLETE,
    TrialStatus.PRUNED: TrialState.PRUNED,
    TrialStatus.DIVERGED: TrialState.PRUNED,  # a failed trial would teach the sampler nothing
    TrialStatus.FAILED: TrialState.FAIL,
    TrialStatus.INTERRUPTED: TrialState.FAIL,
}


def create_study(config: SweepConfig, name: str, database: Path) -> optuna.Study:
    """A new study in the sweep's Optuna database.

    Args:
        config: Sampler, seed and objective.
        name: Of the sweep; unique in the database.
        database: The sqlite file.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Both are experimental by name only: several years old, and the only way to say what they say.
    for subject in ("Argument ``group``", "optuna.study.study.Study.set_metric_names"):
        warnings.filterwarnings("ignore", message=re.escape(subject), category=optuna.exceptions.ExperimentalWarning)
    study = optuna.create_study(
        study_name=name,
        storage=f"sqlite:///{database.resolve()}",
        sampler=_sampler(config.sampler, config.seed),
        direction="maximize" if config.objective.mode == "max" else "minimize",
    )
    study.set_metric_names([config.objective.metric])
    study.set_user_attr("space_fingerprint", config.space.fingerprint)
    return study


def _sampler(sampler: SamplerConfig, seed: int) -> optuna.samplers.BaseSampler:
    if sampler.name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    # `group` lets the multivariate model handle names that are present under a condition only.
    return optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=sampler.startup_trials, multivariate=True, group=True, constant_liar=True
    )


def create_trial_scheduler(config: SweepConfig) -> TrialScheduler:
    """What decides after each epoch whether a trial goes on."""
    if config.trial_scheduler.name == "none":
        return FIFOScheduler()
    return AsyncHyperBandScheduler(
        time_attr=EPOCH,
        max_t=config.max_epochs,
        grace_period=config.trial_scheduler.grace_epochs,
        reduction_factor=config.trial_scheduler.reduction_factor,
    )


class NotPickled:
    """Tune pickles what it is given, as a cache we do without: the truth is in the database and the journal."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> NotPickled:
        return self


class StudySearcher(NotPickled, Searcher):
    """Asks the study for configurations on Tune's behalf.

    Args:
        study: Of this sweep.
        config: Of this sweep.
        ledger: Told of every trial.
    """

    def __init__(self, study: optuna.Study, config: SweepConfig, ledger: Ledger) -> None:
        super().__init__(metric=config.objective.metric, mode=config.objective.mode)
        self._study = study
        self._config = config
        self._space = config.space
        self._ledger = ledger
        self.asked: dict[str, optuna.Trial] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next configuration, whole, under the key `trial`."""
        trial = self._study.ask()
        params = self._space.sample(trial)
        trial.set_user_attr("tune_trial", trial_id)
        config = resolve_trial(self._config, trial.number, params).model_dump(mode="json")
        self.asked[trial_id] = trial
        self._ledger.trial_started(trial.number, trial_id, params, config)
        return {"trial": config}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing to do: `SweepCallback` tells the study, knowing the reason."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the truth is in the study's database."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **_: Any) -> bool:
        """Accepts Tune's wish when it is empty: the space is ours."""
        return not config


class SweepCallback(NotPickled, Callback):
    """Carries every report and every end from Tune to the study, the ledger and the lanes.

    Args:
        searcher: Knows which Optuna trial belongs to which Tune trial.
        study: Of this sweep.
        config: Of this sweep.
        ledger: Told first; it is durable.
        hub: Handle of the lane hub, whose lane is released when Tune has ended a trial.
    """

    def __init__(
        self, searcher: StudySearcher, study: optuna.Study, config: SweepConfig, ledger: Ledger, hub: Any
    ) -> None:
        self._searcher = searcher
        self._study = study
        self._config = config
        self._ledger = ledger
        self._hub = hub
        self._lock = threading.Lock()

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        """An epoch is done."""
        asked = self._searcher.asked[trial.trial_id]
        with self._lock:
            if ENDED in result or not self._is_running(asked.number):
                return
            metrics = result[REPORTED]
            self._ledger.trial_reported(asked.number, result[EPOCH], metrics)
            value = metrics[self._config.objective.metric]
            if math.isfinite(value):
                asked.report(value, step=result[EPOCH])

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Tune has ended a trial: at its last epoch, early, or because the sweep ends."""
        result = trial.last_result or {}
        if ENDED in result or EPOCH not in result:
            self._end(trial.trial_id, TrialStatus.INTERRUPTED, "the sweep was ended")
        elif result[EPOCH] >= self._config_epochs(trial):
            self._end(trial.trial_id, TrialStatus.FINISHED)
        else:
            self._end(trial.trial_id, TrialStatus.PRUNED)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """A trial diverged or failed; the others do not notice."""
        ending = ray.get(self._hub.ending.remote(trial.trial_id), timeout=_ANSWER_S)
        reason = ending.reason if ending is not None else "its Tune actor died; see the logs of Ray"
        diverged = ending is not None and ending.fate is Fate.DIVERGED
        self._end(trial.trial_id, TrialStatus.DIVERGED if diverged else TrialStatus.FAILED, reason)

    def end_running(self, reason: str) -> None:
        """Ends what is still open when the sweep is over, so that no record says RUNNING for ever."""
        by_number = {asked.number: tune_id for tune_id, asked in self._searcher.asked.items()}
        for record in self._ledger.running():
            self._end(by_number[record.number], TrialStatus.INTERRUPTED, reason)

    def _is_running(self, number: int) -> bool:
        return self._ledger.trial(number).status is TrialStatus.RUNNING

    def _end(self, tune_id: str, status: TrialStatus, reason: str = "") -> None:
        """Ends a trial once; Tune's thread and the one that ends the sweep may both come here."""
        with self._lock:
            if self._is_running(self._searcher.asked[tune_id].number):
                self._close_books(tune_id, status, reason)

    def _close_books(self, tune_id: str, status: TrialStatus, reason: str) -> None:
        asked = self._searcher.asked[tune_id]
        record = self._ledger.trial(asked.number)
        self._ledger.trial_ended(asked.number, status, reason)
        self._hub.release.remote(tune_id)
        if reason:
            asked.set_user_attr("reason", reason)
        value = record.best(self._config.objective.metric, self._config.objective.mode)
        # Optuna refuses a success without a value, which training whose objective was never finite leaves.
        unscored = status is TrialStatus.FINISHED and value is None
        state = TrialState.FAIL if unscored else _STATES[status]
        values = value if state is TrialState.COMPLETE else None
        self._study.tell(asked, values=values, state=state, skip_if_finished=True)

    def _config_epochs(self, trial: TuneTrial) -> int:
        return int(trial.config["trial"]["training"]["epochs"])
