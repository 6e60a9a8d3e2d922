"""Tune's rules of early stopping as allocators, for simulations: a trial that they stop is never resumed."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import TrialScheduler

from orchestrator.config.plans import SearchPlan
from orchestrator.lanes.trial_client import EPOCH
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger
from orchestrator.search.allocation.allocator import AllocationSetting, Allocator, Propose, Resume, Scores
from orchestrator.search.schedulers.trial_schedulers import create_trial_scheduler, keeps_lane

_METRIC = "score"


class StoppingRule(Allocator):
    """Allocator that proposes configurations in order, and trains each until a scheduler of Tune stops it.

    Args:
        setting: Bounds of the decisions.
        scheduler: Scheduler of Tune that answers each report with a decision.
    """

    def __init__(self, setting: AllocationSetting, scheduler: TrialScheduler) -> None:
        super().__init__(setting)
        self._scheduler: Any = scheduler
        self._scheduler.set_search_properties(_METRIC, "max")
        self._trials: dict[int, Any] = {}
        self._last: dict[int, dict[str, float]] = {}
        self._started: set[int] = set()

    def start(self, number: int, params: Mapping[str, Any]) -> None:
        """Add a trial to the scheduler."""
        trial = SimpleNamespace(trial_id=str(number), config={"trial": {"number": number}})
        self._trials[number] = trial
        self._started.add(number)
        self._scheduler.on_trial_add(None, trial)

    def report(self, number: int, epoch: int, scores: Scores, seconds: float) -> bool:
        """Pass an epoch to the scheduler, and return whether the trial continues."""
        self._last[number] = {EPOCH: epoch, _METRIC: scores[0]}
        return bool(self._scheduler.on_trial_result(None, self._trials[number], self._last[number]) != "STOP")

    def pause(self, number: int, resume_epoch: int) -> None:
        """End a trial that the scheduler stopped."""
        self.end(number)

    def end(self, number: int) -> None:
        """Pass the end of a trial to the scheduler."""
        self._scheduler.on_trial_complete(None, self._trials.pop(number), self._last.pop(number, {}))

    def next_trial(self, proposed: int) -> Resume | Propose | None:
        """Return a new trial while configurations are left."""
        return Propose() if proposed < self.setting.trials else None

    @property
    def is_finished(self) -> bool:
        """True when all configurations were proposed."""
        return len(self._started) >= self.setting.trials


def create_stopping_rule(plan: SearchPlan) -> StoppingRule:
    """Create the allocator that decides as the trial scheduler of a sweep.

    Args:
        plan: Search plan of the sweep.

    Raises:
        ValueError: The trial scheduler changes the settings of trials, which a recorded curve cannot show.
    """
    scheduler = plan.trial_scheduler
    if not keeps_lane(plan):
        raise ValueError(f"trial_scheduler.name: got '{scheduler.name}'; it cannot be simulated. Use another")
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "journal.jsonl") as journal:
        tune_scheduler = create_trial_scheduler(plan, Ledger(journal), SweepFolder(Path(folder)))
    setting = AllocationSetting(
        plan.trials, plan.max_epochs, scheduler.grace_epochs, scheduler.reduction_factor, seed=plan.seed
    )
    return StoppingRule(setting, tune_scheduler)
