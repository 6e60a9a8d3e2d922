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
    """One configuration, complete: all a worker needs to know to train it.

    Args:
        number: Optuna's number of the trial, from 0.
        model: The network and every option.
        training: Every training setting.
        seed: Seed of weights and order.
    """

    number: NonNegativeInt
    model: ModelConfig
    training: TrainingConfig
    seed: Seed


def resolve_trial(config: SweepConfig, number: int, params: Mapping[str, Any]) -> TrialConfig:
    """Lays the searched values over the fixed ones.

    Args:
        config: The sweep.
        number: Optuna's number of the trial.
        params: Values drawn from the sweep's space.
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
