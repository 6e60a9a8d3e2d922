"""Transfer of reports and ends from Tune to the ledger, the study and the lanes."""

from __future__ import annotations

import logging
import threading
from typing import Any

import optuna
import ray
from optuna.trial import TrialState
from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial

from orchestrator.errors import StorageError, StorageFullError
from orchestrator.lanes.messages import Outcome
from orchestrator.lanes.tune_keys import ENDED, EPOCH, FAILURES, HELD, LANE, NODES, REPORTED, TRIAL
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.records.objectives import Objectives
from orchestrator.search.not_pickled import NotPickled
from orchestrator.search.optuna_state import optuna_state
from orchestrator.search.pauses import Pauses, begin_again
from orchestrator.search.racing import record_mean
from orchestrator.search.samplers.samplers import OUTCOME
from orchestrator.search.schedulers.allocated import Allocation
from orchestrator.search.scores import note_constraints, note_report
from orchestrator.search.searcher import StudySearcher
from orchestrator.search.study_replay import STOPPED_BY_USER, end_in_study, set_waiting
from orchestrator.uris import without_secrets

logger = logging.getLogger(__name__)

_TIMEOUT_S = 30.0


class SweepCallback(NotPickled, Callback):
    """Callback of Tune that passes every report and every end to the ledger, the study and the lanes.

    Its `on_` methods run in the thread "tune"; `end_running` may run in the driver's main thread meanwhile.

    Args:
        searcher: Searcher that maps Tune trials to Optuna trials.
        study: Study of the sweep.
        objectives: Objectives and constraints of the sweep.
        ledger: Ledger of the sweep; written before the study, as it is durable.
        hub: Handle of the lane hub, which releases the lane of a trial that Tune has ended.
        acknowledges: Whether a trial that Tune continues may begin its next epoch before its actor is asked for it;
            not where trials exchange weights, as the actor has to look for those of another trial first.
        allocation: Allocation rule of the sweep; None where its trial scheduler pauses no trial.
        pauses: Recorder of pauses; None where no trial can be paused.

    Attributes:
        disk_full: Where there is no room for a checkpoint, and how much it needs; empty where there is.
    """

    def __init__(
        self,
        searcher: StudySearcher,
        study: optuna.Study,
        objectives: Objectives,
        ledger: Ledger,
        hub: Any,
        *,
        acknowledges: bool = False,
        allocation: Allocation | None = None,
        pauses: Pauses | None = None,
    ) -> None:
        self._searcher = searcher
        self._study = study
        self._ledger = ledger
        self._hub = hub
        self._acknowledges = acknowledges
        self._objectives = objectives
        self._allocation = allocation
        self._pauses = pauses
        self._lock = threading.Lock()
        self.disk_full = ""

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        """Record an epoch."""
        with self._lock:
            asked = self._searcher.asked.get(trial.trial_id)
            if asked is None:
                return  # it has ended
            record = self._ledger.trial(asked.number)
            if ENDED in result or record.status is not TrialStatus.RUNNING or result[EPOCH] <= record.epochs:
                return  # a Tune actor in the place of one that died repeats the last epoch
            metrics = dict(result[REPORTED])
            where = {"held_s": result[HELD], "lane": result[LANE], "nodes": result[NODES]}
            self._ledger.trial_reported(asked.number, result[EPOCH], metrics, **where, failures=result[FAILURES])
            if self._acknowledges and not result.get("done"):  # as the stopper or the trial scheduler has decided
                self._hub.acknowledge.remote(trial.trial_id, result[EPOCH])
            note_report(self._study, asked, result[EPOCH], metrics, self._objectives)
            if self._allocation is not None:  # a last epoch does not pass through the trial scheduler
                self._allocation.report(asked.number, result[EPOCH], metrics, result[HELD])

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Record the end of a trial: at its last epoch, early, for a pause, or because the sweep ends."""
        result = trial.last_result or {}
        if result.get(ENDED) in (Outcome.FAILED, Outcome.DIVERGED):
            self._end_failed(trial)
        elif ENDED in result or EPOCH not in result:
            self._end(trial.trial_id, TrialStatus.INTERRUPTED, "the sweep was ended")
        elif result[EPOCH] >= _configured_epochs(trial):
            self._end(trial.trial_id, TrialStatus.FINISHED)
        else:
            self._leave(trial.trial_id)
        _forget_statistics(trial)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Record the failure of a trial whose Tune actors died repeatedly."""
        self._end_failed(trial)
        _forget_statistics(trial)

    def stop(self, number: int) -> bool:
        """End a trial that Tune does not have, and that the ledger has recorded as stopped; in the main thread.

        Args:
            number: Number of the trial.

        Returns:
            Whether it has ended; one that runs ends at its next report.
        """
        with self._searcher.lock, self._lock:
            if self._searcher.is_running(number):
                return False
            if not self._ledger.trial(number).is_over:
                self._end_resting(number)
            return True

    def _end_resting(self, number: int) -> None:
        """End a trial for good that waits in the study or is paused."""
        record = self._ledger.trial(number)
        self._ledger.trial_ended(number, TrialStatus.PRUNED, STOPPED_BY_USER, self._objectives.values(record))
        record_mean(self._ledger, self._objectives, number)
        if self._allocation is not None:
            self._allocation.end(number)
        begin_again(self._study, number)
        end_in_study(self._study, self._ledger.trial(number), self._objectives)

    def _leave(self, tune_id: str) -> None:
        """Record that Tune has ended a trial before its last epoch: stopped, paused, or because the sweep ends."""
        with self._lock:
            asked = self._searcher.asked.pop(tune_id, None)
            if asked is None:
                return  # interrupted meanwhile
            number, steered = asked.number, self._ledger.trial(asked.number).steered
            by_rule = self._allocation is not None and self._allocation.is_pausing(number)
            if steered == "stop":
                self._record_end(tune_id, asked, TrialStatus.PRUNED, STOPPED_BY_USER)
            elif self._pauses is not None and (by_rule or steered == "pause"):
                self._pauses.record(number)
                self._hub.release.remote(tune_id)
                self._pauses.bound()
            elif self._allocation is not None:
                self._record_end(tune_id, asked, TrialStatus.INTERRUPTED, "the sweep was ended")
            else:
                self._record_end(tune_id, asked, TrialStatus.PRUNED, "")

    def _end_failed(self, trial: TuneTrial) -> None:
        """Record that a trial diverged or failed, which does not affect the others, or that the disk is full."""
        outcome = ray.get(self._hub.outcome.remote(trial.trial_id), timeout=_TIMEOUT_S)
        if outcome is not None and outcome.disk_full:
            self._searcher.closed = True  # before the trial, which can be resumed, is asked for again
            self.disk_full = outcome.reason.splitlines()[0].removeprefix(f"{StorageFullError.__name__}: ")
            self._end(trial.trial_id, TrialStatus.INTERRUPTED, "the disk is full")
            return
        reason = outcome.reason if outcome is not None else "its Tune actors died; see the logs of Ray"
        diverged = outcome is not None and outcome.kind is Outcome.DIVERGED
        self._end(trial.trial_id, TrialStatus.DIVERGED if diverged else TrialStatus.FAILED, reason)

    def end_running(self, reason: str) -> None:
        """Interrupt the trials that are still open when the sweep ends, so that no record stays RUNNING.

        Args:
            reason: Reason of the interruption, for the journal.
        """
        with self._lock:
            running = {record.number for record in self._ledger.running()}
            left = [tune_id for tune_id, asked in list(self._searcher.asked.items()) if asked.number in running]
        for tune_id in left:
            self._end(tune_id, TrialStatus.INTERRUPTED, reason)

    def _end(self, tune_id: str, status: TrialStatus, reason: str = "") -> None:
        """Record the end of a trial once; the thread "tune" and the main thread may both call this."""
        with self._lock:
            asked = self._searcher.asked.pop(tune_id, None)
            if asked is not None:
                self._record_end(tune_id, asked, status, reason)

    def _record_end(self, tune_id: str, asked: optuna.Trial, status: TrialStatus, reason: str) -> None:
        record = self._ledger.trial(asked.number)
        self._ledger.trial_ended(asked.number, status, reason, self._objectives.values(record))
        record_mean(self._ledger, self._objectives, asked.number)
        if self._allocation is not None and status is not TrialStatus.INTERRUPTED:
            self._allocation.end(asked.number)
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
        """Requeue a trial; where the database does not answer, the next session does so from the journal."""
        try:
            set_waiting(self._study, asked)
        except StorageError as error:
            logger.warning("Trial %d is not yet marked as waiting in its study: %s", asked.number, error)


def _configured_epochs(trial: TuneTrial) -> int:
    return int(trial.config[TRIAL]["training"]["epochs"])


def _forget_statistics(trial: TuneTrial) -> None:
    """Drop the statistics of a trial: Tune keeps 17 kB of averages and queues for each, which nothing reads."""
    trial.run_metadata.metric_analysis = {}
    trial.run_metadata.metric_n_steps = {}
