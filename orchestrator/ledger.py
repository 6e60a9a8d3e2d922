"""What has happened in a sweep so far: every trial's parameters, reports and end.

The ledger is the one place events pass through. It appends each to the journal, from which everything else (MLflow,
result tables, the view of progress) is derived, so that what is shown never differs from what is stored.
"""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from orchestrator.spending import NO_COST, Cost, SoFar, Spending
from orchestrator.tracking.journal import Journal, read_events
from orchestrator.uris import masked, without_secrets


class TrialStatus(StrEnum):
    """How a trial stands."""

    RUNNING = "running"
    FINISHED = "finished"
    PRUNED = "pruned"
    DIVERGED = "diverged"
    FAILED = "failed"
    INTERRUPTED = "interrupted"

    @property
    def in_words(self) -> str:
        """As a person is told."""
        return "stopped early" if self is TrialStatus.PRUNED else self.value


@dataclass
class TrialRecord:
    """One trial, as far as it got.

    Args:
        number: Optuna's number.
        tune_id: Tune's id.
        params: Searched values.
        config: The whole `TrialConfig` as plain data.
        status: How it stands.
        reports: Metrics per epoch, in order; each holds `epoch`.
        reason: Of a failure, or where it diverged.
        started_s: Unix time.
        ended_s: Unix time; None while it runs.
        cost: Devices times seconds, as of its end.
        attempts: Times it was handed to Tune; above 1 where its sweep was resumed.
        nodes: Host and address of every rank, in order, as of its newest report.
    """

    number: int
    tune_id: str
    params: Mapping[str, Any]
    config: Mapping[str, Any]
    started_s: float
    status: TrialStatus = TrialStatus.RUNNING
    reports: list[dict[str, float]] = field(default_factory=list)
    reason: str = ""
    ended_s: float | None = None
    cost: Cost = NO_COST
    attempts: int = 1
    nodes: tuple[str, ...] = ()

    @property
    def is_over(self) -> bool:
        """Whether it will never train again; one that was interrupted waits for the sweep to be resumed."""
        return self.status not in (TrialStatus.RUNNING, TrialStatus.INTERRUPTED)

    @property
    def epochs(self) -> int:
        """Epochs trained."""
        return int(self.reports[-1]["epoch"]) if self.reports else 0

    def best(self, metric: str, mode: str) -> float | None:
        """The best finite value any epoch reported; None before the first."""
        values = [report[metric] for report in self.reports if math.isfinite(report.get(metric, math.nan))]
        choose = max if mode == "max" else min
        return choose(values) if values else None

    @property
    def test_top1(self) -> float | None:
        """Accuracy on the test images; None unless the trial was trained to the end."""
        return self.reports[-1].get("test/top1") if self.reports else None


@dataclass(frozen=True)
class RejectedTrial:
    """A configuration that was proposed and not worth a trial.

    Args:
        number: Optuna's number.
        params: Searched values.
        rule: The setting or limit it breaks.
        reason: What was given and what holds.
    """

    number: int
    params: Mapping[str, Any]
    rule: str
    reason: str


