"""State and values of ended trials for Optuna."""

from __future__ import annotations

from optuna.trial import TrialState

from orchestrator.records.ledger import TrialRecord, TrialStatus
from orchestrator.records.objectives import Objectives

_STATES = {
    TrialStatus.FINISHED: TrialState.COMPLETE,
    TrialStatus.PRUNED: TrialState.PRUNED,
    TrialStatus.DIVERGED: TrialState.FAIL,  # shown to the sampler as a poor trial; see `samplers`
    TrialStatus.FAILED: TrialState.FAIL,
    TrialStatus.INTERRUPTED: TrialState.WAITING,  # asked again when the sweep is resumed
    TrialStatus.PAUSED: TrialState.RUNNING,  # Optuna changes no trial that has ended; see `pauses`
}


def optuna_state(record: TrialRecord, objectives: Objectives) -> tuple[TrialState, list[float] | None]:
    """Return the Optuna state and the values of a trial that trains no more.

    Args:
        record: Record of the trial.
        objectives: Objectives and constraints of the sweep.
    """
    state = _STATES[record.status]
    if state is not TrialState.COMPLETE:
        return state, None
    values = objectives.values(record)
    if len(values) < len(objectives.configs):
        return TrialState.FAIL, None  # Optuna refuses a success without all its values
    return state, [values[metric] for metric in objectives.metrics]
