"""Event-driven simulation of a sweep on a table of learning curves.

Sampler, study and allocation of epochs are those of a sweep; lanes, training and time are simulated. The same
arguments give the same trace.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from orchestrator.records.status import TrialStatus
from orchestrator.search.allocation.allocator import Allocator, Propose, Resume
from orchestrator.search.samplers.learnable import DIVERGED, OUTCOME, PAUSED_AT
from orchestrator.search.samplers.samplers import SweepSampler
from orchestrator.search.simulation.curves import Curve, CurveTable
from orchestrator.search.simulation.trace import Point, Trace


@dataclass(frozen=True)
class SimulationSetting:
    """Lanes of a simulated sweep, and what ends it.

    Args:
        lanes: Number of trials at the same time.
        start_s: Seconds that a lane takes to begin or to resume a trial.
        checkpoints: Number of paused trials whose checkpoint is kept, the newest ones; None for all.
        epochs: Epochs of all trials after which the sweep ends; None for no limit.
        seconds: Time after which the sweep ends; None for no limit.
        try_first: Configurations that are tried before the sampler proposes any.

    Raises:
        ValueError: There is no lane, or a number is negative.
    """

    lanes: int = 1
    start_s: float = 0.15
    checkpoints: int | None = None
    epochs: int | None = None
    seconds: float | None = None
    try_first: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        if self.lanes < 1:
            raise ValueError(f"lanes: got {self.lanes}; a sweep needs one. Use 1 or more")
        for name in ("start_s", "checkpoints", "epochs", "seconds"):
            given = getattr(self, name)
            if given is not None and given < 0:
                raise ValueError(f"{name}: got {given}; it must not be negative. Use 0 or more")


@dataclass
class _Trial:
    """Simulated trial."""

    asked: optuna.Trial
    params: Mapping[str, Any]
    curve: Curve
    epoch: int = 0  # trained last, or that of the checkpoint
    furthest: int = 0
    best: tuple[float, ...] | None = None

    @property
    def number(self) -> int:
        return self.asked.number


def simulate(
    table: CurveTable, sampler: BaseSampler, allocator: Allocator, setting: SimulationSetting | None = None
) -> Trace:
    """Simulate a sweep, and return its course.

    Args:
        table: Curves of all configurations.
        sampler: Sampler that proposes configurations; a new one for each simulation.
        allocator: Rule that allocates epochs; a new one for each simulation.
        setting: Lanes, and what ends the sweep; None for one lane and no limit.

    Raises:
        ValueError: The table has fewer configurations than the allocator may propose.
    """
    wanted = allocator.setting.trials
    if wanted > table.size:
        raise ValueError(f"trials: got {wanted}; the table has {table.size:g} configurations. Use at most that many")
    return _Simulation(table, sampler, allocator, setting or SimulationSetting()).run()


@dataclass
class _Simulation:
    table: CurveTable
    sampler: BaseSampler
    allocator: Allocator
    setting: SimulationSetting
    now: float = 0.0
    trials: dict[int, _Trial] = field(default_factory=dict)
    paused: dict[int, None] = field(default_factory=dict)  # the one paused longest ago first
    running: list[tuple[float, int, _Trial]] = field(default_factory=list)
    events: int = 0

    def __post_init__(self) -> None:
        self.table.begin()
        self.trace = Trace(self.setting.lanes)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(sampler=self.sampler, directions=["maximize"] * self.table.objectives)
        for values in self.setting.try_first:
            self.study.enqueue_trial(dict(values))

    def run(self) -> Trace:
        """Simulate until the allocator has finished or a limit is reached."""
        self._fill_lanes()
        while self.running and not self._is_over(self.running[0][0]):
            before = self.now
            self.now, _, trial = heapq.heappop(self.running)
            self.trace.idle_s += (self.setting.lanes - len(self.running) - 1) * (self.now - before)
            self._end_epoch(trial)
            self._fill_lanes()
        for number in [*self.paused, *(trial.number for _, _, trial in self.running)]:
            self._tell(self.trials[number], TrialStatus.PRUNED)
        return self.trace

    def _is_over(self, seconds: float) -> bool:
        epochs_left = math.inf if self.setting.epochs is None else self.setting.epochs - self.trace.epochs
        return epochs_left <= 0 or (self.setting.seconds is not None and seconds > self.setting.seconds)

    def _fill_lanes(self) -> None:
        while len(self.running) < self.setting.lanes and not self.allocator.is_finished:
            decision = self._decide()
            if decision is None:
                return
            trial = self._propose() if isinstance(decision, Propose) else self._resume(decision)
            self.allocator.start(trial.number, trial.params)
            self._run_epoch(trial, self.setting.start_s)

    def _decide(self) -> Resume | Propose | None:
        if isinstance(self.sampler, SweepSampler) and self.sampler.is_exhausted(self.study):
            self.allocator.end_proposals(self.trace.proposals)
        began = time.perf_counter()
        decision = self.allocator.next_trial(self.trace.proposals)
        self.trace.decision_s += time.perf_counter() - began
        self.trace.decisions += 1
        return decision

    def _propose(self) -> _Trial:
        began = time.perf_counter()
        asked = self.study.ask()
        params = self.table.draw(asked)
        self.trace.proposal_s += time.perf_counter() - began
        self.trace.proposals += 1
        self.trace.params[asked.number] = params
        trial = self.trials[asked.number] = _Trial(asked, params, self.table.curve(params))
        return trial

    def _resume(self, decision: Resume) -> _Trial:
        trial = self.trials[decision.number]
        del self.paused[trial.number]
        self.trace.resumes += 1
        return trial

    def _run_epoch(self, trial: _Trial, extra_s: float = 0.0) -> None:
        self.events += 1  # of two epochs that end together, the one that began first ends first
        heapq.heappush(self.running, (self.now + extra_s + trial.curve.seconds[trial.epoch], self.events, trial))

    def _end_epoch(self, trial: _Trial) -> None:
        trial.epoch += 1
        scores = tuple(value if math.isfinite(value) else -math.inf for value in trial.curve.scores[trial.epoch - 1])
        repeated, trial.furthest = trial.epoch <= trial.furthest, max(trial.epoch, trial.furthest)
        if trial.best is None or scores[0] > trial.best[0]:
            trial.best = scores
        best = max(self.trace.best, scores[0])
        self.trace.points.append(
            Point(self.now, self.trace.epochs + 1, trial.number, trial.epoch, scores, best, repeated)
        )
        if math.isfinite(scores[0]) and len(scores) == 1:
            self.study._storage.set_trial_intermediate_value(trial.asked._trial_id, trial.epoch, scores[0])
        continues = repeated or self._report(trial, scores)  # a sweep reports the epochs that are new
        if trial.epoch == len(trial.curve.scores):
            self._end(trial, cut=trial.curve.is_cut and continues)
        elif continues:
            self.trace.continuations += not repeated
            self._run_epoch(trial)
        else:
            self._pause(trial)

    def _report(self, trial: _Trial, scores: tuple[float, ...]) -> bool:
        began = time.perf_counter()
        continues = self.allocator.report(trial.number, trial.epoch, scores, trial.curve.seconds[trial.epoch - 1])
        self.trace.decision_s += time.perf_counter() - began
        self.trace.decisions += 1
        return continues

    def _pause(self, trial: _Trial) -> None:
        self.paused[trial.number] = None
        self.study._storage.set_trial_user_attr(trial.asked._trial_id, PAUSED_AT, trial.epoch)
        self.allocator.pause(trial.number, trial.epoch)
        kept = self.setting.checkpoints
        held = [number for number in self.paused if self.trials[number].epoch] if kept is not None else []
        for number in held[: len(held) - (kept or 0)]:
            self.trials[number].epoch = 0
            self.allocator.pause(number, 0)

    def _end(self, trial: _Trial, *, cut: bool) -> None:
        self.allocator.end(trial.number)
        if trial.epoch == self.table.max_epochs or trial.curve.is_complete:
            status = TrialStatus.FINISHED
        elif trial.curve.is_cut:
            status = TrialStatus.PRUNED
        else:
            status = TrialStatus.DIVERGED
        self.trace.continuations += cut
        if cut:
            self.trace.cut.add(trial.number)
        self._tell(trial, status)

    def _tell(self, trial: _Trial, status: TrialStatus) -> None:
        """End a trial in the study as a sweep does."""
        self.trace.statuses[trial.number] = status
        state, values = TrialState.PRUNED, None
        if status is TrialStatus.DIVERGED:
            trial.asked.set_user_attr(OUTCOME, DIVERGED)
            state = TrialState.FAIL
        elif status is TrialStatus.FINISHED:
            finite = trial.best is not None and all(map(math.isfinite, trial.best))
            state, values = (TrialState.COMPLETE, trial.best) if finite else (TrialState.FAIL, None)
        self.study.tell(trial.number, values=values, state=state)
