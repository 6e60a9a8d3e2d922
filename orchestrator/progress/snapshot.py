"""Snapshot of a running sweep, which every view of it shows: a terminal, a log, a notebook."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.progress.progress_records import current
from orchestrator.records.budget import Budget, LimitUsage
from orchestrator.records.costs import SweepTotals
from orchestrator.records.folder.live_progress import EpochProgress
from orchestrator.records.ledger import Ledger, TrialRecord, TrialStatus
from orchestrator.records.objectives import Objectives
from orchestrator.runtime.lane_plan import LanePlan

_TOP = 10
_REASONS = 3


@dataclass(frozen=True)
class Ranked:
    """Trial of the leaderboard.

    Args:
        trial: Number of the trial.
        model: Name of its network.
        value: Best value of the first objective.
        epochs: Number of trained epochs.
        status: Status of the trial.
        feasible: Whether it meets the constraints.
        params: Values by searched name.
    """

    trial: int
    model: str
    value: float
    epochs: int
    status: TrialStatus
    feasible: bool
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Running:
    """Trial that trains, or waits for a lane.

    Args:
        trial: Number of the trial.
        model: Name of its network.
        epoch: Last complete epoch.
        epochs: Largest number of epochs.
        value: First objective after that epoch; None before the first.
        held_s: Time in seconds that it has held a lane.
        within: Progress of the epoch that trains; None where it is not known, as in a short epoch.
        left_s: Expected seconds until its last epoch ends; None where `within` is.
    """

    trial: int
    model: str
    epoch: int
    epochs: int
    value: float | None
    held_s: float
    within: EpochProgress | None = None
    left_s: float | None = None


@dataclass(frozen=True)
class Snapshot:
    """State of a sweep.

    Args:
        name: Name of the sweep.
        metric: Metric of the first objective.
        wanted: Number of trials of the sweep.
        ended: Number of trials that will train no more.
        counts: Number of trials by status.
        rejected: Number of rejected configurations.
        totals: What was spent and found.
        left_s: Estimated time left in seconds; None while nothing is known.
        left_by: Limit that will end the sweep before its trials are used up; empty where none will.
        usage: How much of each limit is used.
        top: Best trials, best first.
        running: Trials that train now.
        failures: First lines of the commonest reasons why trials failed or diverged, with their numbers.
        devices: Devices that the running trials reserve, in words.
        best_model: Network of the trial with the best value; empty before the first.
        unfinished: Numbers of the trials that are running, interrupted or paused by the user.
    """

    name: str
    metric: str
    wanted: int
    ended: int
    counts: Mapping[TrialStatus, int]
    rejected: int
    totals: SweepTotals
    left_s: float | None
    left_by: str
    usage: Sequence[LimitUsage]
    top: Sequence[Ranked]
    running: Sequence[Running]
    failures: Sequence[tuple[str, int]]
    devices: str
    best_model: str
    unfinished: Sequence[int] = ()


@dataclass
class _EndedTrials:
    """Totals of the ended trials; each is read once, so that the time of a snapshot does not grow with them.

    A trial that has paused is read after each pause, and counted once it has ended.

    Args:
        counts: Number of ended trials by status.
        pauses: Number of pauses read.
        reasons: First lines of the reasons why trials failed or diverged.
        held_s: Time in seconds that the timed trials held their lanes.
        timed: Time of each timed trial, by number.
        top: Best trials, with their ranks.
        repeats: Number of trials that trained a configuration with another than the first seed.
    """

    counts: Counter[TrialStatus] = field(default_factory=Counter)
    pauses: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    held_s: float = 0.0
    timed: dict[int, float] = field(default_factory=dict)
    top: list[tuple[Any, Ranked]] = field(default_factory=list)
    repeats: int = 0

    def add(self, trial: TrialRecord, ranked: tuple[Any, Ranked] | None) -> None:
        """Count an ended trial, and note its time and rank.

        Args:
            trial: Ended trial.
            ranked: Its rank and row of the leaderboard; None for a trial without a value.
        """
        self.counts[trial.status] += 1
        self.repeats += trial.is_repeat
        if trial.status in (TrialStatus.FAILED, TrialStatus.DIVERGED):
            self.reasons[next(iter(trial.reason.splitlines()), str(trial.status))] += 1
        self._note(trial, ranked)

    def add_pause(self, trial: TrialRecord, ranked: tuple[Any, Ranked] | None) -> None:
        """Note time and rank of a trial that has paused.

        Args:
            trial: Trial that has paused.
            ranked: Its rank and row of the leaderboard; None for a trial without a value.
        """
        self.pauses += 1
        self._note(trial, ranked)

    def _note(self, trial: TrialRecord, ranked: tuple[Any, Ranked] | None) -> None:
        if trial.cost.held_s:
            self.held_s += trial.cost.held_s - self.timed.get(trial.number, 0.0)
            self.timed[trial.number] = trial.cost.held_s
        if ranked is not None:
            self.top = _best([*self.top, ranked])


class Snapshots:
    """Source of snapshots of one sweep; each call of `now` reads only what the ledger recorded since the last one.

    Args:
        ledger: Ledger of the sweep; read, never written.
        plan: Lanes and workers.
        name: Name of the sweep.
        trials: Number of trials of the sweep.
        objectives: Objectives and constraints of the sweep.
        budget: Limits of the sweep.
        cpus_per_worker: CPU cores reserved for each worker.
        progress: Returns the newest progress within epochs, by trial.
    """

    def __init__(
        self,
        ledger: Ledger,
        plan: LanePlan,
        *,
        name: str,
        trials: int,
        objectives: Objectives,
        budget: Budget,
        cpus_per_worker: float,
        progress: Callable[[], Mapping[int, EpochProgress]] = dict,
    ) -> None:
        self._ledger = ledger
        self._plan = plan
        self._name = name
        self._trials = trials
        self._objectives = objectives
        self._objective = objectives.configs[0]
        self._budget = budget
        self._cpus_per_worker = cpus_per_worker
        self._progress = progress
        self._ended = _EndedTrials()

    def change_trials(self, trials: int) -> None:
        """Show another number of trials from now on."""
        self._trials = trials

    def now(self) -> Snapshot:
        """Return the present state of the sweep."""
        for trial in self._ledger.ended_since(self._ended.counts.total()):
            self._ended.add(trial, self._ranked(trial))
        for trial in self._ledger.paused_since(self._ended.pauses):
            self._ended.add_pause(trial, self._ranked(trial))
        trials, totals = self._ledger.open(), self._ledger.totals()
        paused = Counter({TrialStatus.PAUSED: self._ledger.count_paused()})
        counts = self._ended.counts + Counter(trial.status for trial in trials) + paused
        running = [self._running(trial) for trial in trials if trial.status is TrialStatus.RUNNING]
        left_s, left_by = self._left(running, totals)
        best = totals.best_trial
        ranked = [row for trial in trials if (row := self._ranked(trial)) is not None]
        return Snapshot(
            name=self._name,
            metric=self._objective.metric,
            wanted=self._trials,
            ended=counts.total() - len(running) - counts[TrialStatus.INTERRUPTED] - self._ended.repeats,
            counts=counts,
            rejected=len(self._ledger.rejected()),
            totals=totals,
            left_s=left_s,
            left_by=left_by,
            usage=self._budget.usage(totals),
            top=[row for _, row in _best([*self._ended.top, *ranked])],
            running=running,
            failures=self._ended.reasons.most_common(_REASONS),
            devices=self._devices(trials),
            best_model="" if best is None else _model(self._ledger.trial(best)),
            unfinished=[trial.number for trial in trials] + self._ledger.held(),
        )

    def _ranked(self, trial: TrialRecord) -> tuple[Any, Ranked] | None:
        value = trial.best(self._objective.metric, self._objective.mode)
        if value is None or trial.is_repeat:
            return None
        feasible = self._objectives.is_feasible(trial)
        row = Ranked(trial.number, _model(trial), value, trial.epochs, trial.status, feasible, trial.params)
        return self._objectives.rank(trial), row

    def _running(self, trial: TrialRecord) -> Running:
        value = trial.reports[-1].get(self._objective.metric, math.nan) if trial.reports else math.nan
        epochs = int(trial.config["training"]["epochs"])
        known = value if math.isfinite(value) else None
        held_s = self._ledger.cost_now(trial.number).held_s
        within = current(trial, self._progress())
        epoch_s = trial.reports[-1].get("epoch_time_s") if trial.reports else None
        left_s = None if within is None else within.trial_left_s(epochs, epoch_s)
        return Running(trial.number, _model(trial), trial.epochs, epochs, known, held_s, within, left_s)

    def _devices(self, trials: Sequence[TrialRecord]) -> str:
        workers = sum(
            trial.reports[-1].get("workers", self._plan.workers) if trial.reports else self._plan.workers
            for trial in trials
            if trial.status is TrialStatus.RUNNING
        )
        if not workers:
            return "no devices in use"
        cpus, gpus = workers * self._cpus_per_worker, workers * self._plan.gpus_per_worker
        named = [_counted(gpus, "GPU")] if gpus else []
        return " and ".join([*named, _counted(cpus, "CPU")]) + " in use"

    def _left(self, running: Sequence[Running], totals: SweepTotals) -> tuple[float | None, str]:
        """Return the time until the trials are used up or a limit is reached, whichever is first, and that limit."""
        limits = self._budget.left_s(totals, self._rates())
        by_trials = self._left_of_trials(running)
        if by_trials is not None and all(by_trials <= left for left in limits.values()):
            return by_trials, ""
        name = min(limits, key=lambda name: limits[name], default="")
        return limits.get(name), name

    def _left_of_trials(self, running: Sequence[Running]) -> float | None:
        typical = self._ended.held_s / len(self._ended.timed) if self._ended.timed else _projected(running)
        if typical is None:
            return None
        begun = sum(max(0.0, typical - trial.held_s) for trial in running)
        firsts = self._ended.counts.total() - self._ended.repeats
        waiting = max(0, self._trials - firsts - self._ledger.count_paused() - len(running))
        return (begun + waiting * typical) / max(1, self._plan.lanes, len(running))

    def _rates(self) -> tuple[float, float]:
        """Return the CPUs and GPUs that full lanes reserve."""
        workers = self._plan.lanes * self._plan.workers
        return workers * self._cpus_per_worker, workers * self._plan.gpus_per_worker


def _best(rows: Iterable[tuple[Any, Ranked]]) -> list[tuple[Any, Ranked]]:
    """Return the best rows; of several rows of a trial that has paused, the last counts."""
    newest = {ranked.trial: (rank, ranked) for rank, ranked in rows}
    return heapq.nsmallest(_TOP, newest.values(), key=lambda row: row[0])


def _projected(running: Sequence[Running]) -> float | None:
    """Return the projected time of a trial, from those that have not ended; early stopping makes it less."""
    found = [
        trial.held_s + trial.left_s if trial.left_s is not None else trial.held_s / trial.epoch * trial.epochs
        for trial in running
        if trial.epoch or trial.left_s is not None
    ]
    return sum(found) / len(found) if found else None


def _counted(amount: float, device: str) -> str:
    return f"{amount:g} {device}{'' if amount == 1 else 's'}"


def _model(trial: TrialRecord) -> str:
    return str(trial.config["model"]["name"])
