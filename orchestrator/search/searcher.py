"""Searcher of Tune that asks the study for configurations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from orchestrator.config.plans import SearchPlan
from orchestrator.config.trial import resolve_trial
from orchestrator.lanes.trial_client import EPOCHS_DONE, TRIAL
from orchestrator.records.ledger import Ledger
from orchestrator.search.allocation.allocator import Propose, Resume
from orchestrator.search.not_pickled import NotPickled
from orchestrator.search.pauses import Pauses, begin_again
from orchestrator.search.proposals.rejections import RejectionStreak, reject
from orchestrator.search.proposals.trial_filter import TrialFilter
from orchestrator.search.samplers.samplers import SweepSampler
from orchestrator.search.schedulers.allocated import Allocation

FINISHED: str = Searcher.FINISHED
MOST_REJECTED = 1000  # in a row


class StudySearcher(NotPickled, Searcher):
    """Source of configurations for Tune; called in the thread "tune".

    Args:
        study: Study of the sweep.
        plan: Search plan of the sweep.
        ledger: Ledger of the sweep.
        has_room: Returns whether another trial would find a lane, given the number of trials that have one.
        say: Called with the state of a long search for a configuration; None for no output.
        allocation: Allocation rule, which decides whether a free lane begins or resumes a trial; None where the trial
            scheduler pauses none.
        pauses: Recorder of pauses; None likewise.
    """

    def __init__(
        self,
        study: optuna.Study,
        plan: SearchPlan,
        ledger: Ledger,
        has_room: Callable[[int], bool] = lambda _running: True,
        *,
        say: Callable[[str], None] | None = None,
        allocation: Allocation | None = None,
        pauses: Pauses | None = None,
    ) -> None:
        super().__init__(metric=plan.objective.metric, mode=plan.objective.mode)
        self._study = study
        self._plan = plan
        self._ledger = ledger
        self._trial_filter = TrialFilter(plan)
        self._has_room = has_room
        self._say = say
        self._allocation = allocation
        self._pauses = pauses
        self._open: set[str] = set()
        self.asked: dict[str, optuna.Trial] = {}  # until they end
        self.closed = False

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # a text ends the search
        """Return the next configuration under the key `trial`, with the number of its epochs already reported.

        Interrupted trials come first, then those that the allocation rule resumes, then new ones. A configuration that
        is not worth a trial is rejected, and the study asked again. Returns None while no lane is free, or the
        allocation rule waits for running trials: Tune calls again.

        Raises:
            SpaceExhaustedError: Nothing but rejected configurations was proposed, many times in a row.
        """
        if self.closed:
            return FINISHED
        if not self._has_room(len(self._open)):
            return None
        if self._allocation is not None:
            return self._suggest_allocated(trial_id, self._allocation)
        return self._suggest_proposed(trial_id)

    def _suggest_allocated(self, trial_id: str, allocation: Allocation) -> dict[str, Any] | str | None:
        """Return what the allocation rule chooses: a trial to resume, or a new one."""
        while (number := allocation.next_interrupted()) is not None:
            if not allocation.is_pausing(number):
                return self._resume(trial_id, number, allocation)
            assert self._pauses is not None, "given with every allocation rule"
            self._pauses.record(number)  # its driver died between its report and its pause
        choice = allocation.next_trial()
        if isinstance(choice, Propose):
            found = self._suggest_proposed(trial_id)
            if found != FINISHED or self.closed:
                return found
            allocation.end_proposals()
            choice = allocation.next_trial()
        if isinstance(choice, Resume):
            return self._resume(trial_id, choice.number, allocation)
        if allocation.is_finished:
            return FINISHED
        if not self._open:
            raise RuntimeError("the trial scheduler waits for running trials where none runs")
        return None

    def _resume(self, trial_id: str, number: int, allocation: Allocation) -> dict[str, Any]:
        """Return a paused or interrupted trial, with the epochs that it has reported."""
        self.asked[trial_id] = begin_again(self._study, number)
        self._open.add(trial_id)
        self._ledger.trial_resumed(number, trial_id)
        record = self._ledger.trial(number)
        allocation.start(number, record.params)
        return {TRIAL: dict(record.config), EPOCHS_DONE: record.epochs}

    def _suggest_proposed(self, trial_id: str) -> dict[str, Any] | str:
        """Return the next configuration of the study; the text that ends the search where there is none."""
        streak = RejectionStreak(self._say)
        for _ in range(MOST_REJECTED):
            if self.closed or self._is_exhausted():  # the sweep may be ended meanwhile
                return FINISHED
            if (found := self._propose(trial_id, streak)) is not None:
                return found
        raise streak.exhausted()

    def _propose(self, trial_id: str, streak: RejectionStreak) -> dict[str, Any] | None:
        """Return one configuration of the study; None where it was rejected, which is noted in the streak."""
        trial = self._study.ask()
        params = self._plan.space.sample(trial)
        config = resolve_trial(self._plan, trial.number, params, self._plan.initial_weights)
        is_new = not self._ledger.has_trial(trial.number)
        if is_new and (rejection := self._trial_filter.rejection(config)) is not None:
            reject(self._study, self._ledger, trial, params, rejection)
            streak.note(rejection)
            return None
        trial.set_user_attr("tune_trial", trial_id)
        self.asked[trial_id] = trial  # before the ledger makes the trial visible to other threads
        self._open.add(trial_id)
        if is_new:
            self._ledger.trial_started(trial.number, trial_id, params, config.model_dump(mode="json"))
        else:
            self._ledger.trial_resumed(trial.number, trial_id)
        record = self._ledger.trial(trial.number)
        if self._allocation is not None:
            self._allocation.start(trial.number, record.params)
        return {TRIAL: dict(record.config), EPOCHS_DONE: record.epochs}

    def _is_exhausted(self) -> bool:
        """Return whether a grid has no point left and no trial waits to resume."""
        sampler = self._study.sampler
        if not isinstance(sampler, SweepSampler) or not sampler.is_exhausted(self._study):
            return False
        return not self._study.get_trials(deepcopy=False, states=[TrialState.WAITING])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Note that a lane is free; `SweepCallback` calls `study.tell`, with the reason."""
        self._open.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the study's database holds the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **_: Any) -> bool:
        """Accept an empty space from Tune only: the study has its own."""
        return not config
