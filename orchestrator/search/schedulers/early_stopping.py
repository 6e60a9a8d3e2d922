"""Trial schedulers that stop unpromising trials early, and replay the reports of earlier sessions.

None of them pauses a trial: a free lane is better used by the next one. HyperBand is therefore the asynchronous one,
whose brackets are filled at random and stop trials at their rungs as soon as enough have reported.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from orchestrator.records.ledger import Ledger, TrialRecord
from orchestrator.runtime.ray_private.tune import TuneController
from orchestrator.search.schedulers.replay import ReportReplay

_WAITING = (TuneTrial.PENDING, TuneTrial.PAUSED)


class OldestFirst(FIFOScheduler):
    """Scheduler that runs trials in the order of their proposal, and stops none."""

    def choose_trial_to_run(self, tune_controller: TuneController) -> TuneTrial | None:
        """Return the oldest waiting trial, paused ones last; Tune's own method searches all trials there ever were."""
        waiting = [trial for trial in tune_controller.get_live_trials() if trial.status in _WAITING]
        return min(
            waiting, key=lambda trial: (_WAITING.index(trial.status), trial.config["trial"]["number"]), default=None
        )


class Asha(ReportReplay, OldestFirst, AsyncHyperBandScheduler):
    """Asynchronous successive halving whose rungs are rebuilt when a sweep is resumed."""

    def _take_over(self, before: TuneTrial, trial: TuneTrial) -> None:
        """Move the entries of a trial on its rungs, so that it counts once on each."""
        for rung in (rung for bracket in self._brackets for rung in bracket._rungs):
            recorded = rung[1]
            if before.trial_id in recorded:
                recorded[trial.trial_id] = recorded.pop(before.trial_id)


class HyperBand(Asha):
    """Asynchronous successive halving in as many brackets as there are rungs; bracket s starts s rungs later.

    The bracket of a trial follows from the seed and its number, with HyperBand's shares: the bracket that stops
    earliest takes the most trials, so that each bracket gets about the same number of epochs.

    Args:
        ledger: Ledger of the sweep.
        seed: Seed of the sweep.
        max_t: Epochs of the longest trial.
        grace_period: Epochs before the first rung of the first bracket.
        reduction_factor: One in so many trials survives a rung.
        time_attr: Name of the epoch.
    """

    def __init__(
        self, ledger: Ledger, *, seed: int, max_t: int, grace_period: int, reduction_factor: int, time_attr: str
    ) -> None:
        count = brackets(max_t, grace_period, reduction_factor)
        options: dict[str, Any] = {"max_t": max_t, "grace_period": grace_period, "reduction_factor": reduction_factor}
        super().__init__(ledger, brackets=count, time_attr=time_attr, **options)
        shares = np.array([reduction_factor ** (count - 1 - s) * count / (count - s) for s in range(count)])
        self._shares, self._seed = shares / shares.sum(), seed

    def _enter(self, tune_controller: TuneController, trial: Any, number: int) -> None:
        """Add a trial to the bracket that seed and number decide; Tune would choose another one each time."""
        super()._enter(tune_controller, trial, number)
        chance = np.random.RandomState(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        self._trial_info[trial.trial_id] = self._brackets[chance.choice(len(self._shares), p=self._shares)]


def brackets(max_t: int, grace_period: int, reduction_factor: int) -> int:
    """Return the number of brackets, that of the rungs up to the last epoch; the last bracket stops no trial early."""
    return math.floor(math.log(max_t / grace_period, reduction_factor) + 1e-9) + 1


class Median(ReportReplay, OldestFirst, MedianStoppingRule):
    """Scheduler that stops a trial whose best value is below the median of the others' averages up to that epoch."""

    def on_trial_complete(self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]) -> None:
        """Add the last report of a trial; an end without a report adds nothing."""
        if self._metric in result and self._time_attr in result:
            super().on_trial_complete(tune_controller, trial, result)

    def _replay_reports(self, tune_controller: TuneController, trial: Any, record: TrialRecord) -> None:
        """Add earlier reports without applying the rule to them."""
        for report in record.reports:
            self._results[trial].append({self._time_attr: report["epoch"], **report})

    def _take_over(self, before: TuneTrial, trial: TuneTrial) -> None:
        """Move the reports of a trial."""
        self._results[trial] = self._results.pop(before, []) + self._results.get(trial, [])

    def _on_insufficient_samples(self, tune_controller: TuneController, trial: TuneTrial, time: float) -> str:
        """Continue the trial: Tune's rule would pause it, and its lane with it."""
        return TrialScheduler.CONTINUE
