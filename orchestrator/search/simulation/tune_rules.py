"""Tune's rules of early stopping as allocators, for simulations: a trial that they stop is never resumed."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import TrialScheduler

from orchestrator.config.sections.study import TrialSchedulerConfig
from orchestrator.lanes.tune_keys import EPOCH
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger
from orchestrator.search.allocation.allocator import AllocationSetting, Allocator, Feasibility, Propose, Resume, Scores
from orchestrator.search.schedulers.trial_schedulers import create_stopping_scheduler

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

    def report(
        self,
        number: int,
        epoch: int,
        scores: Scores,
        seconds: float,
        feasibility: Feasibility = Feasibility.FEASIBLE,
    ) -> bool:
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


def create_stopping_rule(scheduler: TrialSchedulerConfig, setting: AllocationSetting) -> StoppingRule:
    """Create the allocator that decides as a trial scheduler that stops trials early, or none of them.

    Args:
        scheduler: Name and options; not one that changes the settings of trials, which no recorded curve can show.
        setting: Bounds of the decisions.
    """
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "journal.jsonl") as journal:
        ledger = Ledger(journal)
        tune_scheduler = create_stopping_scheduler(scheduler, ledger, max_epochs=setting.max_epochs, seed=setting.seed)
    return StoppingRule(setting, tune_scheduler)
