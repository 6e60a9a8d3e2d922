"""How a study proposes configurations: Optuna's samplers by name."""

from __future__ import annotations

import optuna

from orchestrator.config.schema import SamplerConfig


def create_sampler(sampler: SamplerConfig, seed: int) -> optuna.samplers.BaseSampler:
    """The sampler a sweep asks for.

    Args:
        sampler: Name and options.
        seed: Of its random numbers.
    """
    if sampler.name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    # `group` lets the multivariate model handle names that are present under a condition only.
    return optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=sampler.startup_trials, multivariate=True, group=True, constant_liar=True
    )
