"""Sweep with two objectives and a constraint: its settings, and trials for its study."""

from __future__ import annotations

import optuna

from orchestrator import load_sweep
from orchestrator.records.ledger import TrialRecord, TrialStatus
from orchestrator.records.objectives import Objectives
from orchestrator.search.optuna_state import optuna_state
from orchestrator.search.scores import note_constraints, note_report

TWO_OBJECTIVES = {
    "name": "tiny",
    "dataset": {"name": "digits"},
    "model": {"name": "conv_resnet26_small"},
    "search": {"lr": {"type": "float", "low": 1e-3, "high": 1e-2}},
    "objective": [{"metric": "val/top1"}, {"metric": "params"}],
    "constraints": ["params <= 2e6"],
}
_SWEEP = load_sweep(TWO_OBJECTIVES)
OBJECTIVES = Objectives.of(_SWEEP.objectives, _SWEEP.constraints)


def trial_record(number: int, *epochs: tuple[float, float], status: TrialStatus = TrialStatus.FINISHED) -> TrialRecord:
    """Return a trial with its reports.

    Args:
        number: Optuna's number of the trial.
        *epochs: Accuracy and parameters reported after each epoch.
        status: Status of the trial.
    """
    reports = [
        {"epoch": float(index), "val/top1": top1, "params": params}
        for index, (top1, params) in enumerate(epochs, start=1)
    ]
    return TrialRecord(number, f"t{number}", {}, {}, 0.0, status=status, reports=reports)


def add_to_study(study: optuna.Study, record: TrialRecord, objectives: Objectives = OBJECTIVES) -> None:
    """Add a trial to a study, with its reports, constraints and end."""
    trial = study.ask()
    trial.suggest_float("lr", 0, 1)
    for report in record.reports:
        note_report(study, trial, int(report["epoch"]), report, objectives)
    note_constraints(study, trial, record, objectives)
    state, values = optuna_state(record, objectives)
    study.tell(trial, values=values, state=state)
