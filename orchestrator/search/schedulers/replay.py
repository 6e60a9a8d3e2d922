"""Trial schedulers that know what an earlier session of the sweep has seen."""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import TrialScheduler

from orchestrator.lanes.trial_client import EPOCH
from orchestrator.records.ledger import Ledger, TrialRecord
from orchestrator.runtime.ray_private.tune import TuneController
from orchestrator.search.not_pickled import NotPickled


class _Bygone:
    """A trial of an earlier session, as far as a scheduler looks at one."""

    def __init__(self, record: TrialRecord) -> None:
        self.trial_id = f"bygone-{record.number}"


class Recollection(NotPickled, TrialScheduler):
    """Mixed into a scheduler of Tune's, tells it the reports of earlier sessions before it decides anything.

    Args:
        ledger: Of the sweep.
        options: Of the scheduler.
    """

    def __init__(self, ledger: Ledger, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self._bygone = [record for record in ledger.trials() if record.reports]

    def on_trial_add(self, tune_controller: TuneController, trial: TuneTrial) -> None:
        """A trial begins, or goes on: then its own reports are told as its own."""
        number = trial.config["trial"]["number"]
        own = next((record for record in self._bygone if record.number == number), None)
        for record in [record for record in self._bygone if record.is_over]:
            self._recall(tune_controller, _Bygone(record), record)
        self._enter(tune_controller, trial, number)
        if own is not None:
            self._tell(tune_controller, trial, own)
        self._bygone = [record for record in self._bygone if not record.is_over and record is not own]

    def _recall(self, tune_controller: TuneController, trial: Any, record: TrialRecord) -> None:
        self._enter(tune_controller, trial, record.number)
        self._tell(tune_controller, trial, record)

    def _enter(self, tune_controller: TuneController, trial: Any, number: int) -> None:
        """Makes a trial known to the scheduler."""
        super().on_trial_add(tune_controller, trial)

    def _tell(self, tune_controller: TuneController, trial: Any, record: TrialRecord) -> None:
        """What it decides is history."""
        for report in record.reports:
            super().on_trial_result(tune_controller, trial, {EPOCH: report["epoch"], **report})
