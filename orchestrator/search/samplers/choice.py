"""Choice of a sampler by the space, the objectives and the number of trials.

Optuna's own AutoSampler is fetched over the network when it is used, and changes with what is fetched; the rules here
are part of a release, in the order in which they are tried. A sweep keeps the version of the rules that it began with.
The first took `gp` where only numbers are searched and `tpe` for choices; the second takes both in turn, unless only
numbers are searched and trials end early; the third is the second, with first trials that are spread evenly for longer;
the fourth is the third, and begins in the middle of the space where first trials are spread evenly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from orchestrator.config.plans import SearchPlan
from orchestrator.config.sections.study import SamplerConfig, SamplerName, TrialSchedulerConfig
from orchestrator.config.validation.sampler_rules import too_fine_for_gp
from search_spaces import ChoiceDomain, ConstantDomain, SearchSpace
from search_spaces.grid import grid_size

FIRST_RULES: Final = 1
"""Version of the rules of a sweep that records none."""
NEWEST_RULES = SamplerConfig().rules
_LARGE_POPULATION = 400
_MOST_TRIALS_GP = 1000
Startup = Literal["random", "even", "late"]
LATE: Final = "late"
_TO_THE_END = ("none", "pbt")  # trial schedulers that end no trial early


@dataclass(frozen=True)
class SamplerChoice:
    """Chosen sampler.

    Args:
        name: Name of the sampler.
        reason: Reason of the choice.
    """

    name: SamplerName
    reason: str


def choose_sampler(
    space: SearchSpace,
    *,
    trials: int,
    objectives: int = 1,
    constraints: int = 0,
    ends_early: bool = True,
    rules: int = NEWEST_RULES,
) -> SamplerChoice:
    """Choose the sampler of a sweep whose `sampler.name` is `auto`.

    Args:
        space: Search space of the sweep.
        trials: Number of trials.
        objectives: Number of objectives.
        constraints: Number of constraints.
        ends_early: False where every trial is trained to the end.
        rules: Version of the rules.
    """
    return next(_choices(space, trials, objectives, constraints, ends_early=ends_early, rules=rules))


def chosen_sampler(search: SearchPlan) -> SamplerChoice | None:
    """Return the choice for a sweep whose `sampler.name` is `auto`; None where the sweep names its sampler.

    Args:
        search: Search of the sweep.
    """
    if search.sampler.name != "auto":
        return None
    objectives, constraints = len(search.objectives), len(search.constraints)
    return choose_sampler(
        search.space,
        trials=search.trials,
        objectives=objectives,
        constraints=constraints,
        ends_early=may_end_early(search.trial_scheduler.name),
        rules=search.sampler.rules,
    )


def may_end_early(trial_scheduler: str) -> bool:
    """Return whether a trial scheduler pauses or stops trials.

    Args:
        trial_scheduler: Name of the trial scheduler.
    """
    return trial_scheduler not in _TO_THE_END


def choose_startup(sampler: SamplerConfig, *, objectives: int = 1, ends_early: bool = True) -> Startup:
    """Return how the first trials are drawn.

    Args:
        sampler: Section `sampler`, its sampler chosen.
        objectives: Number of objectives.
        ends_early: False where every trial is trained to the end.
    """
    if sampler.startup != "auto":
        return sampler.startup
    if sampler.name == "gp_tpe":
        return "even"
    is_late = sampler.rules > 2 and sampler.name in ("tpe", "gp") and objectives == 1 and ends_early
    return LATE if is_late else "random"


def begins_in_the_middle(sampler: SamplerConfig, *, tournament: bool) -> bool:
    """Return whether the first of evenly spread trials is the middle of the space.

    Args:
        sampler: Section `sampler`.
        tournament: True where the search has arms: the middle is of one of them alone, and often good.
    """
    return sampler.rules > 3 and not tournament


def reason_of_first_trials(search: SearchPlan, sampler: SamplerConfig, *, is_drawn: bool) -> str:
    """Return what was chosen for the first trials, and why; empty where nothing was.

    Args:
        search: Search of the sweep.
        sampler: Section `sampler`, its sampler chosen.
        is_drawn: True where the sampler draws all values of the very first trial.
    """
    ends_early = may_end_early(search.trial_scheduler.name)
    startup = choose_startup(sampler, objectives=len(search.objectives), ends_early=ends_early)
    chosen = []
    has_middle = startup != "random" and begins_in_the_middle(sampler, tournament=search.tournament is not None)
    if has_middle and is_drawn and sampler.prior == "none":
        chosen.append("one in the middle of the space")
    if sampler.startup == "auto" and startup == LATE:
        epochs, most = second_rung(search.trial_scheduler, search.max_epochs), search.trials // 2
        until = f"until {sampler.startup_trials} were trained for {epochs} epochs, {most} at most"
        chosen.append(f"spread evenly {until}; scores of the first epochs mislead {sampler.name}")
    return ", then ".join(chosen)


def second_rung(scheduler: TrialSchedulerConfig, max_epochs: int) -> int:
    """Return the epochs of a trial that was continued by its first ones: of a complete one where none ends early.

    Args:
        scheduler: Trial scheduler of the sweep.
        max_epochs: Epochs of a complete trial.
    """
    if not may_end_early(scheduler.name):
        return max_epochs
    return min(scheduler.grace_epochs * scheduler.reduction_factor, max_epochs)


def _choices(
    space: SearchSpace, trials: int, objectives: int, constraints: int, *, ends_early: bool, rules: int
) -> Iterator[SamplerChoice]:
    """Yield the choices of all rules that apply, in their order."""
    searched = {name: domain for name, domain in space.items() if not isinstance(domain, ConstantDomain)}
    points = grid_size(space)
    if points == 1:
        yield SamplerChoice("random", "nothing is searched")
    if points is not None and points <= trials:
        yield SamplerChoice("grid", f"the space has {points:,} configurations, and the sweep tries none twice")
    if objectives > 1 and trials >= _LARGE_POPULATION:
        yield SamplerChoice("nsga2", f"{objectives} objectives and {trials:,} trials, enough for generations")
    if objectives > 1 or constraints:
        what = f"{objectives} objectives" if objectives > 1 else "constraints"
        yield SamplerChoice("tpe", f"{what}, which it models from few trials")
    for name, domain in searched.items():
        if domain.when:
            yield SamplerChoice("tpe", f"search.{name} has a condition, which it can follow")
    if rules > 1 and (wide := too_fine_for_gp(searched)):
        yield SamplerChoice("tpe", f"search.{wide} has more values than gp can list")
    choices = [name for name, domain in searched.items() if isinstance(domain, ChoiceDomain)]
    if rules > 1 and trials <= _MOST_TRIALS_GP and (choices or not ends_early):
        yield SamplerChoice("gp_tpe", f"no conditions, in {trials:,} trials; two models, as either may be wrong")
    for name in choices:
        yield SamplerChoice("tpe", f"search.{name} is a choice between unordered values")
    if trials <= _MOST_TRIALS_GP:
        yield SamplerChoice("gp", f"only numbers are searched, in {trials:,} trials")
    yield SamplerChoice("tpe", f"{trials:,} trials; gp takes a quarter of a second for each")
