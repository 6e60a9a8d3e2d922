"""What Optuna is told of a trial's end."""

from __future__ import annotations

from optuna.trial import TrialState

from orchestrator.config.schema import SweepConfig
from orchestrator.ledger import TrialRecord, TrialStatus

_STATES = {
    TrialStatus.FINISHED: TrialState.COMPLETE,
    TrialStatus.PRUNED: TrialState.PRUNED,
    TrialStatus.DIVERGED: TrialState.FAIL,  # shown to the sampler as a poor one; see `samplers`
    TrialStatus.FAILED: TrialState.FAIL,
    TrialStatus.INTERRUPTED: TrialState.WAITING,  # asked again when the sweep is resumed
}


def verdict(record: TrialRecord, config: SweepConfig) -> tuple[TrialState, float | None]:
    """State and value of a trial that trains no more.

    Args:
        record: Of the trial.
        config: Names the objective.
    """
    state = _STATES[record.status]
    value = record.best(config.objective.metric, config.objective.mode)
    if state is TrialState.COMPLETE and value is None:
        return TrialState.FAIL, None  # Optuna refuses a success without a value
    return state, value if state is TrialState.COMPLETE else None
