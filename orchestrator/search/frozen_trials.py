"""Trials of the journal as Optuna's frozen trials, for a database that has lost them and for the report."""

from __future__ import annotations

import math

import optuna
from optuna.trial import FrozenTrial

from orchestrator.records.ledger import TrialRecord, TrialStatus
from orchestrator.records.objectives import Objectives
from orchestrator.search.optuna_state import optuna_state
from orchestrator.search.samplers.learnable import OUTCOME, PAUSED_AT, REPEATS, REPLICATE
from orchestrator.search.scores import epoch_attribute, finite_values
from search_spaces import SearchSpace


def frozen_trial(record: TrialRecord, space: SearchSpace, objectives: Objectives) -> FrozenTrial:
    """Return a frozen trial with the state, values, curve and notes of a recorded trial.

    Args:
        record: Record of the trial.
        space: Space that the trial was drawn from.
        objectives: Objectives and constraints of the sweep.

    Raises:
        ValueError: The space could not have drawn the trial.
    """
    params = optuna.trial.FixedTrial(dict(record.params))
    space.sample(params)
    state, values = optuna_state(record, objectives)
    return optuna.trial.create_trial(
        state=state,
        values=values,
        params=params.params,
        distributions=params.distributions,
        intermediate_values=curve(record, objectives),
        user_attrs={**reported_values(record, objectives), **notes(record)},
        constraints=objectives.violations(record) if state.is_finished() else {},
    )


def notes(record: TrialRecord) -> dict[str, str | int]:
    """Return the user attributes of a trial."""
    attributes: dict[str, str | int] = {"tune_trial": record.tune_id}
    if record.repeats is not None:
        attributes |= {REPEATS: record.repeats, REPLICATE: record.replicate}
    if record.status is TrialStatus.PAUSED:
        attributes[PAUSED_AT] = record.epochs
    if record.is_over:
        attributes |= {OUTCOME: str(record.status), **({"reason": record.reason} if record.reason else {})}
    return attributes


def curve(record: TrialRecord, objectives: Objectives) -> dict[int, float]:
    """Return a single objective by epoch, where it is finite; nothing of several objectives."""
    if len(objectives.metrics) > 1:
        return {}
    metric = objectives.metrics[0]
    found = {int(report["epoch"]): report.get(metric, math.nan) for report in record.reports}
    return {epoch: value for epoch, value in found.items() if math.isfinite(value)}


def reported_values(record: TrialRecord, objectives: Objectives) -> dict[str, dict[str, float]]:
    """Return the user attributes with the values of several objectives by epoch; nothing of a single one."""
    if len(objectives.metrics) == 1:
        return {}
    return {epoch_attribute(int(report["epoch"])): finite_values(report, objectives) for report in record.reports}
