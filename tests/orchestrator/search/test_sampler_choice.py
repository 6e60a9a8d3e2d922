"""Choice of a sampler by the space, the objectives and the number of trials."""

from __future__ import annotations

from typing import Any

import pytest
from optuna.storages import InMemoryStorage
from pydantic import TypeAdapter

from orchestrator.config import load_sweep
from orchestrator.config.plans import resolve_plans
from orchestrator.config.sections.study import SamplerConfig
from orchestrator.config.validation.sampler_rules import sampler_problems
from orchestrator.search.samplers.choice import choose_sampler, chosen_sampler
from orchestrator.search.samplers.samplers import SweepSampler, create_sampler
from orchestrator.search.study import open_study
from search_spaces import Domain, SearchSpace

_DOMAINS: TypeAdapter[dict[str, Domain]] = TypeAdapter(dict[str, Domain])
LR: Any = {"type": "float", "low": 1e-4, "high": 1.0, "log": True}
NUMBERS = {"lr": LR, "depth": {"type": "int", "low": 1, "high": 9}, "fixed": {"value": 3}}
CHOICES = {**NUMBERS, "optimizer": {"choices": ["sgd", "adamw"]}}
CONDITIONS = {**CHOICES, "momentum": {**LR, "when": {"optimizer": "sgd"}}}
FINITE = {"depth": {"type": "int", "low": 1, "high": 6}, "optimizer": {"choices": ["sgd", "adamw"]}}

FINE = {"lr": NUMBERS["lr"], "seed": {"type": "int", "low": 0, "high": 2**31}}


@pytest.mark.parametrize(
    ("domains", "setting", "name", "reason"),
    [
        ({"fixed": {"value": 3}, "lr": {"choices": [0.1]}}, {"trials": 4}, "random", "nothing is searched"),
        (FINITE, {"trials": 12}, "grid", "12 configurations"),
        (FINITE, {"trials": 11}, "gp_tpe", "no conditions"),
        (FINITE, {"trials": 11, "rules": 1}, "tpe", "search.optimizer is a choice"),
        (NUMBERS, {"trials": 1000, "ends_early": False}, "gp_tpe", "no conditions, in 1,000 trials"),
        (NUMBERS, {"trials": 1000}, "gp", "only numbers are searched"),
        (NUMBERS, {"trials": 1001, "ends_early": False}, "tpe", "1,001 trials"),
        (NUMBERS, {"trials": 1000, "ends_early": False, "rules": 1}, "gp", "only numbers are searched"),
        (NUMBERS, {"trials": 5000}, "tpe", "5,000 trials"),
        (FINE, {"trials": 50}, "tpe", "search.seed has more values than gp can list"),
        (FINE, {"trials": 50, "rules": 1}, "gp", "only numbers are searched"),
        (NUMBERS, {"trials": 50, "constraints": 1}, "tpe", "constraints"),
        (NUMBERS, {"trials": 50, "objectives": 2}, "tpe", "2 objectives"),
        (NUMBERS, {"trials": 500, "objectives": 2}, "nsga2", "2 objectives and 500 trials"),
        (CHOICES, {"trials": 50}, "gp_tpe", "no conditions"),
        (CHOICES, {"trials": 50, "rules": 1}, "tpe", "search.optimizer is a choice"),
        (CONDITIONS, {"trials": 50}, "tpe", "search.momentum has a condition"),
    ],
)
def test_the_first_rule_that_applies_decides(
    domains: dict[str, Any], setting: dict[str, int], name: str, reason: str
) -> None:
    space = SearchSpace(_DOMAINS.validate_python(domains))
    choice = choose_sampler(space, **setting)
    assert choice.name == name
    assert reason in choice.reason
    config = SamplerConfig(name="auto", rules=setting.get("rules", 4))
    sampler = create_sampler(config, space, 0, **{name: value for name, value in setting.items() if name != "rules"})
    assert sampler.name == name


@pytest.mark.parametrize(("scheduler", "name"), [("none", "gp_tpe"), ("asha", "gp")])
def test_the_study_of_a_sweep_has_the_sampler_that_the_dry_run_names(scheduler: str, name: str) -> None:
    search = {"lr": {"type": "float", "low": 1e-3, "high": 1e-1}}
    settings = {"name": "s", "dataset": {"name": "digits"}, "search": search, "trial_scheduler": {"name": scheduler}}
    plan = resolve_plans(load_sweep({**settings, "model": {"name": "conv_resnet26_small"}})).search
    choice = chosen_sampler(plan)
    study = open_study(plan, "s", InMemoryStorage(), resumed=False)
    assert isinstance(study.sampler, SweepSampler)
    assert choice is not None
    assert (choice.name, study.sampler.name) == (name, name)


@pytest.mark.parametrize("name", ["gp", "gp_tpe"])
def test_a_number_with_more_values_than_a_gaussian_process_can_list_is_refused(name: str) -> None:
    search = _DOMAINS.validate_python(FINE)
    (problem,) = sampler_problems(SamplerConfig(name=name), search)
    assert "search.seed has 2,147,483,649. Give it a larger step" in problem.message
    assert not list(sampler_problems(SamplerConfig(name="tpe"), search))
