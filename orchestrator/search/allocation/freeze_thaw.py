"""Freeze-thaw: the next epoch goes to the trial with the largest expected improvement per second.

After each epoch the learning curves of all trials are predicted. The worth of a trial is the largest expected
improvement over the best score so far within any horizon, divided by the seconds until then: the start on a lane,
epochs to repeat after a lost checkpoint, and the epochs themselves. A new configuration is predicted from all trials
together. A trial continues while no other is worth clearly more.

The first trial of a sweep is the best guess before any result: values of a paper, or the middle of the space. Where the
budget is large enough, it trains to the second rung without a pause: one epoch often shows nothing of its worth.

With constraints, improvement is that over the best feasible trial. A trial that is infeasible after as many epochs as
another one was feasible is left behind: it is worth nothing, unless nothing else is left. Where further epochs can make
it feasible, the rungs may still promote it, after all feasible ones.

A model can be wrong. Every few assignments of a lane therefore follow the rungs of successive halving instead: the best
trial that may be promoted trains to the next rung, and a new one begins where none may.

After Swersky et al. 2014 (freeze-thaw) and Rakotoarison et al. 2024 (improvement over several horizons). Differs: the
model of `learning_curves.py`, seconds instead of epochs, and the assignments that do not depend on the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import ndtr

from orchestrator.search.allocation.allocator import AllocationSetting, Allocator, Feasibility, Propose, Resume, Scores
from orchestrator.search.allocation.learning_curves import Array, CurveModel, Prediction
from orchestrator.search.allocation.promotion_asha import rung_epochs
from orchestrator.search.allocation.trial_curves import Rows, TrialCurves

START_S = 0.15
"""Seconds that a lane takes to begin or to resume a trial; measured in benchmarks/trial_overhead.py."""
_FIRST_SHARE = 0.05
"""Largest share of all epochs that the first trial gets without a comparison."""
_BY_RUNGS_EVERY = 3
"""One in this many assignments follows the rungs."""
_KEEP = 1.25
"""Factor on the worth of the running trial, so that lanes do not change trials for next to nothing."""
_REFIT = 1.1
"""Growth of the number of reports after which the model is fitted again."""
_ITERATIONS = 5
_LOWEST = -1.0
"""Lowest score of a curve in units of the model: as far below the median trial as the best one is above."""
_HORIZON_STEP = 1.7
_MOST_PREDICTED = 1000
"""Of more paused trials, the best half and the newest half of this number take part in a decision."""


class FreezeThaw(Allocator):
    """Rule that gives each epoch to the trial with the largest expected improvement per second.

    With `setting.epochs` the sweep ends when these are used. Without, it uses as many epochs as one in
    `reduction_factor` of the trials takes from beginning to end, and then trains the best trial to its end, a
    feasible one where there is any.

    Args:
        setting: Bounds of the decisions; the first objective counts.
    """

    def __init__(self, setting: AllocationSetting) -> None:
        super().__init__(setting)
        self._curves = TrialCurves(setting.max_epochs)
        self._model = CurveModel(setting.max_epochs)
        self._horizons = _horizons(setting.max_epochs)
        self._rungs = [*rung_epochs(setting), setting.max_epochs]
        self._until: dict[int, int] = {}  # epoch before which a trial does not pause, by row
        self._by_hand: set[int] = set()  # rows that the user has resumed, until they pause again
        self._best = -math.inf  # feasible or not
        self._used = 0
        self._reports = 0
        self._fitted_at = 0
        self._assignments = 0

    def start(self, number: int, params: Mapping[str, Any]) -> None:
        """See `Allocator.start`."""
        row = self._curves.row(number)
        newest = int(self._curves.newest[row])
        by_rungs = self._is_by_rungs()
        self._assignments += 1
        if row == 0 and not newest:
            self._until[row] = min(self._rungs[:2][-1], int(_FIRST_SHARE * self.budget))
        if newest and by_rungs:
            self._until[row] = next((rung for rung in self._rungs if rung > newest), self.setting.max_epochs)
        self._curves.set_running(row)

    def report(
        self,
        number: int,
        epoch: int,
        scores: Scores,
        seconds: float,
        feasibility: Feasibility = Feasibility.FEASIBLE,
    ) -> bool:
        """See `Allocator.report`."""
        row = self._curves.row(number)
        is_repeated = epoch < self._curves.newest[row]
        self._curves.set_feasibility(row, epoch, feasibility)
        self._used += self._curves.add(row, epoch, scores[0], seconds)
        self._best = max(self._best, scores[0])
        self._reports += 1
        self._refit()
        if epoch >= self.setting.max_epochs:
            return True
        if self._used >= self.budget:
            return self._has_own_budget and (row in self._by_hand or row == self._leader())
        until = 0 if self._curves.ruled_out[row] else self._until.get(row, 0)
        if is_repeated or epoch < max(self.setting.grace_epochs, until):
            return True
        return self._is_worth_most(row)

    def pause(self, number: int, resume_epoch: int) -> None:
        """See `Allocator.pause`."""
        row = self._curves.row(number)
        self._by_hand.discard(row)
        self._curves.set_paused(row, resume_epoch)

    def end(self, number: int) -> None:
        """See `Allocator.end`."""
        self._curves.set_ended(self._curves.row(number))

    def resume_by_hand(self, number: int) -> None:
        """See `Allocator.resume_by_hand`; beyond the epochs that the rule allows itself, it trains to its end."""
        self._by_hand.add(self._curves.row(number))

    def next_trial(self, proposed: int) -> Resume | Propose | None:
        """See `Allocator.next_trial`."""
        may_propose = proposed < self.setting.trials
        paused = self._curves.paused
        if self._used >= self.budget:
            leader = self._leader() if self._has_own_budget else -1
            return self._resume(leader) if leader in paused else None
        if not len(paused):
            return Propose() if may_propose else None
        if self._is_by_rungs():
            if (promoted := self._promotable()) is not None:
                return self._resume(promoted)
            if may_propose:
                return Propose()
        promising = self._promising(paused, may_propose)
        if not len(promising):
            return Propose() if may_propose else None
        worth, new = self._worth(self._to_predict(promising))
        best = max(worth, key=lambda row: worth[row])
        return Propose() if may_propose and new >= worth[best] else self._resume(best)

    @property
    def is_finished(self) -> bool:
        """See `Allocator.is_finished`."""
        if self._used >= self.budget:
            leader = self._leader() if self._has_own_budget else -1
            return leader < 0 or bool(self._curves.ended[leader])
        return len(self._curves) >= self.setting.trials and bool(self._curves.ended.all())

    @property
    def spent(self) -> str:
        """See `Allocator.spent`."""
        if not self._has_own_budget or self._used < self.budget or not self.is_finished:
            return ""
        setting = self.setting
        rule = f"{setting.trials} trials x {setting.max_epochs} epochs / {setting.reduction_factor}"
        return f"freeze_thaw has spent its {self.budget} epochs ({rule}) on {len(self._curves)} trials"

    @property
    def budget(self) -> int:
        """Epochs that all trials may use together."""
        if self.setting.epochs is not None:
            return self.setting.epochs
        return math.ceil(self.setting.trials * self.setting.max_epochs / self.setting.reduction_factor)

    @property
    def _has_own_budget(self) -> bool:
        return self.setting.epochs is None

    def _resume(self, row: int) -> Resume:
        return Resume(self._curves.numbers[row])

    def _leader(self) -> int:
        """Return the row of the trial with the best score of any epoch, among those that are complete or may go on.

        -1 where there is none. A trial that was stopped, or has failed or diverged, has ended before its last epoch. An
        infeasible trial leads only where there is no feasible one.
        """
        best = np.where(self._curves.failed | ~self._curves.leading, -np.inf, self._curves.best)
        return int(np.argmax(best)) if np.isfinite(best).any() else -1

    def _is_by_rungs(self) -> bool:
        return self._assignments % _BY_RUNGS_EVERY == _BY_RUNGS_EVERY - 1

    def _promising(self, rows: Rows, may_propose: bool) -> Rows:
        """Return those of some trials that are not left behind; all where no others run and none may be proposed."""
        behind = self._curves.left_behind
        found = rows[~behind[rows]]
        others = may_propose or bool((self._curves.running & ~behind).any())
        return found if len(found) or others else rows

    def _promotable(self) -> int | None:
        """Return the best paused trial in the top 1 / `reduction_factor` of a rung, from the highest rung.

        Infeasible trials come last on a rung; those that are ruled out are not promoted.
        """
        newest, paused = self._curves.newest, set(self._curves.paused.tolist())
        feasibility, ruled_out = self._curves.feasibility, self._curves.ruled_out
        for rung, following in reversed(list(zip(self._rungs, self._rungs[1:], strict=False))):
            reached = np.flatnonzero(newest >= rung)
            order = np.lexsort((-self._curves.at(reached, rung), feasibility[reached]))  # stable
            for row in reached[order[: len(reached) // self.setting.reduction_factor]].tolist():
                if row in paused and newest[row] < following and not ruled_out[row]:
                    return int(row)
        return None

    def _refit(self) -> None:
        if self._reports >= self._fitted_at * _REFIT:
            self._fitted_at = self._reports
            self._model.fit(self._scaled(np.flatnonzero(self._curves.leading))[0], _ITERATIONS)

    def _is_worth_most(self, row: int) -> bool:
        """Return whether no other trial, and no new one, is worth clearly more than a running trial."""
        may_propose = len(self._curves) < self.setting.trials
        promising = self._promising(np.append(self._curves.paused, row), may_propose)
        if row not in promising:
            return False
        worth, new = self._worth(np.append(self._to_predict(promising[:-1]), row), running=row)
        others = max((value for other, value in worth.items() if other != row), default=-math.inf)
        if may_propose:
            others = max(others, new)
        return worth[row] * _KEEP >= others

    def _to_predict(self, rows: Rows) -> Rows:
        """Return the best and the newest of many trials."""
        if len(rows) <= _MOST_PREDICTED:
            return rows
        order = np.argsort(-self._curves.latest[rows], kind="stable")
        return np.union1d(rows[order[: _MOST_PREDICTED // 2]], rows[-_MOST_PREDICTED // 2 :])

    def _worth(self, rows: Rows, running: int = -1) -> tuple[dict[int, float], float]:
        """Return the expected improvement per second of each of some trials, and that of a new one."""
        curves, best = self._scaled(rows)
        last = self.setting.max_epochs
        newest = np.append(self._curves.newest[rows], 0)
        epochs = np.minimum(newest[:, None] + self._horizons, last)
        shown = np.vstack([curves, np.full(last, np.nan)])
        gain = expected_improvement(self._model.predict(shown, epochs), best)
        epoch_s = np.append(self._curves.seconds(rows), self._curves.usual_seconds)
        done = np.append(self._curves.resume_epochs[rows], 0)
        start_s = np.where(np.append(rows, -2) == running, 0.0, START_S)
        rates = gain / (start_s[:, None] + epoch_s[:, None] * np.maximum(epochs - done[:, None], 1))
        found = rates.max(axis=1)
        return dict(zip(rows.tolist(), found[:-1].tolist(), strict=True)), self._share_ahead * float(found[-1])

    @property
    def _share_ahead(self) -> float:
        """Share of the trials that are not left behind: a new configuration may be."""
        begun = int(np.count_nonzero(self._curves.newest))
        return 1.0 - int(np.count_nonzero(self._curves.left_behind)) / max(begun, 1)

    def _scaled(self, rows: Rows | slice) -> tuple[Array, float]:
        """Return curves in units of the model, where the median trial is at 0 and the best score at 1, and the best.

        Both are those of the most feasible trials. Where their scores do not differ, those of all trials give the unit.
        """
        latest, leading = self._curves.latest, self._curves.leading
        if not np.isfinite(latest).any():
            return np.full_like(self._curves.scores[rows], np.nan), 0.0
        best = self._best if leading.all() else float(self._curves.best[leading].max())
        middle, middle_of_all = (float(np.median(each[np.isfinite(each)])) for each in (latest[leading], latest))
        spread = best - middle if best > middle else self._best - middle_of_all
        spread = spread if spread > 0 else 1.0
        return np.maximum((self._curves.scores[rows] - middle) / spread, _LOWEST), (best - middle) / spread


def expected_improvement(prediction: Prediction, best: float) -> Array:
    """Return the expected improvement over a score, (trials, epochs).

    Args:
        prediction: Predictions of the curves.
        best: Best score so far, in the units of the prediction.
    """
    above = (prediction.means - best) / prediction.deviations
    density = np.exp(-0.5 * above**2) / math.sqrt(2 * math.pi)
    gain = prediction.deviations * (above * ndtr(above) + density)
    return np.asarray(np.einsum("nk,nek->ne", prediction.weights, np.maximum(gain, 0.0)))


def _horizons(epochs: int) -> Array:
    """Return numbers of epochs to look ahead: 1, and about a power of 1.7 each, up to all."""
    steps = {1, epochs}
    horizon = 1.0
    while horizon < epochs:
        steps.add(round(horizon))
        horizon *= _HORIZON_STEP
    return np.array(sorted(steps))
