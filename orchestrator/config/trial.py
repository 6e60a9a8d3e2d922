"""The complete configuration of one trial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import NonNegativeInt

from orchestrator.config.sections.model import ModelConfig
from orchestrator.config.sections.section import Section, Seed
from orchestrator.config.sections.training import TrainingConfig
from orchestrator.config.sweep import SweepConfig
from search_spaces import setting_of


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


def resolve_trial(config: SweepConfig, number: int, params: Mapping[str, Any]) -> TrialConfig:
    """Combine the searched values of a trial with the fixed ones.

    Args:
        config: Configuration of the sweep.
        number: Number of the trial in Optuna.
        params: Values drawn from the search space, by searched name.
    """
    fixed = config.model or ModelConfig(name="", options={})
    settings = {setting_of(name): value for name, value in params.items()}
    name = str(settings.pop("model", fixed.name))
    training = {key: value for key, value in settings.items() if key in TrainingConfig.model_fields}
    options = {key: value for key, value in settings.items() if key not in training}
    return TrialConfig(
        number=number,
        model=ModelConfig(name=name, options={**fixed.options, **options}),
        training=TrainingConfig(**{**config.training.model_dump(), **training}),
        seed=config.seed,
    )