class Ledger:
    """Records events; safe to call from several threads.

    Args:
        journal: Where every event is kept; events that stand there already are taken up.

    Attributes:
        sessions: Drivers that have worked on the sweep.
        identity: What decided its results in the newest session; None before the first.
        ended_by: What the budget said when it ended the sweep; empty when it did not.
        stored: Checkpoints that are to be stored as artifacts, by trial and file.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._lock = threading.RLock()
        self._trials: dict[int, TrialRecord] = {}
        self._open: set[int] = set()
        self._over: list[int] = []
        self._rejected: dict[int, RejectedTrial] = {}
        self._spending = Spending()
        self.ended_by = ""
        self.sessions = 0
        self.stored: set[tuple[int, str]] = set()
        self.identity: Mapping[str, Any] | None = None
        for event, _ in read_events(journal.path):
            self._take_up(event)

    def sweep_started(
        self, name: str, config: Mapping[str, Any], facts: Mapping[str, str], identity: Mapping[str, Any]
    ) -> None:
        """The sweep begins; the identifier keeps equal names of different users apart on a shared server."""
        uid = uuid.uuid4().hex
        self._record("sweep_started", name=name, uid=uid, config=config, facts=facts, identity=identity)

    def sweep_resumed(self, config: Mapping[str, Any], facts: Mapping[str, str], identity: Mapping[str, Any]) -> None:
        """A new driver goes on with the sweep."""
        self._record("sweep_resumed", config=config, facts=facts, identity=identity)

    def session_described(self, files: Iterable[str], dataset: Mapping[str, Any]) -> None:
        """What the session just begun works with: files to be stored with the sweep, and facts about its images."""
        self._record("session_described", session=self.sessions, files=list(files), dataset=dataset)

    def trial_started(self, number: int, tune_id: str, params: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """A trial was proposed and handed to Tune."""
        self._record("trial_started", trial=number, tune_id=tune_id, params=params, config=config)

    def trial_rejected(self, number: int, params: Mapping[str, Any], rule: str, reason: str) -> None:
        """A configuration was proposed and is not tried; it is none of the sweep's trials."""
        self._record("trial_rejected", trial=number, params=params, rule=rule, reason=reason)

    def lanes_planned(self, lanes: int, workers: int, cpus_per_worker: float, gpus_per_worker: float) -> None:
        """What the trials from here on reserve."""
        per_trial = {"cpus_per_trial": workers * cpus_per_worker, "gpus_per_trial": workers * gpus_per_worker}
        self._record("lanes_planned", lanes=lanes, workers=workers, **per_trial)

    def trial_resumed(self, number: int, tune_id: str) -> None:
        """A trial that was interrupted is handed to Tune again."""
        self._record("trial_resumed", trial=number, tune_id=tune_id)

    def trial_changed(self, number: int, donor: int, epoch: int, config: Mapping[str, Any]) -> None:
        """After an epoch a trial goes on from the weights of another one, with another configuration."""
        self._record("trial_changed", trial=number, donor=donor, epoch=epoch, config=config)

    def trial_reported(
        self,
        number: int,
        epoch: int,
        metrics: Mapping[str, float],
        held_s: float | None = None,
        lane: int | None = None,
        *,
        nodes: Sequence[str] = (),
    ) -> None:
        """An epoch of a trial is done.

        Args:
            number: Of the trial.
            epoch: From 1.
            metrics: What it brought.
            held_s: How long the trial has held its lane, where that is known.
            lane: Which one.
            nodes: Where its ranks are, in order; recorded when it is not where they were.
        """
        known = {name: value for name, value in (("held_s", held_s), ("lane", lane)) if value is not None}
        with self._lock:
            moved = {"nodes": list(nodes)} if nodes and tuple(nodes) != self._trials[number].nodes else {}
            self._record("trial_reported", trial=number, epoch=epoch, metrics=metrics, **known, **moved)

    def trial_ended(
        self, number: int, status: TrialStatus, reason: str = "", best: Mapping[str, float] | None = None
    ) -> None:
        """A trial will report no more; of several ends the first counts, unless it was an interruption.

        Args:
            number: Of the trial.
            status: How it ended.
            reason: Of a failure, or where it diverged.
            best: Every objective at its best epoch.
        """
        with self._lock:
            if not self._trials[number].is_over:
                now = time.time()
                cost = self._spending.cost(number, now).as_dict()
                ended = {
                    "trial": number,
                    "status": status,
                    "reason": without_secrets(reason),
                    "cost": cost,
                    "best": best or {},
                }
                self._record("trial_ended", now, **ended)

    def checkpoint_kept(self, number: int, path: str) -> None:
        """A trial is among the best, or the newest; its checkpoint is to be stored as an artifact."""
        self._record("checkpoint_kept", trial=number, path=path)

    def checkpoint_dropped(self, number: int, path: str) -> None:
        """Others have taken the place of a trial whose checkpoint is stored; it need not be any longer."""
        self._record("checkpoint_dropped", trial=number, path=path)

    def budget_spent(self, reason: str) -> None:
        """The sweep is to end although trials are left, because of what its budget says."""
        self._record("budget_spent", reason=reason)

    def front_found(self, numbers: Iterable[int]) -> None:
        """Of several objectives, the trials that no other beats in all."""
        self._record("front_found", trials=list(numbers))

    def sweep_ended(self, status: TrialStatus, summary: Mapping[str, Any], files: Iterable[str]) -> None:
        """The sweep is over; `files` are result files to be stored with it."""
        self._record("sweep_ended", status=status, summary=summary, files=list(files))

    def trials(self) -> list[TrialRecord]:
        """All trials by number."""
        with self._lock:
            return [self._trials[number] for number in sorted(self._trials)]

    def trial(self, number: int) -> TrialRecord:
        """One trial by its number."""
        with self._lock:
            return self._trials[number]

    def rejected(self) -> list[RejectedTrial]:
        """All configurations that were proposed and not tried, by number."""
        with self._lock:
            return [self._rejected[number] for number in sorted(self._rejected)]

    def knows(self, number: int) -> bool:
        """Whether a trial of this number was ever started."""
        with self._lock:
            return number in self._trials

    def count_over(self) -> int:
        """Trials that will never train again."""
        with self._lock:
            return len(self._over)

    def over_since(self, count: int) -> list[TrialRecord]:
        """Trials that will never train again, but for the first so many, in the order of their ends."""
        with self._lock:
            return [self._trials[number] for number in self._over[count:]]

    def open(self) -> list[TrialRecord]:
        """Trials that train, or were interrupted, by number."""
        with self._lock:
            return [self._trials[number] for number in sorted(self._open)]

    def running(self) -> list[TrialRecord]:
        """Trials that have not ended."""
        return [trial for trial in self.open() if trial.status is TrialStatus.RUNNING]

    def cost_now(self, number: int) -> Cost:
        """What a trial has cost until now."""
        with self._lock:
            return self._spending.cost(number, time.time())

    def so_far(self) -> SoFar:
        """What the sweep has spent and brought until now."""
        with self._lock:
            return self._spending.so_far(time.time())

    def _record(self, kind: str, now: float | None = None, /, **content: Any) -> None:
        event = {"event": kind, "time": time.time() if now is None else now, **masked(content)}
        with self._lock:
            self._journal.append(event)
            self._take_up(event)

    def _take_up(self, event: Mapping[str, Any]) -> None:
        match event["event"]:
            case "sweep_started" | "sweep_resumed":
                self.sessions, self.identity, self.ended_by = self.sessions + 1, event["identity"], ""
            case "budget_spent":
                self.ended_by = event["reason"]
            case "checkpoint_kept":
                self.stored.add((event["trial"], event["path"]))
            case "checkpoint_dropped":
                self.stored.discard((event["trial"], event["path"]))
            case "trial_rejected":
                found = RejectedTrial(event["trial"], event["params"], event["rule"], event["reason"])
                self._rejected[found.number] = found
        fold(self._trials, event)
        self._sort_in(self._trials.get(event.get("trial", -1)))
        self._spending.fold(event)

    def _sort_in(self, trial: TrialRecord | None) -> None:
        """Whoever looks time and again at the trials does not look through all that ever were."""
        if trial is None:
            return
        if not trial.is_over:
            self._open.add(trial.number)
        elif trial.number in self._open:
            self._open.remove(trial.number)
            self._over.append(trial.number)


