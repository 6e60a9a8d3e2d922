"""The searched names `seed` and `row`: the seed of a trial, and a label on which conditions depend."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.config import SweepConfig, resolve_trial
from orchestrator.errors import ConfigError
from orchestrator.sweep.dry_run import dry_run
from search_spaces.grid import grid_points

PLAN: dict[str, Any] = {
    "name": "rows",
    "dataset": {"name": "digits"},
    "model": {"name": "lsas_resnet29_cifar"},
    "trial_scheduler": {"name": "none"},
    "sampler": {"name": "grid"},
    "try_first": [],
    "search": {
        "row": ["plain", "wide"],
        "plain/order": {"value": 0, "when": {"row": "plain"}},
        "wide/order": {"value": 2, "when": {"row": "wide"}},
        "wide/lr": {"value": 0.2, "when": {"row": "wide"}},
        "seed": {"type": "int", "low": 3, "high": 4},
    },
}


def test_a_seed_and_a_row_of_a_trial() -> None:
    config = SweepConfig(**PLAN)
    trial = resolve_trial(config, 0, {"row": "wide", "wide/order": 2, "wide/lr": 0.2, "seed": 4})
    assert (trial.seed, trial.training.lr, trial.model.options) == (4, 0.2, {"order": 2})
    assert resolve_trial(config, 0, {"row": "plain", "plain/order": 0}).seed == config.seed == 0
    assert sorted((point["row"], point["seed"]) for point in grid_points(config.space)) == [
        ("plain", 3),
        ("plain", 4),
        ("wide", 3),
        ("wide", 4),
    ]


def test_the_grid_of_rows_and_seeds_is_shown(tmp_path: Any) -> None:
    found = dry_run(SweepConfig(**PLAN, runs_dir=str(tmp_path), trials=4))
    shown = {(proposal.values["row"], proposal.values["seed"]) for proposal in found.proposals}
    assert shown == {("plain", 3), ("plain", 4), ("wide", 3), ("wide", 4)}
    assert all(proposal.certain for proposal in found.proposals)


@pytest.mark.parametrize("seeds", [[-1, 0], {"type": "int", "low": 0, "high": 2**32}, [1.5], [True], ["a"]])
def test_a_seed_is_a_whole_number(seeds: Any) -> None:
    with pytest.raises(ConfigError, match=r"search.seed: got .*; a seed is a whole number from 0 to 2\^32 - 1. Use 0"):
        SweepConfig(**{**PLAN, "search": {**PLAN["search"], "seed": seeds}})
