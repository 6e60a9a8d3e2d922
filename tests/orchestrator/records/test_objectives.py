"""Several objectives and constraints: values of trials, the front, and their transfer to Optuna."""

from __future__ import annotations

import math
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from orchestrator import load_sweep
from orchestrator.config.sections.objective import parse_constraint
from orchestrator.errors import ConfigError
from orchestrator.records.ledger import TrialStatus
from tests.support.sweeps.objectives import OBJECTIVES, TWO_OBJECTIVES, add_to_study, trial_record


def test_one_or_several_objectives_have_modes() -> None:
    config = load_sweep(TWO_OBJECTIVES)
    assert [(each.metric, each.mode) for each in config.objectives] == [("val/top1", "max"), ("params", "min")]
    assert config.objective.metric == "val/top1"
    assert config.measured_costs == {"params"}
    one = load_sweep({**TWO_OBJECTIVES, "objective": {"metric": "val/loss"}, "constraints": []})
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
def test_problems_of_objectives_are_reported(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_sweep({**TWO_OBJECTIVES, **changes})


def test_violation_of_a_constraint_is_measured() -> None:
    assert parse_constraint("params <= 2e6").violation(2.5e6) == 0.5e6
    assert parse_constraint(" val/top1>=.9 ").violation(0.95) == pytest.approx(-0.05)


def test_the_value_of_a_trial_is_that_of_its_best_epoch() -> None:
    trial = trial_record(0, (0.5, 3e6), (0.9, 1e6), (0.8, 2e6))
    assert OBJECTIVES.values(trial) == {"val/top1": 0.9, "params": 1e6}
    assert OBJECTIVES.is_feasible(trial)
    assert not OBJECTIVES.is_feasible(trial_record(1, (0.9, 3e6)))
    assert OBJECTIVES.violations(trial_record(2)) == {}
    assert OBJECTIVES.violations(trial_record(3, (0.9, math.nan))) == {"params <= 2e6": math.inf}


def test_the_front_holds_the_trials_that_no_other_dominates() -> None:
    records = [
        trial_record(0, (0.90, 1.0e6)),
        trial_record(1, (0.80, 0.5e6)),
        trial_record(2, (0.85, 1.1e6)),  # beaten by 0
        trial_record(3, (0.99, 3.0e6)),  # beyond the constraint
        trial_record(4, (0.95, 0.1e6), status=TrialStatus.PRUNED),
        trial_record(5, (0.90, 1.0e6)),  # equals 0
        trial_record(6, (0.95, 1.5e6)),
    ]
    assert [each.number for each in OBJECTIVES.pareto_front(records)] == [6, 0, 5, 1]


def test_the_study_gets_values_constraints_and_every_epoch() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    add_to_study(study, trial_record(0, (0.5, 1e6), (0.9, 1e6)))
    add_to_study(study, trial_record(1, (0.8, 2.5e6)))
    add_to_study(study, trial_record(2, (0.1, 1e6), status=TrialStatus.PRUNED))
    add_to_study(study, trial_record(3, (0.7, math.nan)))
    states = [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    assert [trial.state for trial in study.trials] == states
    assert study.trials[0].values == [0.9, 1e6]
    assert study.trials[0].user_attrs["epoch 00001"] == {"val/top1": 0.5, "params": 1e6}
    assert study.trials[1].constraints == {"params <= 2e6": 0.5e6}
    assert [trial.number for trial in study.best_trials] == [0]  # Optuna's front leaves out what breaks a constraint
