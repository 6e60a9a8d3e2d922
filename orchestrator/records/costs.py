"""Time, devices and best value of a sweep so far, computed from the events of its journal.

A trial costs the devices it reserves for as long as it holds a lane; at first it waits for one, and after its loss for
another. In older journals, which do not record this, it holds one from its start. The times of all sessions of a sweep
add up; a session whose driver died ends with the last event that it wrote.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.config.sections.objective import Constraint, parse_constraint
from orchestrator.records.events import (
    Event,
    LanesPlanned,
    SweepEnded,
    SweepResumed,
    SweepStarted,
    TrialEnded,
    TrialLaneChanged,
    TrialPaused,
    TrialReported,
    TrialResumed,
    TrialStarted,
)
from orchestrator.records.status import TrialStatus

_HOUR_S = 3_600.0
_WORKERS = "workers"  # metric of an epoch: an elastic trial has at times fewer than planned


@dataclass(frozen=True)
class Cost:
    """Devices times seconds.

    Args:
        held_s: Seconds a trial held its lane, or sum over all trials.
        cpu_s: CPU-seconds reserved.
        gpu_s: GPU-seconds reserved.
        price: Price in the currency of `budget.price_per_*_hour`; None when no price is set.
    """

    held_s: float = 0.0
    cpu_s: float = 0.0
    gpu_s: float = 0.0
    price: float | None = None

    def __add__(self, other: Cost) -> Cost:
        price = None if self.price is None and other.price is None else (self.price or 0.0) + (other.price or 0.0)
        return Cost(self.held_s + other.held_s, self.cpu_s + other.cpu_s, self.gpu_s + other.gpu_s, price)

    def as_dict(self) -> dict[str, float]:
        """Return the figures that are known, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


NO_COST = Cost()


@dataclass(frozen=True)
class Rates:
    """Devices of a trial while it holds its lane, and their prices.

    Args:
        cpus: CPUs reserved.
        gpus: GPUs reserved.
        per_cpu_hour: Price of a CPU-hour; None when none is set.
        per_gpu_hour: Price of a GPU-hour; None when none is set.
    """

    cpus: float = 0.0
    gpus: float = 0.0
    per_cpu_hour: float | None = None
    per_gpu_hour: float | None = None

    def scaled(self, share: float) -> Rates:
        """Return the rates of a trial that reserves only this share of the devices."""
        return Rates(self.cpus * share, self.gpus * share, self.per_cpu_hour, self.per_gpu_hour)

    def cost(self, seconds: float) -> Cost:
        """Return the cost of holding the lane for so many seconds."""
        price = None
        if self.per_cpu_hour is not None or self.per_gpu_hour is not None:
            per_hour = self.cpus * (self.per_cpu_hour or 0.0) + self.gpus * (self.per_gpu_hour or 0.0)
            price = per_hour * seconds / _HOUR_S
        return Cost(seconds, self.cpus * seconds, self.gpus * seconds, price)


@dataclass(frozen=True)
class SweepTotals:
    """Totals of a sweep that its budget limits.

    Args:
        wall_s: Seconds its drivers ran.
        cost: Cost of all trials, including running ones.
        best: Best value of the first objective in an epoch within the constraints; None before the first one.
        best_trial: Number of the trial that reported it.
        trials_since_best: Trials that have ended, or paused for the first time, since then without a new best.
        epochs: Epochs that all trials have trained; those that a trial repeats are not counted again.
    """

    wall_s: float = 0.0
    cost: Cost = Cost()
    best: float | None = None
    best_trial: int | None = None
    trials_since_best: int = 0
    epochs: int = 0


NO_TOTALS = SweepTotals()


@dataclass
class _LaneHold:
    """Running trial: `known` is its cost until its newest report, when it had held a lane for `held_s`.

    Args:
        since_s: Unix time since which it is known to hold a lane; None while it waits for one.
        rates: Devices of the trial.
        held_s: Seconds it had held a lane by its newest report.
        known: Cost until that report.
        before_wait_s: Seconds it has held a lane since that report, before a wait.
        improved: Whether it has reported a new best value.
    """

    since_s: float | None
    rates: Rates
    held_s: float = 0.0
    known: Cost = NO_COST
    before_wait_s: float = 0.0
    improved: bool = False

    def advance(self, now: float, held_s: float, share: float) -> None:
        """Add the cost since the last report.

        Args:
            now: Unix time of the report.
            held_s: Seconds the trial has held a lane; fewer than before where its client and the hub were replaced.
            share: Share of the planned devices that it used since the last report.
        """
        before_s = self.held_s if held_s >= self.held_s else 0.0
        self.known += self.rates.scaled(share).cost(held_s - before_s)
        self.since_s, self.held_s, self.before_wait_s = now, held_s, 0.0

    def begin(self, now: float) -> None:
        """Count from now on, unless it counts already: the trial holds a lane."""
        self.since_s = now if self.since_s is None else self.since_s

    def wait(self, now: float) -> None:
        """Count no more from now on: the trial waits for a lane."""
        self.before_wait_s, self.since_s = self._since_report(now), None

    def cost(self, now: float) -> Cost:
        """Return the cost until now."""
        return self.known + self.rates.cost(self._since_report(now))

    def _since_report(self, now: float) -> float:
        return self.before_wait_s + (0.0 if self.since_s is None else max(0.0, now - self.since_s))


