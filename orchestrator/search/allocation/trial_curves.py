"""Learning curves of the trials of a sweep as arrays, with what it takes to resume each."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.search.allocation.allocator import Feasibility

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]

_FIRST_SIZE = 16
_FLOOR = -1e300  # of scores that are minus infinity


class TrialCurves:
    """Scores by trial and epoch; a trial is a row, in the order in which they began.

    Args:
        epochs: Epochs of a complete trial.
    """

    def __init__(self, epochs: int) -> None:
        self.numbers: list[int] = []
        self._rows: dict[int, int] = {}
        self._scores = np.full((_FIRST_SIZE, epochs), np.nan)
        self._states = np.zeros(
            _FIRST_SIZE,
            dtype=[
                ("newest", "i8"),
                ("resume", "i8"),
                ("seconds", "f8"),
                ("paused", "?"),
                ("ended", "?"),
                ("feasibility", "i1"),
                ("feasible_since", "i8"),
            ],
        )

    def __len__(self) -> int:
        return len(self.numbers)

    def row(self, number: int) -> int:
        """Return the row of a trial; a new one where it has none yet."""
        row = self._rows.get(number)
        if row is None:
            row = self._rows[number] = len(self.numbers)
            self.numbers.append(number)
            if row == len(self._scores):
                self._scores = np.concatenate([self._scores, np.full_like(self._scores, np.nan)])
                self._states = np.concatenate([self._states, np.zeros_like(self._states)])
        return row

    def add(self, row: int, epoch: int, score: float, seconds: float) -> int:
        """Add an epoch, and return the number of epochs by which the curve has grown.

        Args:
            row: Row of the trial.
            epoch: Epoch, from 1.
            score: Objective; larger is better.
            seconds: Duration in seconds; 0 where it is unknown.
        """
        state = self._states[row]
        grown = max(0, epoch - int(state["newest"]))
        self._scores[row, epoch - 1] = max(score, _FLOOR)
        state["newest"] += grown
        state["resume"] = epoch
        if seconds > 0:
            known = float(state["seconds"])
            state["seconds"] = seconds / max(grown, 1) if known == 0 else 0.5 * (known + seconds / max(grown, 1))
        return grown

    def set_feasibility(self, row: int, epoch: int, feasibility: Feasibility) -> None:
        """Note whether a trial meets the constraints, before `add` gets the epoch."""
        state = self._states[row]
        if not state["newest"] or state["feasibility"] > feasibility:
            state["feasible_since"] = epoch
        state["feasibility"] = feasibility

    def set_running(self, row: int) -> None:
        """Note that a trial runs."""
        self._states["paused"][row] = False

    def set_paused(self, row: int, resume_epoch: int) -> None:
        """Note that a trial is paused, with the epoch of its checkpoint."""
        self._states["paused"][row] = True
        self._states["resume"][row] = resume_epoch

    def set_ended(self, row: int) -> None:
        """Note that a trial has ended."""
        self._states["paused"][row] = False
        self._states["ended"][row] = True

    @property
    def scores(self) -> Array:
        """Scores, (trials, epochs); NaN where an epoch was not reported."""
        return self._scores[: len(self)]

    @property
    def newest(self) -> npt.NDArray[np.int64]:
        """Newest epoch of each trial; 0 before the first."""
        return np.asarray(self._column("newest"))

    @property
    def resume_epochs(self) -> npt.NDArray[np.int64]:
        """Epoch from which each trial continues."""
        return np.asarray(self._column("resume"))

    @property
    def ended(self) -> npt.NDArray[np.bool_]:
        """True for trials that have ended."""
        return np.asarray(self._column("ended"))

    @property
    def paused(self) -> Rows:
        """Rows of the paused trials."""
        return np.flatnonzero(self._column("paused"))

    @property
    def feasibility(self) -> npt.NDArray[np.int8]:
        """`Feasibility` of each trial."""
        return np.asarray(self._column("feasibility"))

    @property
    def running(self) -> Mask:
        """True for trials that are neither paused nor ended."""
        return np.asarray(~self._column("paused") & ~self._column("ended"))

    @property
    def failed(self) -> Mask:
        """True for trials that have ended before their last epoch."""
        return np.asarray(self.ended & (self.newest < self._scores.shape[1]))

    @property
    def leading(self) -> Mask:
        """True for trials of the best feasibility that there is, of which one may be the result."""
        return np.asarray(self._column("feasibility") <= self._best_feasibility)

    @property
    def ruled_out(self) -> Mask:
        """True for trials that no epoch makes feasible, while there are others."""
        least = max(self._best_feasibility, Feasibility.INFEASIBLE)
        return np.asarray(self._column("feasibility") > least)

    @property
    def left_behind(self) -> Mask:
        """True for trials that are ruled out, or infeasible after as many epochs as another one was feasible."""
        found = self.ruled_out
        feasible = self._column("feasibility") == Feasibility.FEASIBLE
        others = feasible & self._is_candidate
        if others.any():
            found = found | (~feasible & (self.newest >= self._column("feasible_since")[others].min()))
        return found

    @property
    def _is_candidate(self) -> Mask:
        return np.asarray((self.newest > 0) & ~self.failed)

    @property
    def _best_feasibility(self) -> int:
        found = self._column("feasibility")[self._is_candidate]
        return int(found.min(initial=Feasibility.RULED_OUT))

    @property
    def latest(self) -> Array:
        """Newest score of each trial; minus infinity before the first."""
        newest = self.newest
        found = self.scores[np.arange(len(self)), np.maximum(newest, 1) - 1]
        return np.where(newest > 0, found, -np.inf)

    @property
    def best(self) -> Array:
        """Best score of each trial; minus infinity before the first."""
        return np.asarray(np.where(np.isnan(self.scores), -np.inf, self.scores).max(axis=1, initial=-np.inf))

    def seconds(self, rows: Rows) -> Array:
        """Return the seconds of an epoch of each trial; for one that has reported none, the median of the others."""
        known = self._column("seconds")
        usual = self.usual_seconds
        return np.where(known[rows] > 0, known[rows], usual)

    @property
    def usual_seconds(self) -> float:
        """Median over the trials of the seconds of an epoch; 1 where none is known."""
        known = self._column("seconds")
        return float(np.median(known[known > 0])) if (known > 0).any() else 1.0

    def at(self, rows: Rows, epoch: int) -> Array:
        """Return the first score of each trial at an epoch or later."""
        part = self.scores[rows, epoch - 1 :]
        return np.asarray(part[np.arange(len(rows)), np.isfinite(part).argmax(axis=1)])

    def _column(self, name: str) -> Any:
        return self._states[name][: len(self)]
