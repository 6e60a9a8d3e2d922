"""Shapes of the learning rate, and the schedule that depends on the validation."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from orchestrator.config.sections.objective import Mode
from orchestrator.config.sections.training import TrainingConfig
from orchestrator.training.optimizer.lr_schedule import LrSchedule

STEPS = 2


def schedule_of(**settings: Any) -> LrSchedule:
    training = TrainingConfig(**{"lr": 1.0, "epochs": 6, "warmup_epochs": 0, **settings})
    return LrSchedule(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0), training, STEPS)


def rates(**settings: Any) -> list[float]:
    schedule = schedule_of(**settings)
    seen = []
    for update in range(settings.get("epochs", 6) * STEPS):
        schedule.step_update(update)
        seen.append(schedule.lr)
    return seen


def per_epoch(*values: float) -> list[float]:
    return [value for value in values for _ in range(STEPS)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"lr_schedule": "poly", "epochs": 2}, [1, 0.75, 0.5, 0.25]),
        ({"lr_schedule": "poly", "epochs": 2, "poly_power": 2.0, "min_lr": 0.2}, [1, 0.65, 0.4, 0.25]),
        ({"lr_schedule": "poly", "lr_per": "epoch", "epochs": 4, "cooldown_epochs": 2}, per_epoch(1, 0.5, 0, 0)),
        ({"lr_schedule": "poly", "lr_per": "epoch", "epochs": 3, "anneal_epochs": 4}, per_epoch(1, 0.75, 0.5)),
        ({"lr_schedule": "poly", "lr_per": "epoch", "epochs": 3, "anneal_epochs": 2}, per_epoch(1, 0.5, 0)),
        ({"lr_schedule": "step", "decay_epochs": 2, "decay_rate": 0.5}, per_epoch(1, 1, 0.5, 0.5, 0.25, 0.25)),
        (
            {"lr_schedule": "step", "decay_epochs": 2, "decay_rate": 0.5, "warmup_epochs": 1, "warmup_lr": 0.5},
            [0.5, 0.75, *per_epoch(1, 0.5, 0.5, 0.25, 0.25)],
        ),
        (
            {
                "lr_schedule": "step",
                "decay_epochs": 2,
                "decay_rate": 0.5,
                "warmup_epochs": 1,
                "warmup_lr": 0.5,
                "warmup_prefix": True,
                "lr_per": "epoch",
            },
            per_epoch(0.5, 1, 1, 0.5, 0.5, 0.25),
        ),
        (
            {"lr_schedule": "multistep", "decay_milestones": (2, 3), "decay_rate": 0.5, "lr_per": "epoch"},
            per_epoch(1, 1, 0.5, 0.25, 0.25, 0.25),
        ),
        (
            {
                "lr_schedule": "cosine",
                "lr_per": "epoch",
                "epochs": 5,
                "warmup_epochs": 1,
                "warmup_lr": 0.5,
                "warmup_prefix": True,
                "cooldown_epochs": 2,
            },
            per_epoch(0.5, 1, 0.5, 0, 0),
        ),
        ({"lr_schedule": "constant", "lr_per": "epoch", "epochs": 2, "warmup_epochs": 5}, per_epoch(0.01, 1)),
        ({"lr_schedule": "plateau", "epochs": 2, "warmup_epochs": 1, "warmup_lr": 0.5}, [0.5, 0.75, 1, 1]),
        ({"lr_schedule": "poly", "epochs": 2, "warmup_steps": 0}, [1, 0.75, 0.5, 0.25]),
        ({"lr_schedule": "poly", "epochs": 2, "warmup_steps": 1, "warmup_lr": 0.5}, [0.5, 0.75, 0.5, 0.25]),
        ({"lr_schedule": "constant", "epochs": 2, "warmup_steps": 3, "warmup_lr": 0.1}, [0.1, 0.4, 0.7, 1]),
        ({"lr_schedule": "constant", "epochs": 2, "warmup_steps": 9, "warmup_lr": 0.1}, [0.1, 0.4, 0.7, 1]),
        (
            {"lr_schedule": "poly", "epochs": 3, "warmup_steps": 2, "warmup_lr": 0.5, "warmup_prefix": True},
            [0.5, 0.75, 1, 0.75, 0.5, 0.25],
        ),
        (
            {"lr_schedule": "plateau", "epochs": 2, "warmup_steps": 3, "warmup_lr": 0.25},
            [0.25, 0.5, 0.75, 1],
        ),
        (
            {"lr_schedule": "plateau", "epochs": 2, "warmup_epochs": 1, "warmup_lr": 0.5, "lr_per": "epoch"},
            per_epoch(0.5, 1),
        ),
    ],
)
def test_the_rate_of_every_step(settings: dict[str, Any], expected: list[float]) -> None:
    assert rates(**settings) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("patience", [0, 1, 3])
def test_a_plateau_is_that_of_torch(mode: Mode, patience: int) -> None:
    """Compare on random walks, with a validation after each epoch."""
    for seed in range(5):
        walk = 1 + np.abs(np.random.default_rng(seed).normal(0, 0.02, 60).cumsum())
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        theirs = ReduceLROnPlateau(optimizer, mode, factor=0.5, patience=patience, threshold=1e-4, min_lr=1e-3, eps=0.0)
        ours = schedule_of(lr_schedule="plateau", decay_rate=0.5, plateau_patience=patience, min_lr=1e-3, epochs=60)
        for epoch, value in enumerate(walk, 1):
            ours.observe(epoch, float(value), mode)
            theirs.step(float(value))
            ours.step_update(epoch * STEPS)
            assert ours.lr == pytest.approx(optimizer.param_groups[0]["lr"])
        assert ours.lr < 1


def test_patience_is_counted_in_epochs() -> None:
    schedule = schedule_of(lr_schedule="plateau", decay_rate=0.5, plateau_patience=4, epochs=30)
    seen = []
    for epoch in range(3, 30, 3):
        schedule.observe(epoch, 0.5, "max")
        schedule.step_update(epoch * STEPS)
        seen.append(schedule.lr)
    assert seen == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.0625]


def test_validations_of_the_warmup_and_lost_values_are_no_best() -> None:
    schedule = schedule_of(lr_schedule="plateau", plateau_patience=0, warmup_epochs=2, epochs=9)
    for epoch, value in enumerate([0.9, 0.9, float("nan"), 0.1, 0.2, 0.3], 1):
        schedule.observe(epoch, value, "max")
    schedule.step_update(6 * STEPS)
    assert schedule.lr == pytest.approx(0.1)  # after the value that is not a number


def test_a_validation_counts_once_the_warmup_in_steps_is_over() -> None:
    """End the warm-up within the second epoch: the value of the first one is no best."""
    schedule = schedule_of(lr_schedule="plateau", plateau_patience=0, warmup_steps=STEPS + 1, epochs=9)
    for epoch, value in enumerate([0.9, 0.1, 0.2], 1):
        schedule.observe(epoch, value, "max")
    schedule.step_update(3 * STEPS)
    assert schedule.lr == 1


def test_only_a_plateau_has_a_state() -> None:
    for shape, prefix in itertools.product(("cosine", "multistep", "constant", "poly", "step"), (False, True)):
        assert schedule_of(lr_schedule=shape, warmup_prefix=prefix).state_dict() is None
    first, second = (schedule_of(lr_schedule="plateau", plateau_patience=0, epochs=9) for _ in range(2))
    for epoch, value in enumerate([0.5, 0.4, 0.3], 1):
        first.observe(epoch, value, "max")
    second.load_state_dict(first.state_dict() or {})
    for epoch, value in enumerate([0.45, 0.6, 0.1], 4):
        first.observe(epoch, value, "max")
        second.observe(epoch, value, "max")
    first.step_update(0)
    second.step_update(0)
    assert first.lr == second.lr == pytest.approx(1e-4)
