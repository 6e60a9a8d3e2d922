"""How a sweep stands at a moment, as every view of a running sweep shows it: a terminal, a log, a notebook."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.budget import Budget, Usage
from orchestrator.config.schema import SweepConfig
from orchestrator.ledger import Ledger, TrialRecord, TrialStatus
from orchestrator.objectives import Aims
from orchestrator.session import LanePlan
from orchestrator.spending import SoFar

_TOP = 10
_REASONS = 3


@dataclass(frozen=True)
class Ranked:
    """A trial of the leaderboard.

    Args:
        trial: Its number.
        model: Name of its network.
        value: Its best value of the (first) objective.
        epochs: Trained.
        status: How it stands.
        feasible: Whether it keeps the constraints.
        params: Searched values.
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
    """A trial that trains, or waits for a lane.

    Args:
        trial: Its number.
        model: Name of its network.
        epoch: The last one done.
        epochs: At most.
        value: The (first) objective after that epoch; None before.
        held_s: Time it has cost until now.
    """

    trial: int
    model: str
    epoch: int
    epochs: int
    value: float | None
    held_s: float


@dataclass(frozen=True)
class Standing:
    """How a sweep stands.

    Args:
        name: Of the sweep.
        metric: Of the (first) objective.
        wanted: Trials asked for.
        ended: Trials that train no more.
        counts: Trials by status.
        rejected: Configurations that were not worth a trial.
        so_far: What was spent and found.
        left_s: Time to go, as far as trials and budget tell; None when nothing is known yet.
        left_by: The limit that will end the sweep before its trials are used up; empty when none will.
        usage: How much of each limit is used.
        top: The best trials, best first.
        running: Trials that train now.
        failures: First lines of the reasons why trials failed or diverged, and how often; the commonest.
        devices: What the running trials reserve, in words.
        best_model: Network of the trial with the best value; empty before the first.
    """

    name: str
    metric: str
    wanted: int
    ended: int
    counts: Mapping[TrialStatus, int]
    rejected: int
    so_far: SoFar
    left_s: float | None
    left_by: str
    usage: Sequence[Usage]
    top: Sequence[Ranked]
    running: Sequence[Running]
    failures: Sequence[tuple[str, int]]
    devices: str
    best_model: str


class Standings:
    """Looks at a ledger time and again; what will change no more is remembered, so that a look stays quick.

    Args:
        config: Of the sweep.
        ledger: Read, never written.
        plan: Of the lanes.
    """

    def __init__(self, config: SweepConfig, ledger: Ledger, plan: LanePlan) -> None:
        self._config = config
        self._ledger = ledger
        self._plan = plan
        self._aims = Aims.of(config)
        self._budget = Budget(config.budget, config.objective)
        self._over: dict[int, tuple[Any, Ranked] | None] = {}

    def now(self) -> Standing:
        """How the sweep stands."""
        trials, so_far = self._ledger.trials(), self._ledger.so_far()
        counts = Counter(trial.status for trial in trials)
        running = [self._running(trial) for trial in trials if trial.status is TrialStatus.RUNNING]
        ended = len(trials) - len(running)
        left_s, left_by = self._left(trials, running, so_far)
        best = so_far.best_trial
        return Standing(
            name=self._config.name,
            metric=self._config.objective.metric,
            wanted=self._config.trials,
            ended=ended,
            counts=counts,
            rejected=len(self._ledger.rejected()),
            so_far=so_far,
            left_s=left_s,
            left_by=left_by,
            usage=self._budget.usage(so_far),
            top=self._top(trials),
            running=running,
            failures=self._failures(trials),
            devices=self._devices(trials),
            best_model="" if best is None else _model(self._ledger.trial(best)),
        )

    def _top(self, trials: Sequence[TrialRecord]) -> list[Ranked]:
        rows = [row for trial in trials if (row := self._ranked(trial)) is not None]
        return [row for _, row in heapq.nsmallest(_TOP, rows, key=lambda row: row[0])]

    def _ranked(self, trial: TrialRecord) -> tuple[Any, Ranked] | None:
        if trial.number in self._over and trial.is_over:
            return self._over[trial.number]
        value = trial.best(self._config.objective.metric, self._config.objective.mode)
        found = None
        if value is not None:
            feasible = self._aims.is_feasible(trial)
            row = Ranked(trial.number, _model(trial), value, trial.epochs, trial.status, feasible, trial.params)
            found = (self._aims.rank(trial), row)
        if trial.is_over:
            self._over[trial.number] = found
        return found

    def _running(self, trial: TrialRecord) -> Running:
        value = trial.reports[-1].get(self._config.objective.metric, math.nan) if trial.reports else math.nan
        epochs = int(trial.config["training"]["epochs"])
        known = value if math.isfinite(value) else None
        held_s = self._ledger.cost_now(trial.number).held_s
        return Running(trial.number, _model(trial), trial.epochs, epochs, known, held_s)

    def _failures(self, trials: Sequence[TrialRecord]) -> list[tuple[str, int]]:
        bad = (TrialStatus.FAILED, TrialStatus.DIVERGED)
        reasons = [next(iter(trial.reason.splitlines()), str(trial.status)) for trial in trials if trial.status in bad]
        return Counter(reasons).most_common(_REASONS)

    def _devices(self, trials: Sequence[TrialRecord]) -> str:
        workers = sum(
            trial.reports[-1].get("workers", self._plan.workers) if trial.reports else self._plan.workers
            for trial in trials
            if trial.status is TrialStatus.RUNNING
        )
        if not workers:
            return "no devices in use"
        cpus, gpus = workers * self._config.resources.cpus_per_worker, workers * self._plan.gpus_per_worker
        named = [_counted(gpus, "GPU")] if gpus else []
        return " and ".join([*named, _counted(cpus, "CPU")]) + " in use"

    def _left(
        self, trials: Sequence[TrialRecord], running: Sequence[Running], so_far: SoFar
    ) -> tuple[float | None, str]:
        """The time until the trials are used up, or a limit is, whichever comes first."""
        limits = self._budget.left_s(so_far, self._rates())
        by_trials = self._left_of_trials(trials, running)
        if by_trials is not None and all(by_trials <= left for left in limits.values()):
            return by_trials, ""
        name = min(limits, key=lambda name: limits[name], default="")
        return limits.get(name), name

    def _left_of_trials(self, trials: Sequence[TrialRecord], running: Sequence[Running]) -> float | None:
        held = [trial.cost.held_s for trial in trials if trial.is_over and trial.cost.held_s]
        typical = sum(held) / len(held) if held else _projected(running)
        if typical is None:
            return None
        begun = sum(max(0.0, typical - trial.held_s) for trial in running)
        over = sum(trial.is_over for trial in trials)
        waiting = max(0, self._config.trials - over - len(running))
        return (begun + waiting * typical) / max(1, self._plan.lanes, len(running))

    def _rates(self) -> tuple[float, float]:
        """CPUs and GPUs that full lanes reserve."""
        workers = self._plan.lanes * self._plan.workers
        return workers * self._config.resources.cpus_per_worker, workers * self._plan.gpus_per_worker


def _projected(running: Sequence[Running]) -> float | None:
    """How long a trial takes, from those that have not ended; early stopping makes it less."""
    found = [trial.held_s / trial.epoch * trial.epochs for trial in running if trial.epoch]
    return sum(found) / len(found) if found else None


def _counted(amount: float, device: str) -> str:
    return f"{amount:g} {device}{'' if amount == 1 else 's'}"


def _model(trial: TrialRecord) -> str:
    return str(trial.config["model"]["name"])
