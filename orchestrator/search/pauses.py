"""Pauses of trials in ledger, study and allocation rule, and the number of paused trials whose state is kept.

In the study a paused trial stays running, because Optuna changes no trial that has ended. Its user attribute
`paused_at` lets samplers see it as a pruned trial (`samplers/learnable.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import optuna
from optuna.trial import TrialState

from orchestrator.records.ledger import Ledger, TrialRecord
from orchestrator.records.objectives import Objectives
from orchestrator.search.samplers.learnable import PAUSED_AT
from orchestrator.search.scores import note_constraints

if TYPE_CHECKING:
    from orchestrator.search.schedulers.allocated import Allocation


class Pauses:
    """Recorder of pauses, in the thread "tune".

    Args:
        study: Study of the sweep.
        ledger: Ledger of the sweep; written before the study, as it is durable.
        objectives: Objectives and constraints of the sweep.
        allocation: Allocation rule of the sweep; None where only the user pauses trials.
        most: Number of paused trials that keep their checkpoints; the worst by rank lose theirs.
        let_go: Removes the checkpoints of a trial.
    """

    def __init__(
        self,
        study: optuna.Study,
        ledger: Ledger,
        objectives: Objectives,
        allocation: Allocation | None,
        *,
        most: int,
        let_go: Callable[[int], None],
    ) -> None:
        self._study = study
        self._ledger = ledger
        self._objectives = objectives
        self._allocation = allocation
        self._most = most
        self._let_go = let_go

    def record(self, number: int) -> None:
        """Record that a trial pauses after the newest epoch it has reported."""
        record = self._ledger.trial(number)
        self._ledger.trial_paused(number, record.epochs, self._objectives.values(record))
        self._note_in_rule(number, record.epochs)
        note_pause(self._study, record, self._objectives)

    def bound(self) -> None:
        """Remove the checkpoints of the worst paused trials beyond the number that is kept."""
        restorable = self._ledger.restorable()
        if len(restorable) <= self._most:
            return
        for record in sorted(restorable, key=self._objectives.rank)[self._most :]:
            self._ledger.trial_paused(record.number, 0, self._objectives.values(record))
            self._note_in_rule(record.number, 0)
            self._let_go(record.number)

    def _note_in_rule(self, number: int, resume_epoch: int) -> None:
        if self._allocation is not None:
            self._allocation.pause(number, resume_epoch)


def note_pause(study: optuna.Study, record: TrialRecord, objectives: Objectives) -> None:
    """Mark a trial as paused in the study; may be repeated."""
    trial_id = study._storage.get_trial_id_from_study_id_trial_number(study._study_id, record.number)
    trial = study._storage.get_trial(trial_id)
    if trial.state is TrialState.WAITING:
        study._storage.set_trial_state_values(trial_id, TrialState.RUNNING)
    study._storage.set_trial_user_attr(trial_id, PAUSED_AT, record.epochs)
    note_constraints(study, trial, record, objectives)


def begin_again(study: optuna.Study, number: int) -> optuna.Trial:
    """Return a paused or interrupted trial of the study as a running one."""
    storage = study._storage
    trial_id = storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
    if storage.get_trial(trial_id).state is TrialState.WAITING:
        storage.set_trial_state_values(trial_id, TrialState.RUNNING)
    return optuna.Trial(study, trial_id)
