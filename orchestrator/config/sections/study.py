"""Settings of the search itself: the sampler, the trial scheduler, and where studies are kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, Strict

from orchestrator.config.sections.section import Section
from search_spaces import Scalar

SamplerName = Literal["tpe", "random", "grid", "qmc", "gp", "cmaes", "nsga2", "nsga3"]


class SamplerConfig(Section):
    """How Optuna proposes configurations.

    Args:
        name: `tpe` learns which values the good trials have in common; `random`; `grid` tries every configuration of a
            finite space once; `qmc` spreads trials evenly; `gp` fits a Gaussian process; `cmaes` adapts a normal
            distribution; `nsga2` and `nsga3` breed from the best, for several objectives.
        startup_trials: Random trials before `tpe`, `gp` or `cmaes` learn from what was found.
        options: Further arguments of Optuna's sampler; docs/settings.md lists them.
    """

    name: SamplerName = "tpe"
    startup_trials: PositiveInt = 8
    options: Mapping[str, Scalar] = {}


Mutable = Literal["lr", "weight_decay", "span_penalty"]


class TrialSchedulerConfig(Section):
    """Which trials are stopped early, or go on from another's weights.

    Args:
        name: `asha` stops at rungs; `hyperband` does in several brackets, of which the later ones wait longer; `median`
            stops what is worse than the median of the others; `pbt` lets poor trials go on from good ones with changed
            settings; `none` trains every trial to the end.
        grace_epochs: Epochs no trial is stopped before.
        reduction_factor: One in so many trials survives a rung; of `asha` and `hyperband`.
        min_trials: Others that a median takes.
        perturb_every: Epochs between two looks of `pbt`.
        quantile: Share of the population that `pbt` copies from, and as large a share that copies.
        resample_probability: Chance that `pbt` draws a setting anew instead of changing it by a fifth.
        mutate: Settings that `pbt` changes, where they are searched.
    """

    name: Literal["asha", "hyperband", "median", "pbt", "none"] = "asha"
    grace_epochs: PositiveInt = 2
    reduction_factor: int = Field(3, ge=2)
    min_trials: PositiveInt = 3
    perturb_every: PositiveInt = 2
    quantile: float = Field(0.25, gt=0, le=0.5)
    resample_probability: float = Field(0.25, ge=0, le=1)
    mutate: Annotated[tuple[Mutable, ...], Strict(strict=False)] = ("lr", "weight_decay", "span_penalty")


class StorageConfig(Section):
    """Where Optuna's studies are kept.

    Args:
        uri: A database as SQLAlchemy writes it, such as `postgresql://user@host/studies`; None keeps a file beneath
            `runs_dir`.
    """

    uri: str | None = None
