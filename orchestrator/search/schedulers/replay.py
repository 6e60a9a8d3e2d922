"""Replay of earlier sessions' reports into a trial scheduler."""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import TrialScheduler

from orchestrator.lanes.tune_keys import EPOCH
from orchestrator.records.ledger import Ledger, TrialRecord
from orchestrator.runtime.ray_private.tune import TuneController
from orchestrator.search.not_pickled import NotPickled


class _EarlierTrial:
    """Trial of an earlier session, with the one attribute that schedulers read."""

    def __init__(self, record: TrialRecord) -> None:
        self.trial_id = f"earlier-{record.number}"


class ReportReplay(NotPickled, TrialScheduler):
    """Mixin that replays the reports of earlier sessions into a Tune scheduler before its first decision.

    A trial that trains a configuration with another seed is trained to the end: the scheduler does not see it.

    Args:
        ledger: Ledger of the sweep.
        options: Options of the scheduler.
    """

    def __init__(self, ledger: Ledger, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self._ledger = ledger
        self._earlier = [record for record in ledger.trials() if record.reports and not record.is_repeat]
        self._newest: dict[int, TuneTrial] = {}  # Tune's newest trial, by number

    def on_trial_add(self, tune_controller: TuneController, trial: TuneTrial) -> None:
        """Add a trial; where it resumes, replay its own reports after those of ended trials."""
        number = trial.config["trial"]["number"]
        if self._is_repeat(trial):
            return
        before = self._newest.get(number)
        self._newest[number] = trial
        own = next((record for record in self._earlier if record.number == number), None)
        for record in [record for record in self._earlier if record.is_over]:
            self._replay(tune_controller, _EarlierTrial(record), record)
        self._enter(tune_controller, trial, number)
        if own is not None:
            self._replay_reports(tune_controller, trial, own)
        if before is not None:
            self._take_over(before, trial)
        self._earlier = [record for record in self._earlier if not record.is_over and record is not own]

    def on_trial_result(self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]) -> str:
        """Return whether a trial continues."""
        if self._is_repeat(trial):
            return TrialScheduler.CONTINUE
        return str(super().on_trial_result(tune_controller, trial, result))

    def on_trial_complete(self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]) -> None:
        """Note the end of a trial."""
        if not self._is_repeat(trial):
            super().on_trial_complete(tune_controller, trial, result)

    def on_trial_error(self, tune_controller: TuneController, trial: TuneTrial) -> None:
        """Note the failure of a trial."""
        if not self._is_repeat(trial):
            super().on_trial_error(tune_controller, trial)

    def on_trial_remove(self, tune_controller: TuneController, trial: TuneTrial) -> None:
        """Note that a trial was removed."""
        if not self._is_repeat(trial):
            super().on_trial_remove(tune_controller, trial)

    def _is_repeat(self, trial: TuneTrial) -> bool:
        number = trial.config["trial"]["number"]
        return self._ledger.has_trial(number) and self._ledger.trial(number).is_repeat  # a simulated one is not there

    def _take_over(self, before: TuneTrial, trial: TuneTrial) -> None:
        """Give a trial that the user paused in this session the reports that it made before as another one of Tune.

        Args:
            before: Tune's trial until the pause.
            trial: Tune's trial from now on.
        """

    def _replay(self, tune_controller: TuneController, trial: Any, record: TrialRecord) -> None:
        self._enter(tune_controller, trial, record.number)
        self._replay_reports(tune_controller, trial, record)

    def _enter(self, tune_controller: TuneController, trial: Any, number: int) -> None:
        """Add a trial to the scheduler."""
        super().on_trial_add(tune_controller, trial)

    def _replay_reports(self, tune_controller: TuneController, trial: Any, record: TrialRecord) -> None:
        """Pass earlier reports to the scheduler and ignore its decisions."""
        for report in record.reports:
            super().on_trial_result(tune_controller, trial, {EPOCH: report["epoch"], **report})
