"""Source of configurations for Tune; this module imports no Ray, since a dry run needs none."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import TrialState

from orchestrator.config.plans import SearchPlan
from orchestrator.config.trial import resolve_trial
from orchestrator.lanes.tune_keys import EPOCHS_DONE, FAILURES, TRIAL
from orchestrator.records.ledger import Ledger, TrialRecord, TrialStatus
from orchestrator.search.allocation.allocator import Propose, Resume
from orchestrator.search.pauses import Pauses, begin_again
from orchestrator.search.proposals.enqueued_trials import enqueue_request, params_by_hand
from orchestrator.search.proposals.rejections import RejectionStreak, reject
from orchestrator.search.proposals.trial_filter import Rejection, TrialFilter
from orchestrator.search.racing import SeedRace, Step, repeat_of, repeated_config
from orchestrator.search.samplers.samplers import SweepSampler, has_tried_all
from orchestrator.search.steering.present_space import (
    PresentSpace,
    known_choices,
    store_choices,
    union_if_changed,
    union_space,
)
from orchestrator.search.write_behind import flush_notes, flush_study
from search_spaces import setting_of

if TYPE_CHECKING:
    from orchestrator.search.schedulers.allocated import Allocation

FINISHED = "FINISHED"  # as Tune has it
MOST_REJECTED = 1000  # in a row


class StudySearcher:
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

    Attributes:
        asked: Trials of the study that Tune has, by Tune's id.
        closed: Whether no more trials are proposed.
        lock: Lock held while a trial is chosen, and by the user's requests in another thread.
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
        self._study = study
        self._plan = plan
        self._ledger = ledger
        self._trial_filter = TrialFilter(plan)
        self._race = SeedRace(study, plan, ledger)
        self._has_room = has_room
        self._say = say
        self._allocation = allocation
        self._pauses = pauses
        self._open: dict[str, bool] = {}  # trials that hold a lane, by Tune's id; whether each has a further seed
        self.asked: dict[str, optuna.Trial] = {}  # until they end
        self.closed = False
        self._wanted: deque[int] = deque()  # paused trials that the user resumes
        self._has_begun = False
        self.lock = threading.RLock()
        if union_if_changed(ledger.searched, plan.space) is not None:
            self._plan = self._with_changed_space(plan, ledger.searched)

    @property
    def sampler(self) -> str:
        """Name of the sampler that proposes, which `auto` may have chosen; empty for one of Optuna's own."""
        sampler = self._study.sampler
        return sampler.name if isinstance(sampler, SweepSampler) else ""

    def change_plan(self, plan: SearchPlan, searched: Mapping[str, Any]) -> None:
        """Propose by another plan from now on; may be called in another thread.

        Args:
            plan: Search plan; its space may have other bounds and choices, or lack names.
            searched: Domains of all searched names there ever were, as plain data.
        """
        with self.lock:
            is_same = plan.space.fingerprint == self._plan.space.fingerprint
            plan = replace(plan, stored_choices=self._plan.stored_choices)
            self._plan = plan if is_same else self._with_changed_space(plan, searched)
            self._trial_filter = TrialFilter(self._plan)
            self._race = SeedRace(self._study, self._plan, self._ledger)
            if self._allocation is not None:
                self._allocation.change_bounds(trials=plan.trials, epochs=plan.budget_epochs)

    def _with_changed_space(self, plan: SearchPlan, searched: Mapping[str, Any]) -> SearchPlan:
        """Let study and sampler take a changed space, and return the plan with the choices as they are stored."""
        choices = known_choices(searched)
        store_choices(self._study, choices)
        if isinstance(self._study.sampler, SweepSampler):
            self._study.sampler.change_space(PresentSpace(plan.space, union_space(searched)))
        return replace(plan, stored_choices=choices)

    def enqueue(self, source: str, settings: Mapping[str, Any], request: str) -> Mapping[str, Any]:
        """Enqueue a configuration given by hand, and record it; may be called in another thread.

        Args:
            source: Name of its source, for messages.
            settings: Values by searched name, or by setting.
            request: Identifier of the request.

        Returns:
            Values that the study has enqueued; the sampler draws the others.

        Raises:
            ConfigError: The present space cannot draw it, or it would be rejected.
        """
        with self.lock:
            params = params_by_hand(self._plan, source, settings)
            self._ledger.trial_enqueued(request, params)
            enqueue_request(self._study, params, request)
            flush_study(self._study)
            return params

    def hold(self, number: int) -> None:
        """Keep a trial that the user pauses from being resumed by anyone else; may be called in another thread."""
        if self._allocation is not None:
            self._allocation.hold(number)

    def resume_next(self, number: int) -> None:
        """Resume a paused trial as soon as a lane is free; may be called in another thread."""
        with self.lock:
            if self._allocation is not None:
                self._allocation.let_go(number)
            self._wanted.append(number)

    def is_running(self, number: int) -> bool:
        """Return whether Tune has a trial."""
        return any(trial.number == number for trial in list(self.asked.values()))

    def steered(self, tune_id: str) -> str:
        """Return whether the user stops or pauses a trial: `stop`, `pause`, or empty."""
        asked = self.asked.get(tune_id)
        return "" if asked is None else self._ledger.trial(asked.number).steered

    @property
    def begun(self) -> int:
        """Number of configurations whose trial has ended for good, is paused, or that Tune has now."""
        with self.lock:
            asked = {trial.number for trial in list(self.asked.values())}  # the callback removes from it meanwhile
            waiting = (record for record in self._ledger.open() if record.number not in asked)
            return self._ledger.count_configurations() - sum(not record.is_repeat for record in waiting)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next configuration under the key `trial`, with the number of its epochs already reported.

        Interrupted trials come first, then those that the allocation rule resumes, then new ones, then further seeds
        of configurations that may be the best. A configuration that is not worth a trial is rejected, and the study
        asked again. Returns None while no lane is free, or while the allocation rule or the race waits for running
        trials: Tune calls again.

        Raises:
            SpaceExhaustedError: Nothing but rejected configurations was proposed, many times in a row.
        """
        if self.closed:
            return FINISHED
        if not self._has_room(len(self._open)):
            return None
        with self.lock:
            if (number := self._next_wanted()) is not None:
                return self._resume(trial_id, number)
        if self._allocation is not None:
            found = self._suggest_allocated(trial_id, self._allocation)
        else:
            found = self._suggest_proposed(trial_id)
        return self._suggest_repeat(trial_id) if found == FINISHED and not self.closed else found

    def _suggest_repeat(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return a configuration that may be the best with another seed; None while the race waits for results."""
        with self.lock:
            found = self._race.next_repeat()
            if isinstance(found, optuna.Trial):
                return self._start(trial_id, found, RejectionStreak(self._say))
            return FINISHED if found is Step.FINISHED else None

    def _next_wanted(self) -> int | None:
        """Return a paused trial that the user resumes; None where there is none."""
        while self._wanted:
            number = self._wanted.popleft()
            if self._ledger.trial(number).status is TrialStatus.PAUSED:
                return number
        return None

    def _end_search(self, trial_id: str) -> dict[str, Any] | str:
        """Return the end of the search; a session that has only trials left that the user paused resumes them.

        In the session in which they were paused they stay paused: the user may want the sweep to end without them.
        """
        with self.lock:
            paused = self._ledger.held()
            if self._has_begun or not paused:
                return FINISHED
            for number in paused:
                self._ledger.trial_steered("", number, "resume")
                self.resume_next(number)
            return self._resume(trial_id, self._wanted.popleft())

    def _suggest_allocated(self, trial_id: str, allocation: Allocation) -> dict[str, Any] | str | None:
        """Return what the allocation rule chooses: a trial to resume, or a new one."""
        while (number := allocation.next_interrupted()) is not None:
            if self._ledger.trial(number).is_over:
                continue  # the user has stopped it
            if not allocation.is_pausing(number):
                return self._resume(trial_id, number)
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
            return self._resume(trial_id, choice.number)
        with self.lock:
            if self._wanted:
                return None  # the user has resumed a trial meanwhile
            runs_any = not all(self._open.values())  # that the rule knows, which are those with the first seed
            if allocation.is_finished or (allocation.holds_any and not runs_any):
                return self._end_search(trial_id)
            if not runs_any:
                raise RuntimeError("the trial scheduler waits for running trials where none runs")
            return None

    def _resume(self, trial_id: str, number: int) -> dict[str, Any]:
        """Return a paused or interrupted trial, with the epochs that it has reported."""
        self._has_begun = True
        self.asked[trial_id] = begin_again(self._study, number)
        record = self._ledger.trial(number)
        self._open[trial_id] = record.is_repeat
        self._ledger.trial_resumed(number, trial_id)
        if self._allocation is not None:
            self._allocation.start(number, record.params)
        return _for_tune(record)

    def _suggest_proposed(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next configuration of the study; the text that ends the search where there is none."""
        streak = RejectionStreak(self._say)
        for _ in range(MOST_REJECTED):
            with self.lock:
                if self.closed or self._is_exhausted():  # the sweep may be ended meanwhile
                    return FINISHED
                if self.begun >= self._plan.trials or not self._race.fix_arm():
                    # More may be wanted while some are running; further seeds do not wait for that.
                    return None if self._open and self._plan.seeds == 1 else self._end_search(trial_id)
                if (found := self._start(trial_id, self._study.ask(), streak)) is not None:
                    return found
        raise streak.exhausted()

    def _start(self, trial_id: str, trial: optuna.Trial, streak: RejectionStreak) -> dict[str, Any] | None:
        """Return the configuration of a trial; None where it was rejected, which is noted in the streak."""
        repeat = repeat_of(trial)
        is_new = not self._ledger.has_trial(trial.number)
        if is_new and repeat is None:
            params = self._plan.space.sample(trial, self._plan.stored_choices)
            config = resolve_trial(self._plan, trial.number, params, self._plan.initial_weights)
            if (rejection := self._outside(params) or self._trial_filter.rejection(config)) is not None:
                reject(self._study, self._ledger, trial, params, rejection)
                streak.note(rejection)
                return None
        elif is_new and repeat is not None:
            first = self._ledger.trial(repeat.configuration)
            params, config = dict(first.params), repeated_config(first, trial.number, repeat.replicate)
        self._has_begun = True
        trial.set_user_attr("tune_trial", trial_id)
        flush_notes(self._study, trial)
        self.asked[trial_id] = trial  # before the ledger makes the trial visible to other threads
        self._open[trial_id] = repeat is not None
        if is_new:
            of = {} if repeat is None else {"repeats": repeat.configuration, "replicate": repeat.replicate}
            self._ledger.trial_started(trial.number, trial_id, params, config.model_dump(mode="json"), **of)
        else:
            self._ledger.trial_resumed(trial.number, trial_id)
        record = self._ledger.trial(trial.number)
        if self._allocation is not None:
            self._allocation.start(trial.number, record.params)
        return _for_tune(record)

    def _outside(self, params: Mapping[str, Any]) -> Rejection | None:
        """Return the rejection of a configuration that was enqueued before the space changed, and is outside now."""
        if not self._plan.stored_choices:
            return None
        strays = (name for name, value in params.items() if not self._plan.space[name].contains(value))
        name = next(strays, None)
        if name is None:
            return None
        return Rejection(setting_of(name), f"got {params[name]!r}; the space no longer holds it")

    def _is_exhausted(self) -> bool:
        """Return whether a grid has no point left and no trial waits to resume."""
        return has_tried_all(self._study) and not self._study.get_trials(deepcopy=False, states=[TrialState.WAITING])

    def release(self, trial_id: str) -> None:
        """Note that a lane is free; `SweepCallback` calls `study.tell`, with the reason."""
        self._open.pop(trial_id, None)


def _for_tune(record: TrialRecord) -> dict[str, Any]:
    """Return Tune's configuration of a trial, as `TrialClient` reads it."""
    return {TRIAL: dict(record.config), EPOCHS_DONE: record.epochs, FAILURES: record.failures}
