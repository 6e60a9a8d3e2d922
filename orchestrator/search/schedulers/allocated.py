"""Trial schedulers whose rule pauses trials and resumes them later, on any lane.

To Tune a pause is the end of a trial: nothing of a paused trial is kept but its checkpoint, so that thousands may be
paused. Its resumption is a new trial of Tune with the same number. The rule itself (`allocation`) is
called in the thread "tune"; a resumed sweep repeats the calls from its journal.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import TrialScheduler

from orchestrator.config.plans import SearchPlan
from orchestrator.config.sections.objective import COSTS
from orchestrator.lanes.tune_keys import ENDED, EPOCH, HELD, REPORTED, TRIAL
from orchestrator.records.events import (
    Event,
    TrialEnded,
    TrialPaused,
    TrialReported,
    TrialResumed,
    TrialStarted,
    TrialSteered,
)
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.records.objectives import Objectives
from orchestrator.runtime.ray_private.tune import TuneController
from orchestrator.search.allocation.allocator import AllocationSetting, Feasibility, Propose, Resume, Scores
from orchestrator.search.allocation.rules import ALLOCATORS
from orchestrator.search.not_pickled import NotPickled
from orchestrator.search.schedulers.early_stopping import OldestFirst


class Allocation:
    """Allocation rule of a sweep, brought up to date with its journal.

    Args:
        plan: Search plan of the sweep, whose trial scheduler is one of `ALLOCATORS`.
        ledger: Ledger of the sweep.
    """

    def __init__(self, plan: SearchPlan, ledger: Ledger) -> None:
        scheduler = plan.trial_scheduler
        self._allocator = ALLOCATORS[scheduler.name](
            AllocationSetting(
                trials=plan.trials,
                max_epochs=plan.max_epochs,
                grace_epochs=scheduler.grace_epochs,
                reduction_factor=scheduler.reduction_factor,
                epochs=plan.budget_epochs,
                seed=plan.seed,
            )
        )
        self._name = scheduler.name
        self._ledger = ledger
        self._objectives = Objectives.of(plan.objectives, plan.constraints)
        self._best: dict[int, tuple[float, Feasibility]] = {}  # first objective and feasibility of the best epoch
        self._epochs: dict[int, int] = {}  # newest reported epoch by trial
        self._held_s: dict[int, float] = {}  # by trial, at its newest report since it was started or resumed
        self._resume_epochs: dict[int, int] = {}  # of paused trials, until their first report after that
        self._paused: set[int] = set()
        self._pausing: set[int] = set()
        self._held: dict[int, int | None] = {}  # paused by the user: epoch to resume from, None while they still train
        self._lock = threading.RLock()  # the user's requests come from another thread
        for event in ledger.events():
            self._repeat(event)
        interrupted = (record.number for record in ledger.open() if record.status is TrialStatus.INTERRUPTED)
        self._interrupted = deque(interrupted)

    def change_bounds(self, *, trials: int, epochs: int | None) -> None:
        """Allow other numbers of trials and epochs from now on."""
        with self._lock:
            self._allocator.setting = replace(self._allocator.setting, trials=trials, epochs=epochs)

    def hold(self, number: int) -> None:
        """Keep a trial that the user pauses out of the rule's hands; to the rule it runs all the time."""
        with self._lock:
            if number in self._paused:
                self._paused.discard(number)
                self._allocator.start(number, self._ledger.trial(number).params)
                self._held[number] = self._epochs[number]
            self._held.setdefault(number, None)

    def let_go(self, number: int) -> None:
        """Give a trial back to the rule, which learns of its pause where it had decided on one itself."""
        with self._lock:
            epoch = self._held.pop(number, None)
            if epoch is not None and number in self._pausing:
                self.pause(number, epoch)
            if (epoch is not None or number in self._paused) and not self._is_repeat(number):
                self._allocator.resume_by_hand(number)

    @property
    def holds_any(self) -> bool:
        """True if the user has paused a trial."""
        return bool(self._held)

    @property
    def is_finished(self) -> bool:
        """True when no trial will be started or resumed any more."""
        return not self._interrupted and self._allocator.is_finished

    @property
    def spent(self) -> str:
        """Text that the epochs of the rule have ended the search before all configurations began; else empty."""
        with self._lock:
            all_begun = self._ledger.count_configurations() >= self._allocator.setting.trials
            return "" if all_begun else self._allocator.spent

    def next_interrupted(self) -> int | None:
        """Return a trial that an earlier session left interrupted, each once; None where none is left."""
        return self._interrupted.popleft() if self._interrupted else None

    def next_trial(self) -> Resume | Propose | None:
        """Return what a free lane trains next; None where it waits for running trials, or nothing is left."""
        with self._lock:
            return self._allocator.next_trial(self._ledger.count_configurations())

    def end_proposals(self) -> None:
        """Note that no further configuration can be proposed."""
        self._allocator.end_proposals(self._ledger.count_configurations())

    def start(self, number: int, params: Mapping[str, Any]) -> None:
        """Note that a trial begins or resumes; an interrupted trial counts as running all the time."""
        if self._is_repeat(number):
            return
        with self._lock:
            self._held_s.pop(number, None)
            if number not in self._epochs or number in self._paused:
                self._epochs.setdefault(number, 0)
                self._paused.discard(number)
                self._allocator.start(number, params)

    def report(self, number: int, epoch: int, metrics: Mapping[str, float], held_s: float | None) -> bool:
        """Note an epoch, and return whether the trial continues; a repeated report gets the same answer.

        A trial with another than the first seed is trained to the end: the rule does not know it.

        Args:
            number: Number of the trial.
            epoch: Epoch, from 1.
            metrics: Values of the epoch, by metric.
            held_s: Seconds the trial has held its lane since it began or resumed; None where unknown.
        """
        if self._is_repeat(number):
            return True
        with self._lock:
            if epoch > self._epochs[number]:
                seconds = 0.0 if held_s is None else max(0.0, held_s - self._held_s.get(number, 0.0))
                before = self._epochs[number]
                trained = epoch - self._resume_epochs.pop(number, before)
                if trained > epoch - before:  # epochs that are repeated after a lost checkpoint are not reported
                    seconds *= (epoch - before) / trained
                self._epochs[number] = epoch
                if held_s is not None:
                    self._held_s[number] = held_s
                self._pausing.discard(number)
                scores = self._scores(metrics)
                feasibility = self._feasibility(number, scores[0], metrics)
                if not self._allocator.report(number, epoch, scores, seconds, feasibility):
                    self._pausing.add(number)
            return number not in self._pausing

    def is_pausing(self, number: int) -> bool:
        """Return whether the rule has decided that a running trial pauses."""
        return number in self._pausing

    def pause(self, number: int, resume_epoch: int) -> None:
        """Note the pause of a trial, or that the checkpoint of a paused one was removed."""
        with self._lock:
            self._resume_epochs[number] = resume_epoch
            if number in self._held:
                self._held[number] = resume_epoch
                return
            self._pausing.discard(number)
            self._paused.add(number)
            self._allocator.pause(number, resume_epoch)

    def end(self, number: int) -> None:
        """Note that a trial has ended for good."""
        if self._is_repeat(number):
            return
        with self._lock:
            self._held.pop(number, None)
            self._pausing.discard(number)
            self._paused.discard(number)
            self._best.pop(number, None)
            self._resume_epochs.pop(number, None)
            self._allocator.end(number)

    def _is_repeat(self, number: int) -> bool:
        return self._ledger.trial(number).is_repeat

    def _repeat(self, event: Event) -> None:
        """Repeat the call that belongs to an event of an earlier session."""
        match event:
            case TrialStarted():
                self.start(event.trial, event.params)
            case TrialResumed():
                self.start(event.trial, self._ledger.trial(event.trial).params)
            case TrialReported():
                self.report(event.trial, event.epoch, event.metrics, event.held_s)
            case TrialPaused():
                self.pause(event.trial, event.epoch)
            case TrialSteered() if event.action == "pause":
                self.hold(event.trial)
            case TrialSteered() if event.action == "resume":
                self.let_go(event.trial)
            case TrialEnded() if event.status is not TrialStatus.INTERRUPTED:
                self.end(event.trial)

    def _scores(self, metrics: Mapping[str, float]) -> Scores:
        """Return the objectives of an epoch, larger is better."""
        configs = self._objectives.configs
        values = [metrics.get(objective.metric, math.nan) for objective in configs]
        signed = [
            value if objective.mode == "max" else -value for value, objective in zip(values, configs, strict=True)
        ]
        return tuple(value if math.isfinite(value) else -math.inf for value in signed)

    def _feasibility(self, number: int, score: float, metrics: Mapping[str, float]) -> Feasibility:
        """Return whether a trial meets the constraints, by its best epoch as in the ranking of a sweep."""
        if number not in self._best or score > self._best[number][0]:
            self._best[number] = score, feasibility_of(metrics, self._objectives)
        return self._best[number][1]


def feasibility_of(metrics: Mapping[str, float], objectives: Objectives) -> Feasibility:
    """Return whether an epoch meets the constraints, and if not, whether that can change.

    Args:
        metrics: Values of the epoch, by metric.
        objectives: Objectives and constraints of the sweep.
    """
    violated = [text for text, violation in objectives.violations_of(metrics).items() if violation > 0]
    if any(objectives.constraints[text].metric in COSTS for text in violated):
        return Feasibility.RULED_OUT
    return Feasibility.INFEASIBLE if violated else Feasibility.FEASIBLE


class Allocated(NotPickled, OldestFirst):
    """Scheduler of Tune that ends trials which the allocation rule pauses.

    Args:
        allocation: Allocation rule of the sweep.
    """

    def __init__(self, allocation: Allocation) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._allocation = allocation

    def on_trial_result(self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]) -> str:
        """Stop a trial that is to pause; `SweepCallback` records the pause."""
        if ENDED in result:
            return TrialScheduler.CONTINUE
        number = int(trial.config[TRIAL]["number"])
        continues = self._allocation.report(number, result[EPOCH], dict(result[REPORTED]), result[HELD])
        return TrialScheduler.CONTINUE if continues else TrialScheduler.STOP
