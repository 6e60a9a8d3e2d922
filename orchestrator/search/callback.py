"""Carries what Tune sees to the study, the ledger and the lanes."""

from __future__ import annotations

import logging
import threading
from typing import Any

import optuna
import ray
from optuna.trial import TrialState
from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial

from orchestrator.errors import StorageError
from orchestrator.lanes.messages import Outcome
from orchestrator.lanes.trial_client import ENDED, EPOCH, HELD, LANE, NODES, REPORTED, TRIAL
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.records.objectives import Objectives
from orchestrator.search.not_pickled import NotPickled
from orchestrator.search.optuna_state import optuna_state
from orchestrator.search.samplers.samplers import OUTCOME
from orchestrator.search.scores import note_constraints, note_report
from orchestrator.search.searcher import StudySearcher
from orchestrator.search.study_replay import set_waiting
from orchestrator.uris import without_secrets

logger = logging.getLogger(__name__)

_ANSWER_S = 30.0


class SweepCallback(NotPickled, Callback):
    """Carries every report and every end from Tune to the study, the ledger and the lanes.

    Args:
        searcher: Knows which Optuna trial belongs to which Tune trial.
        study: Of this sweep.
        objectives: Objectives and constraints of the sweep.
        ledger: Told first; it is durable.
        hub: Handle of the lane hub, whose lane is released when Tune has ended a trial.
    """

    def __init__(
        self, searcher: StudySearcher, study: optuna.Study, objectives: Objectives, ledger: Ledger, hub: Any
    ) -> None:
        self._searcher = searcher
        self._study = study
        self._ledger = ledger
        self._hub = hub
        self._objectives = objectives
        self._lock = threading.Lock()

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        """An epoch is done."""
        with self._lock:
            asked = self._searcher.asked.get(trial.trial_id)
            if asked is None:
                return  # it has ended
            record = self._ledger.trial(asked.number)
            if ENDED in result or record.status is not TrialStatus.RUNNING or result[EPOCH] <= record.epochs:
                return  # a Tune actor in the place of one that died repeats the last epoch
            metrics = dict(result[REPORTED])
            where = {"held_s": result[HELD], "lane": result[LANE], "nodes": result[NODES]}
            self._ledger.trial_reported(asked.number, result[EPOCH], metrics, **where)
            note_report(self._study, asked, result[EPOCH], metrics, self._objectives)

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Tune has ended a trial: at its last epoch, early, because the sweep ends, or for a reason of its own."""
        result = trial.last_result or {}
        if result.get(ENDED) in (Outcome.FAILED, Outcome.DIVERGED):
            self._end_badly(trial)
        elif ENDED in result or EPOCH not in result:
            self._end(trial.trial_id, TrialStatus.INTERRUPTED, "the sweep was ended")
        elif result[EPOCH] >= _configured_epochs(trial):
            self._end(trial.trial_id, TrialStatus.FINISHED)
        else:
            self._end(trial.trial_id, TrialStatus.PRUNED)
        _forget_statistics(trial)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """The actors of a trial died again and again."""
        self._end_badly(trial)
        _forget_statistics(trial)

    def _end_badly(self, trial: TuneTrial) -> None:
        """A trial diverged or failed; the others do not notice."""
        outcome = ray.get(self._hub.outcome.remote(trial.trial_id), timeout=_ANSWER_S)
        reason = outcome.reason if outcome is not None else "its Tune actors died; see the logs of Ray"
        diverged = outcome is not None and outcome.kind is Outcome.DIVERGED
        self._end(trial.trial_id, TrialStatus.DIVERGED if diverged else TrialStatus.FAILED, reason)

    def end_running(self, reason: str) -> None:
        """Ends what is still open when the sweep is over, so that no record says RUNNING for ever."""
        with self._lock:
            running = {record.number for record in self._ledger.running()}
            left = [tune_id for tune_id, asked in list(self._searcher.asked.items()) if asked.number in running]
        for tune_id in left:
            self._end(tune_id, TrialStatus.INTERRUPTED, reason)

    def _end(self, tune_id: str, status: TrialStatus, reason: str = "") -> None:
        """Ends a trial once; Tune's thread and the one that ends the sweep may both come here."""
        with self._lock:
            asked = self._searcher.asked.pop(tune_id, None)
            if asked is not None:
                self._close_books(tune_id, asked, status, reason)

    def _close_books(self, tune_id: str, asked: optuna.Trial, status: TrialStatus, reason: str) -> None:
        record = self._ledger.trial(asked.number)
        self._ledger.trial_ended(asked.number, status, reason, self._objectives.values(record))
        self._hub.release.remote(tune_id)
        state, values = optuna_state(record, self._objectives)
        if state is TrialState.WAITING:
            self._set_waiting(asked)
            return
        asked.set_user_attr(OUTCOME, str(status))
        if reason:
            asked.set_user_attr("reason", without_secrets(reason))
        note_constraints(self._study, asked, record, self._objectives)
        self._study.tell(asked, values=values, state=state, skip_if_finished=True)

    def _set_waiting(self, asked: optuna.Trial) -> None:
        """A database that is gone is no reason to stay: the next session will do it from the journal."""
        try:
            set_waiting(self._study, asked)
        except StorageError as error:
            logger.warning("Trial %d is not yet marked as waiting in its study: %s", asked.number, error)


def _configured_epochs(trial: TuneTrial) -> int:
    return int(trial.config[TRIAL]["training"]["epochs"])


def _forget_statistics(trial: TuneTrial) -> None:
    """Tune keeps every trial, with averages and queues for each number of its reports: 17 kB that nobody reads."""
    trial.run_metadata.metric_analysis = {}
    trial.run_metadata.metric_n_steps = {}
