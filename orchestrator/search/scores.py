"""Reports of each epoch, and violations of constraints, in the study."""

from __future__ import annotations

import math
from collections.abc import Mapping

import optuna
from optuna.trial import FrozenTrial

from orchestrator.records.ledger import TrialRecord
from orchestrator.records.objectives import Objectives
from orchestrator.search.samplers.learnable import EPOCH_PREFIX


def note_report(
    study: optuna.Study, trial: optuna.Trial, epoch: int, metrics: Mapping[str, float], objectives: Objectives
) -> None:
    """Record an epoch in the study; of an epoch that is trained again the last report counts.

    Optuna takes intermediate values of a single objective only; those of several become an attribute of the trial.
    """
    known = finite_values(metrics, objectives)
    if len(objectives.metrics) > 1:
        trial.set_user_attr(epoch_attribute(epoch), known)
    elif known:
        study._storage.set_trial_intermediate_value(trial._trial_id, epoch, known[objectives.metrics[0]])


def epoch_attribute(epoch: int) -> str:
    """Return the name of the user attribute with the values of an epoch, where there are several objectives."""
    return f"{EPOCH_PREFIX}{epoch:05d}"


def finite_values(metrics: Mapping[str, float], objectives: Objectives) -> dict[str, float]:
    """Return the objectives among the metrics of an epoch, where they are finite."""
    values = {metric: metrics.get(metric, math.nan) for metric in objectives.metrics}
    return {metric: value for metric, value in values.items() if math.isfinite(value)}


def note_constraints(
    study: optuna.Study, trial: optuna.Trial | FrozenTrial, record: TrialRecord, objectives: Objectives
) -> None:
    """Record by how much a trial violates each constraint, as `Trial.set_constraint` does; may be repeated."""
    for text, violation in objectives.violations(record).items():
        study._storage.set_trial_system_attr(trial._trial_id, f"constraints:{text}", violation)
