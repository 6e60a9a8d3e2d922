"""View of a study that samplers receive."""

from __future__ import annotations

import bisect
import copy
import heapq
from collections.abc import Container, Sequence

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

OUTCOME = "outcome"
DIVERGED = "diverged"
REJECTED = "rejected"
"""User attribute of a rejected trial: the reason."""
PAUSED = "paused"
"""User attribute of a trial: True while it is paused."""
_BEST_SHARE = 0.2


class TrialWindow:
    """Selection of a study's trials for its sampler, updated from one proposal to the next.

    A trial that diverged or was rejected is shown as a pruned one without values: Optuna's samplers ignore failed
    trials, and would keep proposing what diverges. A paused trial is shown as a pruned one with its reports. With a
    size, the best and the newest trials are shown; of the paused ones those with most epochs count as the best. Each
    ended trial is read once, so that the time of a proposal does not grow with the number of trials.

    Args:
        size: Largest number of ended trials to show, and of paused ones; None shows all.
        directions: Directions of the objectives; with several objectives all trials are shown.
    """

    def __init__(self, size: int | None, directions: Sequence[StudyDirection]) -> None:
        self._size = size if len(directions) == 1 else None
        self._sign = -1.0 if directions[0] is StudyDirection.MAXIMIZE else 1.0
        self._seen = 0
        self._open: list[int] = []
        self._ended: dict[int, FrozenTrial] = {}
        self._numbers: list[int] = []  # of the ended ones, ascending
        self._best: list[tuple[float, int]] = []  # smallest first

    def update(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Return the trials to show, by number.

        Args:
            trials: All trials of the study, in the order of their numbers.
        """
        candidates = [*self._open, *range(self._seen, len(trials))]
        self._seen, self._open = len(trials), []
        for number in candidates:
            if trials[number].state.is_finished():
                self._add(_learnable(trials[number]))
            else:
                self._open.append(number)
        shown = {number: self._ended[number] for number in self._numbers_to_show()}
        paused = [trials[number] for number in self._open if trials[number].user_attrs.get(PAUSED)]
        resting = {trial.number for trial in paused}
        shown |= {number: trials[number] for number in self._open if number not in resting}
        shown |= {trial.number: _pruned(trial) for trial in self._paused_to_show(paused)}
        return [shown[number] for number in sorted(shown)]

    def _add(self, trial: FrozenTrial) -> None:
        self._ended[trial.number] = trial
        bisect.insort(self._numbers, trial.number)
        if self._size is not None and trial.state is TrialState.COMPLETE:
            bisect.insort(self._best, (self._sign * (trial.value or 0.0), trial.number))
            del self._best[round(_BEST_SHARE * self._size) :]

    def _numbers_to_show(self) -> Sequence[int]:
        if self._size is None or len(self._numbers) <= self._size:
            return self._numbers
        shown = [number for _, number in self._best]
        best = set(shown)
        for number in reversed(self._numbers):
            if len(shown) == self._size:
                break
            if number not in best:
                shown.append(number)
        return shown

    def _paused_to_show(self, paused: Sequence[FrozenTrial]) -> Sequence[FrozenTrial]:
        if self._size is None or len(paused) <= self._size:
            return paused
        kept = {trial.number for trial in heapq.nlargest(round(_BEST_SHARE * self._size), paused, self._progress)}
        newest = [trial for trial in reversed(paused) if trial.number not in kept][: self._size - len(kept)]
        kept |= {trial.number for trial in newest}
        return [trial for trial in paused if trial.number in kept]

    def _progress(self, trial: FrozenTrial) -> tuple[int, float]:
        """Return a sort key of paused trials: epochs, then the newest value."""
        epoch = trial.last_step
        return (-1, 0.0) if epoch is None else (epoch, -self._sign * trial.intermediate_values[epoch])


class LearnableStudy(optuna.Study):
    """Snapshot of a study at the time a trial is proposed.

    Args:
        study: Whole study.
        window: Selection of its trials, kept between proposals.
    """

    def __init__(self, study: optuna.Study, window: TrialWindow) -> None:
        self.__dict__ = {**study.__dict__}  # the same study, its cache of trials included
        self._window = window
        self._shown: list[FrozenTrial] | None = None

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        if self._shown is None:
            self._shown = self._window.update(super()._get_trials(deepcopy=False, use_cache=False))
        found = [trial for trial in self._shown if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found


def _learnable(trial: FrozenTrial) -> FrozenTrial:
    if trial.state is not TrialState.FAIL:
        return trial
    if trial.user_attrs.get(OUTCOME) != DIVERGED and REJECTED not in trial.user_attrs:
        return trial
    poor = _pruned(trial)
    poor.intermediate_values = {}
    return poor


def _pruned(trial: FrozenTrial) -> FrozenTrial:
    pruned = copy.copy(trial)
    pruned.state = TrialState.PRUNED
    return pruned
