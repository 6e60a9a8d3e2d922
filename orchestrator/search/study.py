"""The Optuna study of a sweep."""

from __future__ import annotations

import re
import warnings

import optuna

from orchestrator.config.schema import SweepConfig
from orchestrator.search.samplers import create_sampler


def create_study(config: SweepConfig, name: str, storage: optuna.storages.RDBStorage) -> optuna.Study:
    """A new study in the sweep's Optuna database.

    Args:
        config: Sampler, seed and objective.
        name: Of the sweep; unique in the database.
        storage: The database.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Experimental by name only: several years old, and the only way to say what they say.
    for subject in ("Argument ``", "optuna.study.study.Study.set_metric_names"):
        warnings.filterwarnings("ignore", message=re.escape(subject), category=optuna.exceptions.ExperimentalWarning)
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        sampler=create_sampler(config.sampler, config.space, config.seed),
        direction="maximize" if config.objective.mode == "max" else "minimize",
    )
    study.set_metric_names([config.objective.metric])
    study.set_user_attr("space_fingerprint", config.space.fingerprint)
    return study
