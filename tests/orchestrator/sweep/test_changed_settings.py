"""Settings that change while a sweep runs."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import load_sweep
from orchestrator.errors import ConfigError
from orchestrator.records.history import merged_domains
from orchestrator.records.ledger import TrialRecord, TrialStatus
from orchestrator.records.objectives import Objectives
from orchestrator.search.frozen_trials import frozen_trial
from orchestrator.search.steering.present_space import union_space
from orchestrator.sweep.compatibility import identity_of_search
from orchestrator.sweep.steering.changed_settings import ChangedSettings, change_settings

SWEEP: dict[str, Any] = {
    "name": "s",
    "dataset": {"name": "digits"},
    "model": {"name": "conv_resnet26_small"},
    "training": {"epochs": 4, "global_batch_size": 64},
    "search": {
        "optimizer": ["sgd", "adamw"],
        "sgd/lr": {"type": "float", "low": 0.01, "high": 1.0, "log": True, "when": {"optimizer": "sgd"}},
        "adamw/lr": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True, "when": {"optimizer": "adamw"}},
        "warmup_epochs": {"type": "int", "low": 0, "high": 2},
        "weight_decay": {"value": 0.05},
    },
    "try_first": [{"optimizer": "sgd", "sgd/lr": 0.5}, {"optimizer": "adamw"}],
    "trials": 10,
}
CONFIG = load_sweep(SWEEP)
SEARCHED = CONFIG.model_dump(mode="json")["search"]


def change(*assignments: str, begun: int = 0, **changes: Any) -> ChangedSettings:
    config = load_sweep({**SWEEP, **changes}) if changes else CONFIG
    searched = config.model_dump(mode="json")["search"]
    return change_settings(config, searched, assignments, begun=begun, sampler=config.sampler.name)


def test_trials_and_limits_change() -> None:
    found = change("trials=12", "budget.wall_clock=2h", "budget.patience=5", begun=12)
    assert found.changes == {"trials": 12, "budget.wall_clock": 7200.0, "budget.patience": 5}
    assert found.config.trials == 12
    assert found.config.space.fingerprint == CONFIG.space.fingerprint
    assert change("trials=10").changes == {}


def test_bounds_and_choices_change_and_the_rest_stays() -> None:
    found = change("search.sgd/lr.high=0.1", "search.warmup_epochs.low=1", "search.warmup_epochs.high=3")
    assert found.changes == {"search.sgd/lr.high": 0.1, "search.warmup_epochs.low": 1, "search.warmup_epochs.high": 3}
    assert found.config.search["sgd/lr"].when == {"optimizer": "sgd"}
    assert [dict(first) for first in found.config.try_first if not isinstance(first, str)] == [{"optimizer": "adamw"}]


def test_a_narrowed_choice_takes_the_names_beside_it_along_and_gives_them_back() -> None:
    narrow = change("search.optimizer=[adamw]")
    assert narrow.dropped == ("sgd/lr",)
    assert narrow.in_words == "search.optimizer.choices is ['adamw']; no longer searched: sgd/lr"
    assert list(narrow.config.search) == ["optimizer", "adamw/lr", "warmup_epochs", "weight_decay"]
    known = merged_domains(SEARCHED, narrow.config.model_dump(mode="json")["search"])
    wide = change_settings(narrow.config, known, ["search.optimizer=[adamw, sgd, momentum]"], begun=3, sampler="tpe")
    assert wide.restored == ("sgd/lr",)
    assert wide.in_words == "search.optimizer.choices is ['adamw', 'sgd', 'momentum']; searched again: sgd/lr"
    assert wide.config.search["sgd/lr"].when == {"optimizer": "sgd"}
    united = merged_domains(known, wide.config.model_dump(mode="json")["search"])
    assert united["optimizer"]["choices"] == ["sgd", "adamw", "momentum"]  # stored indices keep their meaning


def test_united_domains_hold_all_choices_and_bounds_there_ever_were() -> None:
    one = {"lr": {"type": "float", "low": 0.1, "high": 1.0, "when": {"a": 1}}, "n": {"type": "choice", "choices": [1]}}
    two = {"lr": {"type": "float", "low": 0.2, "high": 2.0, "when": {}}, "n": {"type": "choice", "choices": [True, 1]}}
    united = merged_domains(one, two)
    assert united["lr"] == {"type": "float", "low": 0.1, "high": 2.0, "when": {"a": 1}}
    assert united["n"]["choices"] == [1, True]
    assert merged_domains(one, two, new_conditions=True)["lr"]["when"] == {}
    assert merged_domains({"lr": 3}, {"lr": 4, "n": None}) == {"lr": 4, "n": None}  # whatever an old journal holds


@pytest.mark.parametrize(
    ("before", "later", "step", "values"),
    [
        ({"type": "int", "low": 16, "high": 64, "step": 16}, {"low": 24}, 8, [16, 64, 24, 40, 56]),
        ({"type": "int", "low": 16, "high": 64, "step": 16}, {"low": 32}, 16, [16, 64]),
        ({"type": "int", "low": 0, "high": 9, "step": 3}, {"low": 4, "step": 6}, 1, [3, 9, 4]),
        ({"type": "float", "low": 0.0, "high": 0.9, "step": 0.3}, {"low": 0.1}, 0.1, [0.3, 0.9, 0.1, 0.4, 0.7]),
        ({"type": "float", "low": 0.1, "high": 0.9, "step": 0.2}, {"low": 0.30000000000000004}, 0.2, [0.1, 0.5, 0.9]),
        ({"type": "float", "low": 0.0, "high": 0.9, "step": 0.3}, {"low": 0.123456789}, None, [0.3, 0.423456789]),
        ({"type": "float", "low": 0.0, "high": 0.9, "step": 0.3}, {"low": 0.1, "step": None}, None, [0.3, 0.15]),
    ],
)
def test_a_lost_study_is_rebuilt_where_the_grid_of_a_number_was_shifted(
    before: dict[str, Any], later: dict[str, Any], step: float | None, values: list[float]
) -> None:
    """Earlier versions accepted such a change, and a step may differ between sessions."""
    united = merged_domains({"x": before}, {"x": {**before, **later}})
    assert united["x"]["step"] == step
    objectives = Objectives.of(CONFIG.objectives, CONFIG.constraints)
    for value in values:
        record = TrialRecord(0, "a", params={"x": value}, config={}, started_s=0.0, status=TrialStatus.FAILED)
        assert frozen_trial(record, union_space(united), objectives).params == {"x": value}
        assert not union_space(united).strays({"x": value})


def test_the_identity_follows_the_space_and_nothing_else() -> None:
    before = {"search space": "x", "search.sgd/lr.low": 0.01, "code": "c", "seed": 0, "try_first": []}
    after = identity_of_search(before, change("search.optimizer=[adamw]").config)
    assert (after["code"], after["seed"]) == ("c", 0)
    assert "search.sgd/lr.low" not in after
    assert after["search.adamw/lr.low"] == 1e-4
    assert after["search space"] != CONFIG.space.fingerprint


@pytest.mark.parametrize(
    ("assignment", "error"),
    [
        ("trials=5", "trials: got 5; 6 have begun. Use 6 or more"),
        ("trials=none", "trials: got 'none'"),
        ("trial=7", "trial: cannot change while the sweep runs; .* Did you mean 'trials'?"),
        ("training.epochs=9", "training.epochs: cannot change while the sweep runs"),
        ("budget.price_per_cpu_hour=1", "budget.price_per_cpu_hour: cannot change while the sweep runs"),
        ("search.sgd/lrr.high=1", "search.sgd/lrr.high: is not searched, and stays as it is. Did you mean 'sgd/lr'?"),
        ("search.sgd/lr.log=false", "only low and high of sgd/lr can change"),
        ("search.sgd/lr=0.1", r"name the bound: search.sgd/lr.low or search.sgd/lr.high"),
        ("search.sgd/lr.low=2", "low is 2.* and high is 1.0; low must not exceed high"),
        ("search.weight_decay=0.1", "search.weight_decay: is fixed in search, and stays as it is"),
        ("search.optimizer=[]", "got no list of values"),
        ("search.optimizer=[adamw, sdg]", "search.optimizer: unknown 'sdg'"),
        ("search.warmup_epochs.low=-1", "warmup_epochs"),
        ("trials", "an assignment is written key=value"),
    ],
)
def test_a_wrong_change_is_refused(assignment: str, error: str) -> None:
    with pytest.raises(ConfigError, match=error) as caught:
        change(assignment, begun=6)
    assert str(caught.value).startswith("the running sweep: ")


STEPPED: dict[str, Any] = {
    "search": {
        "global_batch_size": {"type": "int", "low": 16, "high": 64, "step": 16},
        "drop_path_rate": {"type": "float", "low": 0.1, "high": 0.7, "step": 0.2},
    },
    "try_first": [],
}


@pytest.mark.parametrize(
    ("assignment", "error"),
    [
        ("search.global_batch_size.low=24", "low: got 24; .* step 16 from 16, which cannot shift. Use 16 or 32$"),
        ("search.global_batch_size.low=8", "Use 0 or 16$"),
        ("search.drop_path_rate.low=0.2", "search.drop_path_rate.low: got 0.2; .* Use 0.1 or 0.3$"),
        ("search.global_batch_size.low=100", "low is 100 and high is 64"),
    ],
)
def test_a_new_low_lies_on_the_grid_of_a_step(assignment: str, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        change(assignment, **STEPPED)


def test_bounds_of_a_step_change_along_its_grid() -> None:
    found = change("search.global_batch_size.low=32", "search.global_batch_size.high=100", **STEPPED)
    assert found.changes == {"search.global_batch_size.low": 32, "search.global_batch_size.high": 100}
    assert change("search.drop_path_rate.low=0.3", **STEPPED).changes == {"search.drop_path_rate.low": 0.3}


POPULATION = {
    "trial_scheduler": {"name": "pbt"},
    "search": {"lr": {"type": "float", "low": 1e-3, "high": 1.0}},
    "try_first": [],
}


@pytest.mark.parametrize(
    ("changes", "assignment", "error"),
    [
        ({"sampler": {"name": "grid"}, "search": {"lr": [0.1, 0.2]}, "try_first": []}, "search.lr=[0.1]", "of a grid"),
        (POPULATION, "search.lr.high=0.1", "of a population"),
        (POPULATION, "trials=20", "size of a population"),
        (
            {"search": {"checkpoint": ["random", "a.pth"]}, "try_first": []},
            "search.checkpoint=[random, b.pth]",
            "weights are read when a session starts",
        ),
    ],
)
def test_what_a_strategy_has_fixed_cannot_change(changes: dict[str, Any], assignment: str, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        change(assignment, **changes)
