"""What samplers are shown of a study."""

from __future__ import annotations

import copy
from collections.abc import Container, Sequence

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

OUTCOME = "outcome"
DIVERGED = "diverged"
REJECTED = "rejected"
"""User attribute of a trial that was rejected before it cost anything: the reason."""
_BEST_SHARE = 0.2


class LearnableStudy(optuna.Study):
    """A study as it stood when a trial was proposed, read once.

    A trial that diverged or was rejected shows as a pruned one, and a poor one at that: Optuna's samplers pass over
    failed trials, and would propose again and again what diverges. Where there is a memory, it holds the best trials
    and the newest, so that a proposal takes as long after thousands of trials as after hundreds.

    Args:
        study: The whole one.
        memory: Trials to show at most, running ones not counted; None shows all, as do several objectives.
    """

    def __init__(self, study: optuna.Study, memory: int | None) -> None:
        self.__dict__ = {**study.__dict__}  # the same study, its cache of trials included
        self._memory = memory if len(study.directions) == 1 else None
        self._shown: list[FrozenTrial] | None = None

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        if self._shown is None:
            trials = [_learnable(trial) for trial in super()._get_trials(deepcopy=False, use_cache=False)]
            self._shown = _remembered(trials, self._memory, self.directions[0])
        found = [trial for trial in self._shown if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found


def _learnable(trial: FrozenTrial) -> FrozenTrial:
    is_poor = trial.user_attrs.get(OUTCOME) == DIVERGED or REJECTED in trial.user_attrs
    if trial.state is not TrialState.FAIL or not is_poor:
        return trial
    poor = copy.copy(trial)
    poor.state, poor.intermediate_values = TrialState.PRUNED, {}
    return poor


def _remembered(trials: Sequence[FrozenTrial], memory: int | None, direction: StudyDirection) -> list[FrozenTrial]:
    """The best and the newest of those that are over, and all others, by number."""
    over = [trial for trial in trials if trial.state.is_finished()]
    if memory is None or len(over) <= memory:
        return list(trials)
    scored = [trial for trial in over if trial.state is TrialState.COMPLETE]
    scored.sort(key=lambda trial: trial.value or 0.0, reverse=direction is StudyDirection.MAXIMIZE)
    kept = {trial.number for trial in scored[: round(_BEST_SHARE * memory)]}
    others = [trial.number for trial in over if trial.number not in kept]
    kept.update(others[len(kept) - memory :])
    return [trial for trial in trials if not trial.state.is_finished() or trial.number in kept]
