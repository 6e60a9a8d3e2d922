"""Settings of the search: sampler, trial scheduler, and storage of the studies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, Strict

from orchestrator.config.sections.section import Section
from search_spaces import Scalar

SamplerName = Literal["tpe", "random", "grid", "qmc", "gp", "gp_tpe", "cmaes", "nsga2", "nsga3", "auto"]


class SamplerConfig(Section):
    """Optuna's sampler, which proposes configurations.

    Args:
        name: `tpe` models the values of good and of other trials; `random`; `grid` tries every configuration of a
            finite space once; `qmc` spreads trials evenly; `gp` fits a Gaussian process; `gp_tpe` takes
            `gp` and `tpe` in turn; `cmaes` adapts a normal distribution; `nsga2` and `nsga3` are evolutionary, for
            several objectives; `auto` chooses one of them by the space, the objectives and the number of trials.
        startup_trials: Number of trials before `tpe`, `gp`, `gp_tpe` or `cmaes` use earlier results.
        startup: How the first trials of `tpe`, `gp` and `gp_tpe` are drawn: at `random`; `even`, one in each interval
            of equal width of every name, after one in the middle of the space; `late`, likewise, until
            `startup_trials` of them were trained to the second rung; `auto` is `late` for `tpe` and `gp` where trials
            end early, `even` for `gp_tpe`, and else `random`.
        random_share: Probability that a trial is drawn at random, however many results there are.
        prior: `papers` draws a part of the early trials near the papers' own values; the part fades as trials end.
        options: Further arguments of Optuna's sampler; docs/settings.md lists them.
        rules: Version of the rules by which `auto` chooses; a sweep keeps the one that it began with.
    """

    name: SamplerName = "auto"
    startup_trials: PositiveInt = 8
    startup: Literal["auto", "random", "even", "late"] = "auto"
    random_share: float = Field(0.0, ge=0, le=1)
    prior: Literal["none", "papers"] = "none"
    options: Mapping[str, Scalar] = {}
    rules: int = Field(4, ge=1, le=4)


TrialSchedulerName = Literal[
    "auto", "freeze_thaw", "asha", "pasha", "asha_stopping", "hyperband", "median", "pbt", "none"
]
Mutable = Literal["lr", "weight_decay", "span_penalty"]


class TrialSchedulerConfig(Section):
    """Rule that pauses or stops trials early, or lets them continue from the weights of others.

    Args:
        name: `asha` pauses trials at rungs and resumes the best of each; `pasha` does so up to a rung that grows only
            while the order of the trials is in doubt; `freeze_thaw` resumes the trial with the largest expected
            improvement per second; `asha_stopping` stops trials at rungs for good; `hyperband` uses several brackets,
            of which the later ones stop later; `median` stops trials that are worse than the median of the others;
            `pbt` lets poor trials continue from good ones with changed settings; `none` trains every trial to the end;
            `auto` chooses one of them by the epochs and the objectives, and is replaced by its name in a sweep.
        grace_epochs: Number of epochs before any trial is paused or stopped.
        reduction_factor: One in this many trials passes a rung, with `asha`, `pasha`, `freeze_thaw`,
            `asha_stopping` and `hyperband`.
        min_trials: Smallest number of other trials for a median.
        perturb_every: Number of epochs between two steps of `pbt`.
        quantile: Share of the population from which `pbt` copies, and equal share that copies.
        resample_probability: Probability that `pbt` draws a new value instead of changing the old one by a fifth.
        mutate: Settings that `pbt` changes, where they are searched.
    """

    name: TrialSchedulerName = "auto"
    grace_epochs: PositiveInt = 2
    reduction_factor: int = Field(3, ge=2)
    min_trials: PositiveInt = 3
    perturb_every: PositiveInt = 2
    quantile: float = Field(0.25, gt=0, le=0.5)
    resample_probability: float = Field(0.25, ge=0, le=1)
    mutate: Annotated[tuple[Mutable, ...], Strict(strict=False)] = ("lr", "weight_decay", "span_penalty")


class StorageConfig(Section):
    """Database of Optuna's studies.

    Args:
        uri: Address in the form of SQLAlchemy, such as `postgresql://user@host/studies`; None keeps a file in
            `runs_dir`.
    """

    uri: str | None = None
