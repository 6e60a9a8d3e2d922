"""Brings the study of a resumed sweep to where its ledger stands, so that asking goes on as if nothing had happened.

The ledger is written first and is therefore never behind: it ends what the study still calls running, and rebuilds
trials that a database restored from a backup has lost. What was interrupted is set to wait: `study.ask()` hands it
out again, with the same number and the same parameters, before it proposes anything new.
"""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial, TrialState

from orchestrator.errors import ResumeError
from orchestrator.records.ledger import Ledger, RejectedTrial, TrialRecord, TrialStatus
from orchestrator.records.objectives import Objectives
from orchestrator.search.frozen_trials import curve, frozen_trial, notes
from orchestrator.search.optuna_state import optuna_state
from orchestrator.search.samplers.learnable import REJECTED
from orchestrator.search.scores import note_constraints
from search_spaces import SearchSpace


def replay_study(study: optuna.Study, ledger: Ledger, space: SearchSpace, objectives: Objectives) -> None:
    """Makes study and ledger agree before a resumed sweep asks for more.

    Args:
        study: Of the sweep; no other driver works on it.
        ledger: Of the sweep; trials it finds trained to the end are ended in it.
        space: Search space of the sweep.
        objectives: Objectives and constraints of the sweep.

    Raises:
        ResumeError: The study lacks a trial that cannot be rebuilt in its place.
    """
    for record in ledger.trials():
        if not record.is_over and record.epochs >= record.config["training"]["epochs"]:
            ledger.trial_ended(record.number, TrialStatus.FINISHED, best=objectives.values(record))
        elif record.status is TrialStatus.RUNNING:
            ledger.trial_ended(record.number, TrialStatus.INTERRUPTED, "its driver ended without a word")
    known = len(study.get_trials(deepcopy=False))
    numbered: list[TrialRecord | RejectedTrial] = [*ledger.trials(), *ledger.rejected()]
    for lost in sorted(numbered, key=lambda record: record.number):
        if lost.number >= known:
            known = _rebuild(study, lost, space, objectives, known)
    for trial in study.get_trials(deepcopy=False):
        if not trial.state.is_finished():
            _bring_up_to_date(study, trial, ledger, objectives)


def set_waiting(study: optuna.Study, trial: optuna.Trial | FrozenTrial) -> None:
    """Puts an unfinished trial back in the queue of its study."""
    study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)


def _bring_up_to_date(study: optuna.Study, trial: FrozenTrial, ledger: Ledger, objectives: Objectives) -> None:
    if not ledger.has_trial(trial.number):  # asked, and the driver died before it could say so
        set_waiting(study, trial)
        return
    record = ledger.trial(trial.number)
    for epoch, value in curve(record, objectives).items():
        if epoch not in trial.intermediate_values and len(study.directions) == 1:
            study._storage.set_trial_intermediate_value(trial._trial_id, epoch, value)
    if not record.is_over:
        set_waiting(study, trial)
        return
    state, values = optuna_state(record, objectives)
    note_constraints(study, trial, record, objectives)
    for name, text in notes(record).items():
        study._storage.set_trial_user_attr(trial._trial_id, name, text)
    study.tell(trial.number, values=values, state=state)


def _rebuild(
    study: optuna.Study, record: TrialRecord | RejectedTrial, space: SearchSpace, objectives: Objectives, known: int
) -> int:
    """Adds a trial the database has lost; returns how many it knows now."""
    if record.number != known:
        raise ResumeError(
            f"the Optuna study '{study.study_name}' has {known} trials, the journal tells of trial {record.number} but "
            "not of those between: the database is not the one this sweep was begun with"
        )
    if isinstance(record, RejectedTrial):
        params = optuna.trial.FixedTrial(dict(record.params))
        space.sample(params)
        attrs = {REJECTED: f"{record.rule}: {record.reason}"}
        made = optuna.trial.create_trial(
            state=TrialState.FAIL, params=params.params, distributions=params.distributions, user_attrs=attrs
        )
        study.add_trial(made)
        return known + 1
    study.add_trial(frozen_trial(record, space, objectives))
    return known + 1
