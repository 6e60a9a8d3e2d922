"""Trial schedulers that stop what is hopeless, and know what an earlier session of the sweep has seen.

None of them pauses a trial: a lane that is free is better used by the next one. HyperBand is therefore the asynchronous
one, whose brackets fill by chance and stop at their rungs as soon as they know enough.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from orchestrator.records.ledger import Ledger, TrialRecord
from orchestrator.runtime.ray_private.tune import TuneController
from orchestrator.search.schedulers.replay import Recollection

_WAITING = (TuneTrial.PENDING, TuneTrial.PAUSED)


class OldestFirst(FIFOScheduler):
    """Runs trials in the order they were proposed in, and stops none."""

    def choose_trial_to_run(self, tune_controller: TuneController) -> TuneTrial | None:
        """The oldest that waits, those that were paused last. Tune's own looks through all trials there ever were."""
        waiting = [trial for trial in tune_controller.get_live_trials() if trial.status in _WAITING]
        return min(
            waiting, key=lambda trial: (_WAITING.index(trial.status), trial.config["trial"]["number"]), default=None
        )


class Asha(Recollection, OldestFirst, AsyncHyperBandScheduler):
    """Asynchronous successive halving whose rungs outlast the driver."""


class HyperBand(Recollection, OldestFirst, AsyncHyperBandScheduler):
    """Asynchronous successive halving in as many brackets as there are rungs; bracket s starts s rungs later.

    The bracket of a trial follows from the seed and its number, with HyperBand's shares: the bracket that stops
    earliest takes the most trials, so that each is given about the same number of epochs.

    Args:
        ledger: Of the sweep.
        seed: Of the sweep.
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
        """Makes a trial known; Tune's choice of its bracket would be another one each time."""
        super()._enter(tune_controller, trial, number)
        chance = np.random.RandomState(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        self._trial_info[trial.trial_id] = self._brackets[chance.choice(len(self._shares), p=self._shares)]


def brackets(max_t: int, grace_period: int, reduction_factor: int) -> int:
    """As many as there are rungs up to the last epoch; trials of the last bracket stop nowhere before it."""
    return math.floor(math.log(max_t / grace_period, reduction_factor) + 1e-9) + 1


class Median(Recollection, OldestFirst, MedianStoppingRule):
    """Stops a trial whose best value is worse than the median of what the others had on average by then."""

    def on_trial_complete(self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]) -> None:
        """The last report counts; an end without one has nothing to count."""
        if self._metric in result and self._time_attr in result:
            super().on_trial_complete(tune_controller, trial, result)

    def _tell(self, tune_controller: TuneController, trial: Any, record: TrialRecord) -> None:
        """What was reported counts; whether the rule would have stopped the trial then does not."""
        for report in record.reports:
            self._results[trial].append({self._time_attr: report["epoch"], **report})

    def _on_insufficient_samples(self, tune_controller: TuneController, trial: TuneTrial, time: float) -> str:
        """Goes on: Tune's rule would pause the trial, and its lane with it."""
        return TrialScheduler.CONTINUE
