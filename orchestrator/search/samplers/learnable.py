"""View of a study that samplers receive."""

from __future__ import annotations

import bisect
import copy
from collections.abc import Callable, Container, Sequence

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

OUTCOME = "outcome"
DIVERGED = "diverged"
REJECTED = "rejected"
"""User attribute of a rejected trial: the reason."""
_BEST_SHARE = 0.2


class TrialWindow:
    """Selection of a study's trials for its sampler, updated from one proposal to the next.

    A trial that diverged or was rejected is shown as a pruned one without values: Optuna's samplers ignore failed
    trials, and would keep proposing what diverges. With a size, the best and the newest trials are shown. Each ended
    trial is read once, so that the time of a proposal does not grow with the number of trials.

    Args:
        size: Largest number of ended trials to show; None shows all.
        directions: Directions of the objectives; with several objectives all trials are shown.
        seen: Returns a trial as the sampler sees it, None for one that it does not see.
    """

    def __init__(
        self,
        size: int | None,
        directions: Sequence[StudyDirection],
        seen: Callable[[FrozenTrial], FrozenTrial | None] = lambda trial: trial,
    ) -> None:
        self._as_seen = seen
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
                if (ended := self._as_seen(_learnable(trials[number]))) is not None:
                    self._add(ended)
            else:
                self._open.append(number)
        shown = {number: self._ended[number] for number in self._numbers_to_show()}
        shown |= {number: trial for number in self._open if (trial := self._as_seen(trials[number])) is not None}
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
    poor = copy.copy(trial)
    poor.state, poor.intermediate_values = TrialState.PRUNED, {}
    return poor
