"""Which trials are stopped early: Tune's trial schedulers by name."""

from __future__ import annotations

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from orchestrator.config.schema import SweepConfig
from orchestrator.lanes.client import EPOCH
from orchestrator.ledger import Ledger
from orchestrator.search.recollection import Asha


def create_trial_scheduler(config: SweepConfig, ledger: Ledger) -> TrialScheduler:
    """What decides after each epoch whether a trial goes on."""
    if config.trial_scheduler.name == "none":
        return FIFOScheduler()
    return Asha(
        ledger,
        time_attr=EPOCH,
        max_t=config.max_epochs,
        grace_period=config.trial_scheduler.grace_epochs,
        reduction_factor=config.trial_scheduler.reduction_factor,
    )
