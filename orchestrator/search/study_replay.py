"""Replay of the ledger into the study of a resumed sweep, after which asking continues as in one session.

The ledger is written first and is therefore never behind. The replay ends trials that the study still has as running,
and rebuilds trials that a database restored from a backup has lost. Interrupted trials are set to waiting:
`study.ask()` returns them again, with the same number and parameters, before it proposes new ones. Paused trials stay
running in the study, so that it does not return them: the allocation rule decides on them.
"""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial, TrialState

from orchestrator.errors import ResumeError
from orchestrator.records.ledger import Ledger, RejectedTrial, TrialRecord, TrialStatus
from orchestrator.records.objectives import Objectives
from orchestrator.search.frozen_trials import curve, frozen_trial, notes, reported_values
from orchestrator.search.optuna_state import optuna_state
from orchestrator.search.pauses import note_pause
from orchestrator.search.samplers.learnable import REJECTED
from orchestrator.search.scores import note_constraints
from search_spaces import SearchSpace

STOPPED_BY_USER = "stopped by the user"
"""Reason of a trial that the user has stopped; its status is that of a trial stopped early."""


def replay_study(study: optuna.Study, ledger: Ledger, space: SearchSpace, objectives: Objectives) -> None:
    """Bring the study in line with the ledger before a session asks for trials.

    Args:
        study: Study of the sweep; no other driver uses it.
        ledger: Ledger of the sweep; open trials are ended in it, as finished or as interrupted.
        space: Search space of the sweep.
        objectives: Objectives and constraints of the sweep.

    Raises:
        ResumeError: The study lacks a trial that cannot be rebuilt in its place.
    """
    for record in ledger.trials():
        if not record.is_over and record.epochs >= record.config["training"]["epochs"]:
            ledger.trial_ended(record.number, TrialStatus.FINISHED, best=objectives.values(record))
        elif not record.is_over and record.steered == "stop":
            ledger.trial_ended(record.number, TrialStatus.PRUNED, STOPPED_BY_USER, best=objectives.values(record))
        elif record.steered == "pause" and record.status in (TrialStatus.RUNNING, TrialStatus.INTERRUPTED):
            ledger.trial_paused(record.number, record.epochs, objectives.values(record))
        elif record.status is TrialStatus.RUNNING:
            ledger.trial_ended(record.number, TrialStatus.INTERRUPTED, "its driver ended without recording an end")
    known = len(study.get_trials(deepcopy=False))
    numbered: list[TrialRecord | RejectedTrial] = [*ledger.trials(), *ledger.rejected()]
    for lost in sorted(numbered, key=lambda record: record.number):
        if lost.number >= known:
            known = _rebuild(study, lost, space, objectives, known)
    for trial in study.get_trials(deepcopy=False):
        if not trial.state.is_finished():
            _update(study, trial, ledger, space, objectives)


def set_waiting(study: optuna.Study, trial: optuna.Trial | FrozenTrial) -> None:
    """Put an unfinished trial back into the queue of its study."""
    study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)


def _update(
    study: optuna.Study, trial: FrozenTrial, ledger: Ledger, space: SearchSpace, objectives: Objectives
) -> None:
    if not ledger.has_trial(trial.number):  # proposed, and the driver died before it recorded the trial
        set_waiting(study, trial)
        return
    record = ledger.trial(trial.number)
    _add_params(study, trial, record, space, objectives)
    for epoch, value in curve(record, objectives).items():
        if epoch not in trial.intermediate_values:
            study._storage.set_trial_intermediate_value(trial._trial_id, epoch, value)
    for name, values in reported_values(record, objectives).items():
        if name not in trial.user_attrs:
            study._storage.set_trial_user_attr(trial._trial_id, name, values)
    if record.status is TrialStatus.PAUSED:
        note_pause(study, record, objectives)
        return
    if not record.is_over:
        set_waiting(study, trial)
        return
    _end(study, trial, record, objectives)


def _add_params(
    study: optuna.Study, trial: FrozenTrial, record: TrialRecord, space: SearchSpace, objectives: Objectives
) -> None:
    """Add the values that the database lacks, which is written behind the journal.

    Raises:
        ResumeError: The trial in the database is another one.
    """
    stored = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    if other := [name for name, value in stored.items() if record.params.get(name, value) != value]:
        raise ResumeError(
            f"trial {trial.number} of the Optuna study '{study.study_name}' has {other[0]}={stored[other[0]]!r}, in "
            f"the journal {record.params[other[0]]!r}: another program has written to the study. Remove the study from "
            "its database, and the sweep rebuilds it from the journal"
        )
    if record.params.keys() <= trial.params.keys():
        return
    rebuilt = frozen_trial(record, space, objectives)
    for name, distribution in rebuilt.distributions.items():
        if name not in trial.params:
            value = distribution.to_internal_repr(rebuilt.params[name])
            study._storage.set_trial_param(trial._trial_id, name, value, distribution)


def end_in_study(study: optuna.Study, record: TrialRecord, objectives: Objectives) -> None:
    """End a trial in the study that has ended in the ledger.

    Args:
        study: Study of the sweep.
        record: Ended trial.
        objectives: Objectives and constraints of the sweep.
    """
    trial = study.get_trials(deepcopy=False)[record.number]
    if not trial.state.is_finished():
        _end(study, trial, record, objectives)


def _end(study: optuna.Study, trial: FrozenTrial, record: TrialRecord, objectives: Objectives) -> None:
    state, values = optuna_state(record, objectives)
    note_constraints(study, trial, record, objectives)
    for name, text in notes(record).items():
        study._storage.set_trial_user_attr(trial._trial_id, name, text)
    if trial.state is TrialState.WAITING:
        study._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)  # only such a trial can end
    study.tell(trial.number, values=values, state=state)


def _rebuild(
    study: optuna.Study, record: TrialRecord | RejectedTrial, space: SearchSpace, objectives: Objectives, known: int
) -> int:
    """Add a trial that the database has lost; return the new number of its trials."""
    if record.number != known:
        raise ResumeError(
            f"the Optuna study '{study.study_name}' has {known} trials, the journal records trial {record.number} but "
            "not those between: the database is not the one this sweep was begun with"
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
