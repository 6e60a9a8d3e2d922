"""Trial schedulers by name."""

from __future__ import annotations

from typing import Any

from ray.tune.schedulers import TrialScheduler

from orchestrator.config.plans import SearchPlan
from orchestrator.config.sections.study import TrialSchedulerConfig
from orchestrator.lanes.tune_keys import EPOCH
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.ledger import Ledger
from orchestrator.search.allocation.rules import ALLOCATORS
from orchestrator.search.schedulers.allocated import Allocated, Allocation
from orchestrator.search.schedulers.early_stopping import Asha, HyperBand, Median, OldestFirst
from orchestrator.search.schedulers.population import PopulationTraining


def create_allocation(plan: SearchPlan, ledger: Ledger) -> Allocation | None:
    """Return the rule that allocates epochs to trials; None where the trial scheduler pauses none.

    Args:
        plan: Search plan of the sweep.
        ledger: Ledger of the sweep, with the events of earlier sessions.
    """
    return Allocation(plan, ledger) if plan.trial_scheduler.name in ALLOCATORS else None


def create_trial_scheduler(
    plan: SearchPlan, ledger: Ledger, folder: SweepFolder, allocation: Allocation | None = None
) -> TrialScheduler:
    """Return the scheduler that decides after each epoch whether a trial continues.

    Args:
        plan: Search plan of the sweep.
        ledger: Ledger of the sweep, with the reports of earlier sessions.
        folder: Folder of the sweep.
        allocation: Allocation rule of the sweep, where its trial scheduler pauses trials; None creates it.
    """
    if plan.trial_scheduler.name in ALLOCATORS:
        return Allocated(allocation or Allocation(plan, ledger))
    if not keeps_lane(plan):
        return PopulationTraining(plan, ledger, folder)
    return create_stopping_scheduler(plan.trial_scheduler, ledger, max_epochs=plan.max_epochs, seed=plan.seed)


def create_stopping_scheduler(
    scheduler: TrialSchedulerConfig, ledger: Ledger, *, max_epochs: int, seed: int
) -> TrialScheduler:
    """Return a scheduler that stops trials early, or none of them.

    Args:
        scheduler: Name and options.
        ledger: Ledger of the sweep, with the reports of earlier sessions.
        max_epochs: Epochs of the longest trial.
        seed: Seed of the sweep.
    """
    rungs: dict[str, Any] = {
        "time_attr": EPOCH,
        "max_t": max_epochs,
        "grace_period": scheduler.grace_epochs,
        "reduction_factor": scheduler.reduction_factor,
    }
    match scheduler.name:
        case "asha_stopping":
            return Asha(ledger, **rungs)
        case "hyperband":
            return HyperBand(ledger, seed=seed, **rungs)
        case "median":
            least = scheduler.min_trials
            return Median(ledger, time_attr=EPOCH, grace_period=scheduler.grace_epochs, min_samples_required=least)
        case _:
            return OldestFirst()  # type: ignore[no-untyped-call]


def keeps_lane(plan: SearchPlan) -> bool:
    """Return whether a trial keeps its lane to its end; the trials of a population take turns."""
    return plan.trial_scheduler.name != "pbt"


def trials_at_once(plan: SearchPlan, lanes: int) -> int:
    """Return the number of trials that Tune runs at once: one per lane, or a whole population, which takes turns."""
    return lanes if keeps_lane(plan) else max(lanes, plan.trials)
