"""Setting `strategy`: names that it stands for, what `auto` chooses, and its faults."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import SweepConfig
from orchestrator.config.sections.study import SamplerConfig, TrialSchedulerConfig
from orchestrator.config.sections.training import TrainingConfig
from orchestrator.errors import ConfigError

SWEEP: dict[str, Any] = {
    "name": "s",
    "dataset": {"name": "digits"},
    "model": {"name": "conv_resnet26_small"},
    "search": {"lr": {"type": "float", "low": 1e-3, "high": 1e-1}},
}
TWO = [{"metric": "val/top1", "mode": "max"}, {"metric": "params", "mode": "min"}]


@pytest.mark.parametrize(
    ("settings", "sampler", "scheduler"),
    [
        ({}, "auto", "freeze_thaw"),
        ({"strategy": None}, "auto", "freeze_thaw"),
        ({"strategy": "random"}, "random", "freeze_thaw"),
        ({"strategy": "pasha"}, "auto", "pasha"),
        ({"sampler": {"name": "tpe"}}, "tpe", "freeze_thaw"),
        ({"sampler": {"options": {"n_ei_candidates": 9}}}, "tpe", "freeze_thaw"),
        ({"strategy": "nsga2", "sampler": {"options": {"population_size": 9}}}, "nsga2", "freeze_thaw"),
        ({"trial_scheduler": {"name": "asha"}}, "auto", "asha"),
        ({"trial_scheduler": TrialSchedulerConfig(grace_epochs=3)}, "auto", "freeze_thaw"),
        ({"training": TrainingConfig(epochs=2), "sampler": SamplerConfig(name="qmc")}, "qmc", "none"),
        ({"trial_scheduler": {"name": "auto"}, "objective": TWO}, "auto", "asha"),
        ({"strategy": "auto", "sampler": {"name": "qmc"}}, "qmc", "freeze_thaw"),
        ({"trials": 4, "search": {"optimizer": ["sgd", "adamw"]}, "tournament": "optimizer"}, "auto", "none"),
        ({"strategy": "qmc+freeze_thaw"}, "qmc", "freeze_thaw"),
        ({"strategy": "none+random"}, "random", "none"),
        ({"strategy": "auto"}, "auto", "freeze_thaw"),
        ({"strategy": "auto", "objective": TWO}, "auto", "asha"),
        ({"strategy": "auto", "training": {"epochs": 2}}, "auto", "none"),
        (
            {"strategy": "auto", "training": {"epochs": 2}, "trial_scheduler": {"grace_epochs": 1}},
            "auto",
            "freeze_thaw",
        ),
        ({"strategy": "auto", "search": {**SWEEP["search"], "epochs": [1, 9]}}, "auto", "freeze_thaw"),
    ],
)
def test_a_strategy_is_kept_as_the_names_it_stands_for(settings: dict[str, Any], sampler: str, scheduler: str) -> None:
    config = SweepConfig(**{**SWEEP, "training": {"epochs": 9}, **settings})
    assert (config.sampler.name, config.trial_scheduler.name) == (sampler, scheduler)
    assert "strategy" not in config.model_dump()
    assert SweepConfig(**config.model_dump(mode="json")) == config  # as a resumed sweep reads it
    assert bool(config.strategy_use.reason) == ("trial_scheduler" in config.strategy_use.chosen)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "freeze-thaw"}, "strategy: got 'freeze-thaw'; is no sampler.*Did you mean 'freeze_thaw'"),
        ({"strategy": "tpe+random"}, "strategy: got 'tpe.random'; names one sampler at most. Drop tpe or random"),
        ({"strategy": 3}, "strategy: got 3; is a text such as auto"),
        ({"strategy": "tpe+"}, r"^strategy: got 'tpe\+'; is no sampler and no trial scheduler. Known: tpe, [^\n]*$"),
        ({"strategy": "+"}, r"^strategy: got '\+'; is no sampler and no trial scheduler. Known: tpe, [^\n]*$"),
        ({"strategy": "tpe+ash"}, r"^strategy: got 'ash'; is no sampler and no trial scheduler. Did you [^\n]*$"),
        ({"strategy": "tpe+auto"}, "strategy: got 'auto'; is no sampler and no trial scheduler"),
        ({"strategy": "asha", "trial_scheduler": {"name": "asha"}}, "trial_scheduler.name: is chosen by strategy"),
        ({"strategi": "auto"}, "strategi: unknown setting. Did you mean 'strategy'"),
    ],
)
def test_a_strategy_that_cannot_be_applied_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SweepConfig(**SWEEP, **settings)
