"""The complete configuration of one trial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from pydantic import NonNegativeInt

from orchestrator.config.sections.model import ModelConfig
from orchestrator.config.sections.section import Section, Seed
from orchestrator.config.sections.training import TrainingConfig
from search_spaces import setting_of

SEED = "seed"
"""Searched name that sets the seed of a trial instead of a setting of its training."""
ROW = "row"
"""Searched name that sets nothing: a label of configurations, on which conditions of other names depend."""


class TrialConfig(Section):
    """Complete configuration of one trial, as its workers receive it.

    Args:
        number: Number of the trial in Optuna, from 0.
        model: Network and all its options.
        training: All training settings.
        seed: Seed of the initial weights and of the order of the images.
    """

    number: NonNegativeInt
    model: ModelConfig
    training: TrainingConfig
    seed: Seed


class SharedSettings(Protocol):
    """Settings that all trials of a sweep share: part of `SweepConfig` and of `SearchPlan`."""

    @property
    def model(self) -> ModelConfig | None:
        """Fixed network and options."""

    @property
    def training(self) -> TrainingConfig:
        """Fixed training settings."""

    @property
    def seed(self) -> int:
        """Seed of the initial weights and of the order of the images."""


def resolve_trial(shared: SharedSettings, number: int, params: Mapping[str, Any]) -> TrialConfig:
    """Combine the searched values of a trial with the fixed ones.

    Args:
        shared: Settings that all trials of the sweep share.
        number: Number of the trial in Optuna.
        params: Values drawn from the search space, by searched name.
    """
    fixed = shared.model or ModelConfig(name="", options={})
    settings = {setting_of(name): value for name, value in params.items()}
    name = str(settings.pop("model", fixed.name))
    seed = settings.pop(SEED, shared.seed)
    settings.pop(ROW, None)
    training = {key: value for key, value in settings.items() if key in TrainingConfig.model_fields}
    options = {key: value for key, value in settings.items() if key not in training}
    return TrialConfig(
        number=number,
        model=ModelConfig(name=name, options={**fixed.options, **options}),
        training=TrainingConfig(**{**shared.training.model_dump(), **training}),
        seed=seed,
    )
