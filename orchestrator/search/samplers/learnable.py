"""View of a study that samplers receive."""

from __future__ import annotations

import bisect
import copy
import math
from collections.abc import Callable, Container, Iterable, Sequence

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

OUTCOME = "outcome"
DIVERGED = "diverged"
REJECTED = "rejected"
"""User attribute of a rejected trial: the reason."""
REPEATS = "repeats"
"""User attribute of a trial that trains a configuration with another seed: the number of the trial with the first."""
REPLICATE = "replicate"
"""User attribute of such a trial: the index of its seed, from 1."""
PAUSED_AT = "paused_at"
"""User attribute of a trial that has paused, which may run again since: its epoch at its newest pause."""
EPOCH_PREFIX = "epoch "
"""Beginning of the user attributes with the values of an epoch, where there are several objectives."""
_BEST_SHARE = 0.2
_COMPARED = 24
"""Number of trials whose scores are compared at the same epoch, at least, for samplers of complete trials."""
_SHOWN = 60
"""Largest number of their trials, unless they wait for half as many; a Gaussian process takes the cube of it."""


class TrialWindow:
    """Selection of a study's trials for its sampler, updated from one proposal to the next.

    A trial that diverged or was rejected is shown as a pruned one without values: Optuna's samplers ignore failed
    trials, and would keep proposing what diverges. A trial that has paused is shown as a pruned one with the values it
    has reported, also while it runs again: as a running one it would count as poor. A configuration with several seeds
    is shown once, with the result of the first seed. With a size, the best and the newest trials are shown. Each ended
    trial is read once, so that the time of a proposal does not grow with the number of trials; a paused one is read
    again when it has changed.

    Args:
        size: Largest number of ended trials to show; None shows all.
        directions: Directions of the objectives; with several objectives all trials are shown.
        seen: Returns a trial as the sampler sees it, None for one that it does not see.
        completes_paused: Whether a paused trial of several objectives is shown as a complete one with its newest
            values: Optuna has no intermediate values of several objectives.
    """

    def __init__(
        self,
        size: int | None,
        directions: Sequence[StudyDirection],
        seen: Callable[[FrozenTrial], FrozenTrial | None] = lambda trial: trial,
        *,
        completes_paused: bool = False,
    ) -> None:
        self._as_seen = seen
        self._size = size if len(directions) == 1 else None
        self._completes_paused = completes_paused and len(directions) > 1
        self._objectives = len(directions)
        self._sign = -1.0 if directions[0] is StudyDirection.MAXIMIZE else 1.0
        self._seen = 0
        self._open: list[int] = []
        self._paused: dict[int, FrozenTrial] = {}  # as they were when they were last read
        self._ended: dict[int, FrozenTrial] = {}
        self._numbers: list[int] = []  # of the ended ones, ascending
        self._best: list[tuple[float, int]] = []  # smallest first

    def update(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Return the trials to show, by number.

        Args:
            trials: All trials of the study, in the order of their numbers.
        """
        resumed = [number for number, known in self._paused.items() if trials[number] is not known]
        candidates = [*resumed, *self._open, *range(self._seen, len(trials))]
        self._seen, self._open = len(trials), []
        for number in candidates:
            if REPEATS in trials[number].user_attrs:
                continue
            self._paused.pop(number, None)
            if trials[number].state.is_finished():
                self._add(_learnable(trials[number]))
            elif PAUSED_AT in trials[number].user_attrs:
                self._paused[number] = trials[number]
                self._add(self._shown_paused(trials[number]))
            else:
                self._open.append(number)
        shown = {number: self._ended[number] for number in self._numbers_to_show()}
        shown |= {number: trial for number in self._open if (trial := self._as_seen(trials[number])) is not None}
        return [shown[number] for number in sorted(shown)]

    def _shown_paused(self, trial: FrozenTrial) -> FrozenTrial:
        shown = _as_pruned(trial)
        epochs = sorted(name for name in trial.user_attrs if name.startswith(EPOCH_PREFIX))
        values = list(trial.user_attrs[epochs[-1]].values()) if epochs else []
        if self._completes_paused and len(values) == self._objectives:
            shown.state, shown.values = TrialState.COMPLETE, values
        return shown

    def _add(self, ended: FrozenTrial) -> None:
        trial = self._as_seen(ended)
        if trial is None:
            return
        if trial.number not in self._ended:
            bisect.insort(self._numbers, trial.number)
        self._ended[trial.number] = trial
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


class LearnableStudy(optuna.Study):
    """Snapshot of a study at the time a trial is proposed.

    Args:
        study: Whole study.
        window: Selection of its trials, kept between proposals.
        completes: True to show trials that ended early as complete ones, for samplers that learn from these only.
        least: Number of complete trials that such a sampler waits for; it is shown as many, once they have ended.
    """

    def __init__(self, study: optuna.Study, window: TrialWindow, *, completes: bool = False, least: int = 1) -> None:
        self.__dict__ = {**study.__dict__}  # the same study, its cache of trials included
        self._window = window
        self._completes = completes and len(study.directions) == 1
        self._least = least
        self._shown: list[FrozenTrial] | None = None

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        if self._shown is None:
            shown = self._window.update(super()._get_trials(deepcopy=False, use_cache=False))
            self._shown = _completed(shown, self.direction, self._least) if self._completes else shown
        found = [trial for trial in self._shown if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found


def _learnable(trial: FrozenTrial) -> FrozenTrial:
    if trial.state is not TrialState.FAIL:
        return trial
    if trial.user_attrs.get(OUTCOME) != DIVERGED and REJECTED not in trial.user_attrs:
        return trial
    poor = _as_pruned(trial)
    poor.intermediate_values = {}
    return poor


def _as_pruned(trial: FrozenTrial) -> FrozenTrial:
    pruned = copy.copy(trial)
    pruned.state = TrialState.PRUNED
    return pruned


def _completed(trials: Sequence[FrozenTrial], direction: StudyDirection, least: int) -> list[FrozenTrial]:
    """Return the trials that a sampler of complete trials learns from, those that ended early as complete ones.

    Scores after different numbers of epochs cannot be compared. Shown are the trials that have reached the largest
    epoch that enough of them have reached, with their best score up to it, the best and the newest of many; and trials
    without a score, with the worst of these. Trials under constraints are returned unchanged: a pruned one need not
    have all its constraints.
    """
    if any(trial.constraints for trial in trials):
        return list(trials)
    compared, half = max(_COMPARED, least), max(_SHOWN // 2, least)
    best, worst = (max, min) if direction is StudyDirection.MAXIMIZE else (min, max)
    ended = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    reached = sorted((_last_epoch(trial) for trial in ended if _has_score(trial)), reverse=True)
    level = reached[min(compared, len(reached)) - 1] if reached else math.inf
    values = {trial.number: _score_at(trial, level, best) for trial in ended if _last_epoch(trial) >= level}
    if not values:
        return list(trials)
    order = sorted(values, key=lambda number: values[number], reverse=best is max)
    scored = {*order[:half], *sorted(values)[-half:]}
    scoreless = [trial.number for trial in ended if not _has_score(trial)][-_SHOWN // 4 :]
    poor = worst(values.values())
    shown = {number: values.get(number, poor) for number in (*scored, *scoreless)}
    return [
        _as_complete(trial, shown[trial.number]) if trial.number in shown else trial
        for trial in trials
        if trial.number in shown or not trial.state.is_finished()
    ]


def _has_score(trial: FrozenTrial) -> bool:
    return bool(trial.intermediate_values) or trial.state is TrialState.COMPLETE


def _last_epoch(trial: FrozenTrial) -> float:
    """Return the last epoch of a trial; infinite for a complete one, which may have reported none."""
    return math.inf if trial.state is TrialState.COMPLETE else max(trial.intermediate_values, default=0)


def _score_at(trial: FrozenTrial, level: float, best: Callable[[Iterable[float]], float]) -> float:
    values = [value for epoch, value in trial.intermediate_values.items() if epoch <= level]
    return best(values) if values else float(trial.value or 0.0)


def _as_complete(trial: FrozenTrial, value: float) -> FrozenTrial:
    complete = copy.copy(trial)
    complete.state, complete.value = TrialState.COMPLETE, value
    return complete
