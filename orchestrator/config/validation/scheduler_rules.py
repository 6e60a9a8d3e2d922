"""Rules that join the trial scheduler with epochs, trials and searched names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import get_args

from orchestrator.config.searched_values import domains_of
from orchestrator.config.sections.study import Mutable, TrialSchedulerConfig
from orchestrator.errors import Problem
from search_spaces.domains import ConstantDomain, Domain

_OF_PBT = ("perturb_every", "quantile", "resample_probability", "mutate")
_OWNERS = {"min_trials": "median", **dict.fromkeys(_OF_PBT, "pbt")}
_SMALLEST_POPULATION = 2


def scheduler_problems(
    scheduler: TrialSchedulerConfig,
    search: Mapping[str, Domain],
    *,
    epochs: int,
    trials: int,
    validate_every: int = 1,
) -> Iterator[Problem]:
    """Yield the problems of a trial scheduler.

    Args:
        scheduler: Section `trial_scheduler`.
        search: Searched domains by name.
        epochs: Number of epochs of the longest trial.
        trials: Number of configurations to try.
        validate_every: Number of epochs between two reports of a trial.
    """
    for name, owner in _OWNERS.items():
        usual = TrialSchedulerConfig.model_fields[name].default
        if getattr(scheduler, name) != usual and scheduler.name not in (owner, "none"):
            message = f"is a setting of '{owner}', not of '{scheduler.name}'. Leave it out"
            yield Problem(f"trial_scheduler.{name}", message)
    if scheduler.name not in ("pbt", "none") and scheduler.grace_epochs > epochs:
        where = "search.epochs allows at most" if any(domains_of("epochs", search)) else "training.epochs, which is"
        yield Problem("trial_scheduler.grace_epochs", f"got {scheduler.grace_epochs}; must not exceed {where} {epochs}")
    if scheduler.name == "pbt":
        yield from _pbt_problems(scheduler, search, epochs, trials)
        if scheduler.perturb_every % validate_every:
            yield Problem(
                "trial_scheduler.perturb_every",
                f"got {scheduler.perturb_every}; trials are compared when they report, which training.validate_every "
                f"has them do every {validate_every} epochs. Use a multiple of {validate_every}",
            )


def _pbt_problems(
    scheduler: TrialSchedulerConfig, search: Mapping[str, Domain], epochs: int, trials: int
) -> Iterator[Problem]:
    searched = [name for name, domain in search.items() if not isinstance(domain, ConstantDomain)]
    if not set(searched) & set(scheduler.mutate):
        yield Problem("trial_scheduler.mutate", f"nothing of {', '.join(scheduler.mutate)} is searched. Add search.lr")
    for name in searched:
        if name not in get_args(Mutable):
            yield Problem(
                f"search.{name}",
                "differs between trials, and pbt copies weights from one to another. Fix it, or use "
                "trial_scheduler.name: asha",
            )
    if scheduler.perturb_every >= epochs:
        yield Problem(
            "trial_scheduler.perturb_every",
            f"got {scheduler.perturb_every}; must be below the {epochs} epochs of a trial",
        )
    if int(trials * scheduler.quantile) < 1 or trials < _SMALLEST_POPULATION:
        least = max(_SMALLEST_POPULATION, int(-(-1 // scheduler.quantile)))
        yield Problem("trials", f"got {trials}; pbt with quantile {scheduler.quantile:g} needs {least} or more")
