"""What Tune asks for configurations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from orchestrator.config.plans import SearchPlan
from orchestrator.config.sweep import resolve_trial
from orchestrator.lanes.trial_client import EPOCHS_DONE, TRIAL
from orchestrator.records.ledger import Ledger
from orchestrator.search.not_pickled import NotPickled
from orchestrator.search.rejections import RejectedRow, reject
from orchestrator.search.samplers.samplers import SweepSampler
from orchestrator.search.trial_filter import TrialFilter

FINISHED: str = Searcher.FINISHED
MOST_REJECTED = 1000  # in a row


class StudySearcher(NotPickled, Searcher):
    """Asks the study for configurations on Tune's behalf.

    Args:
        study: Of this sweep.
        plan: Search plan of the sweep.
        ledger: Told of every trial.
        has_room: Whether a trial would find a lane beside so many that have one.
        say: Told how a long search for a configuration stands; None tells nobody.
    """

    def __init__(
        self,
        study: optuna.Study,
        plan: SearchPlan,
        ledger: Ledger,
        has_room: Callable[[int], bool] = lambda _running: True,
        *,
        say: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(metric=plan.objective.metric, mode=plan.objective.mode)
        self._study = study
        self._plan = plan
        self._ledger = ledger
        self._trial_filter = TrialFilter(plan)
        self._has_room = has_room
        self._say = say
        self._open: set[str] = set()
        self.asked: dict[str, optuna.Trial] = {}  # until they end
        self.closed = False

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # Tune's word for the end
        """The next configuration, whole, under the key `trial`, and how many of its epochs are reported already.

        A study hands out what was interrupted before it proposes anything new. What is not worth a trial is rejected,
        and the study asked again. None while no lane is free: Tune asks again.

        Raises:
            SpaceExhaustedError: Nothing but rejected configurations was proposed, many times in a row.
        """
        if self.closed:
            return FINISHED
        if not self._has_room(len(self._open)):
            return None
        row = RejectedRow(self._say)
        for _ in range(MOST_REJECTED):
            if self.closed or self._is_exhausted():  # the sweep may be ended meanwhile
                return FINISHED
            if (found := self._propose(trial_id, row)) is not None:
                return found
        raise row.exhausted()

    def _propose(self, trial_id: str, row: RejectedRow) -> dict[str, Any] | None:
        """One configuration of the study's; None when it was rejected, which is noted in the row."""
        trial = self._study.ask()
        params = self._plan.space.sample(trial)
        config = resolve_trial(self._plan, trial.number, params)
        is_new = not self._ledger.has_trial(trial.number)
        if is_new and (rejection := self._trial_filter.rejection(config)) is not None:
            reject(self._study, self._ledger, trial, params, rejection)
            row.note(rejection)
            return None
        trial.set_user_attr("tune_trial", trial_id)
        self.asked[trial_id] = trial  # before the ledger tells others of the trial
        self._open.add(trial_id)
        if is_new:
            self._ledger.trial_started(trial.number, trial_id, params, config.model_dump(mode="json"))
        else:
            self._ledger.trial_resumed(trial.number, trial_id)
        record = self._ledger.trial(trial.number)
        return {TRIAL: dict(record.config), EPOCHS_DONE: record.epochs}

    def _is_exhausted(self) -> bool:
        """Whether a grid has no point left, and no trial waits to go on."""
        sampler = self._study.sampler
        if not isinstance(sampler, SweepSampler) or not sampler.is_exhausted(self._study):
            return False
        return not self._study.get_trials(deepcopy=False, states=[TrialState.WAITING])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Its lane is free. `SweepCallback` tells the study, knowing the reason."""
        self._open.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the truth is in the study's database."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **_: Any) -> bool:
        """Accepts Tune's wish when it is empty: the space is ours."""
        return not config