def count_rejected(counts: Mapping[str, int]) -> str:
    """How many configurations each rule has rejected, such as `12 (max_params 7, pooled_size 5)`; empty for none."""
    each = ", ".join(f"{rule} {count}" for rule, count in sorted(counts.items(), key=lambda item: -item[1]))
    return f"{sum(counts.values())} ({each})" if each else ""


def fold(trials: dict[int, TrialRecord], event: Mapping[str, Any]) -> None:
    """Brings the trials up to date with one event of the journal."""
    match event["event"]:
        case "trial_started":
            trials[event["trial"]] = TrialRecord(
                number=event["trial"],
                tune_id=event["tune_id"],
                params=event["params"],
                config=event["config"],
                started_s=event["time"],
            )
        case "trial_resumed":
            trial = trials[event["trial"]]
            trial.status, trial.reason, trial.ended_s = TrialStatus.RUNNING, "", None
            trial.tune_id, trial.attempts = event["tune_id"], trial.attempts + 1
        case "trial_changed":
            trials[event["trial"]].config = event["config"]
        case "trial_reported":
            trial = trials[event["trial"]]
            trial.reports.append({"epoch": event["epoch"], **event["metrics"]})
            trial.nodes = tuple(event.get("nodes", trial.nodes))
        case "trial_ended":
            trial = trials[event["trial"]]
            trial.status, trial.reason = TrialStatus(event["status"]), without_secrets(event["reason"])
            trial.ended_s = event["time"]
            trial.cost = Cost(**event.get("cost", {}))
