"""Several objectives and constraints: what trials are worth, the front, and what Optuna is told."""

from __future__ import annotations

import math
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from orchestrator import load_sweep
from orchestrator.config.sections.objective import parse_constraint
from orchestrator.errors import ConfigError
from orchestrator.records.ledger import TrialRecord, TrialStatus
from orchestrator.records.objectives import Objectives
from orchestrator.search.optuna_state import optuna_state
from orchestrator.search.scores import note_constraints, note_report

SWEEP = {
    "name": "tiny",
    "dataset": {"name": "digits"},
    "model": {"name": "conv_resnet26_small"},
    "search": {"lr": {"type": "float", "low": 1e-3, "high": 1e-2}},
    "objective": [{"metric": "val/top1"}, {"metric": "params"}],
    "constraints": ["params <= 2e6"],
}
_CONFIG = load_sweep(SWEEP)
OBJECTIVES = Objectives.of(_CONFIG.objectives, _CONFIG.constraints)


def record(number: int, *epochs: tuple[float, float], status: TrialStatus = TrialStatus.FINISHED) -> TrialRecord:
    reports = [
        {"epoch": float(index), "val/top1": top1, "params": params}
        for index, (top1, params) in enumerate(epochs, start=1)
    ]
    return TrialRecord(number, f"t{number}", {}, {}, 0.0, status=status, reports=reports)


def test_objectives_are_one_or_several_and_know_their_way() -> None:
    config = load_sweep(SWEEP)
    assert [(each.metric, each.mode) for each in config.objectives] == [("val/top1", "max"), ("params", "min")]
    assert config.objective.metric == "val/top1"
    assert config.measured_costs == {"params"}
    one = load_sweep({**SWEEP, "objective": {"metric": "val/loss"}, "constraints": []})
    assert (one.objective.mode, one.measured_costs) == ("min", frozenset())
    for each in (config, one):
        assert load_sweep(each.model_dump(mode="json")) == each
    assert one.model_dump(mode="json")["objective"] == {"metric": "val/loss", "mode": "min"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": [{"metric": "val/top1"}, {"metric": "parms"}]}, "objective.1.metric.*Did you mean 'params'?"),
        ({"objective": {"metric": "params"}}, "Put val/top1 before it"),
        ({"objective": []}, "objective: is empty"),
        ({"objective": [{"metric": "val/top1"}] * 2}, "a second time"),
        ({"objective": [{"metric": "val/top1", "mode": "most"}]}, "objective.0.mode"),
        ({"objective": [{"metric": "val/top1"}, {"metric": "span/mean_px"}]}, "conv_resnet26_small learns no spans"),
        ({"constraints": ["params < 3", "parms <= 3"]}, r"(?s)constraints.0: got 'params < 3'.*Did you mean 'params'"),
        ({"constraints": ["params <= many"]}, "must be a metric, <= or >=, and a number"),
        ({"constraints": ["params <= 3", "params <= 3"]}, "constraints.1.*a second time"),
        ({"constraints": "params <= 3"}, "constraints"),
    ],
)
def test_what_is_wrong_with_objectives_is_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_sweep({**SWEEP, **changes})


def test_a_constraint_says_how_far_it_is_broken() -> None:
    assert parse_constraint("params <= 2e6").violation(2.5e6) == 0.5e6
    assert parse_constraint(" val/top1>=.9 ").violation(0.95) == pytest.approx(-0.05)


def test_a_trial_is_worth_what_its_best_epoch_is() -> None:
    trial = record(0, (0.5, 3e6), (0.9, 1e6), (0.8, 2e6))
    assert OBJECTIVES.values(trial) == {"val/top1": 0.9, "params": 1e6}
    assert OBJECTIVES.is_feasible(trial)
    assert not OBJECTIVES.is_feasible(record(1, (0.9, 3e6)))
    assert OBJECTIVES.violations(record(2)) == {}
    assert OBJECTIVES.violations(record(3, (0.9, math.nan))) == {"params <= 2e6": math.inf}


def test_the_front_holds_what_no_other_beats() -> None:
    records = [
        record(0, (0.90, 1.0e6)),
        record(1, (0.80, 0.5e6)),
        record(2, (0.85, 1.1e6)),  # beaten by 0
        record(3, (0.99, 3.0e6)),  # beyond the constraint
        record(4, (0.95, 0.1e6), status=TrialStatus.PRUNED),
        record(5, (0.90, 1.0e6)),  # equals 0
        record(6, (0.95, 1.5e6)),
    ]
    assert [each.number for each in OBJECTIVES.pareto_front(records)] == [6, 0, 5, 1]


def tell(study: optuna.Study, trial_record: TrialRecord, objectives: Objectives = OBJECTIVES) -> None:
    trial = study.ask()
    trial.suggest_float("lr", 0, 1)
    for report in trial_record.reports:
        note_report(study, trial, int(report["epoch"]), report, objectives)
    note_constraints(study, trial, trial_record, objectives)
    state, values = optuna_state(trial_record, objectives)
    study.tell(trial, values=values, state=state)


def test_the_study_learns_values_constraints_and_every_epoch() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    tell(study, record(0, (0.5, 1e6), (0.9, 1e6)))
    tell(study, record(1, (0.8, 2.5e6)))
    tell(study, record(2, (0.1, 1e6), status=TrialStatus.PRUNED))
    tell(study, record(3, (0.7, math.nan)))
    states = [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    assert [trial.state for trial in study.trials] == states
    assert study.trials[0].values == [0.9, 1e6]
    assert study.trials[0].user_attrs["epoch 00001"] == {"val/top1": 0.5, "params": 1e6}
    assert study.trials[1].constraints == {"params <= 2e6": 0.5e6}
    assert [trial.number for trial in study.best_trials] == [0]  # Optuna's front leaves out what breaks a constraint