@dataclass
class CostAccount:
    """Costs and best value of a sweep, updated event by event in constant time."""

    _rates: Rates = Rates()
    _workers: float = 1.0
    _waits_recorded: bool = False
    _metric: str | None = None
    _sign: float = 1.0
    _constraints: tuple[Constraint, ...] = ()
    _session_s: float | None = None
    _last_s: float = 0.0
    _wall_s: float = 0.0
    _closed: dict[int, Cost] = field(default_factory=dict)
    _open: dict[int, _LaneHold] = field(default_factory=dict)
    _total: Cost = Cost()
    _best: float | None = None
    _best_trial: int | None = None
    _trials_since_best: int = 0
    _repeats: set[int] = field(default_factory=set)  # of a configuration, with other seeds: none is a best by itself
    _paused_before: set[int] = field(default_factory=set)
    _epochs: dict[int, int] = field(default_factory=dict)
    _epochs_total: int = 0

    def apply(self, event: Event) -> None:
        """Update the account with the next event of the journal."""
        now = event.time
        match event:
            case SweepStarted() | SweepResumed():
                self._end_session(self._last_s)
                self._session_s, self._waits_recorded = now, False
                self._configure(event.config)
            case LanesPlanned():
                self._reserve(event)
            case TrialStarted() | TrialResumed():
                self._close(event.trial, now)
                self._open[event.trial] = _LaneHold(None if self._waits_recorded else now, self._rates)
                if isinstance(event, TrialStarted) and event.repeats is not None:
                    self._repeats.add(event.trial)
            case TrialLaneChanged(lane=None) if event.trial in self._open:
                self._open[event.trial].wait(now)
            case TrialLaneChanged() if event.trial in self._open:
                self._open[event.trial].begin(now)
            case TrialReported():
                self._report(event)
            case TrialPaused() | TrialEnded():
                self._count(event)
                self._close(event.trial, now)
            case SweepEnded():
                self._end_session(now)
        self._last_s = now

    def cost(self, number: int, now: float) -> Cost:
        """Return the cost of a trial, over all sessions.

        Args:
            number: Number of the trial.
            now: Unix time until which a running trial is counted.
        """
        closed, hold = self._closed.get(number, Cost()), self._open.get(number)
        return closed if hold is None else closed + hold.cost(now)

    def holds_since(self, number: int) -> float | None:
        """Return the Unix time since which a running trial is known to hold a lane; None while it waits for one."""
        hold = self._open.get(number)
        return None if hold is None else hold.since_s

    def totals(self, now: float) -> SweepTotals:
        """Return the totals of the sweep.

        Args:
            now: Unix time; that of the last event when the driver is dead.
        """
        wall_s = self._wall_s + (max(0.0, now - self._session_s) if self._session_s is not None else 0.0)
        cost = sum((hold.cost(now) for hold in self._open.values()), self._total)
        best = None if self._best is None else self._sign * self._best
        return SweepTotals(wall_s, cost, best, self._best_trial, self._trials_since_best, self._epochs_total)

    @property
    def last_event_s(self) -> float:
        """Unix time of the last event."""
        return self._last_s

    def _configure(self, config: Mapping[str, Any]) -> None:
        budget = config.get("budget") or {}
        self._rates = Rates(
            self._rates.cpus, self._rates.gpus, budget.get("price_per_cpu_hour"), budget.get("price_per_gpu_hour")
        )
        objective = config.get("objective")
        first = objective[0] if isinstance(objective, list) and objective else objective
        if isinstance(first, Mapping) and self._metric is None:
            self._metric, self._sign = first["metric"], 1.0 if first["mode"] == "max" else -1.0
        self._constraints = tuple(map(parse_constraint, config.get("constraints") or ()))

    def _reserve(self, plan: LanesPlanned) -> None:
        self._workers, self._waits_recorded = float(plan.workers), bool(plan.waits)
        self._rates = Rates(
            plan.cpus_per_trial, plan.gpus_per_trial, self._rates.per_cpu_hour, self._rates.per_gpu_hour
        )

    def _report(self, event: TrialReported) -> None:
        hold, metrics = self._open.get(event.trial), event.metrics
        before = self._epochs.get(event.trial, 0)
        self._epochs[event.trial] = max(before, event.epoch)
        self._epochs_total += max(0, event.epoch - before)
        if hold is not None and event.held_s is not None:
            share = metrics.get(_WORKERS, self._workers) / self._workers
            hold.advance(event.time, event.held_s, share)
        elif hold is not None:
            hold.begin(event.time)
        if event.trial in self._repeats:
            return
        value = self._sign * metrics.get(self._metric or "", math.nan)
        if any(bound.violation(metrics.get(bound.metric, math.inf)) > 0 for bound in self._constraints):
            return
        if math.isfinite(value) and (self._best is None or value > self._best):
            self._best, self._best_trial, self._trials_since_best = value, event.trial, 0
            if hold is not None:
                hold.improved = True

    def _count(self, event: TrialPaused | TrialEnded) -> None:
        """Count trials in a row that ended without a new best; an interrupted trial has not ended.

        A trial that pauses counts at its first pause, and not again.
        """
        hold = self._open.get(event.trial)
        if event.trial in self._repeats or (isinstance(event, TrialEnded) and event.status is TrialStatus.INTERRUPTED):
            return
        if hold is not None and hold.improved:
            self._trials_since_best = 0
        elif event.trial not in self._paused_before:
            self._trials_since_best += 1
        if isinstance(event, TrialPaused):
            self._paused_before.add(event.trial)

    def _close(self, number: int, now: float) -> None:
        hold = self._open.pop(number, None)
        if hold is not None:
            cost = hold.cost(now)
            self._closed[number] = self._closed.get(number, Cost()) + cost
            self._total += cost

    def _end_session(self, now: float) -> None:
        for number in list(self._open):
            self._close(number, now)
        if self._session_s is not None:
            self._wall_s += max(0.0, now - self._session_s)
        self._session_s = None
