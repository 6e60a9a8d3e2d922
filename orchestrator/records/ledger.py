"""What has happened in a sweep so far: every trial's parameters, reports and end.

The ledger is the one place events pass through. It appends each to the journal, from which everything else (MLflow,
result tables, the view of progress) is derived, so that what is shown never differs from what is stored.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from orchestrator.records.costs import Cost, SweepTotals
from orchestrator.records.events import (
    FORMAT,
    BudgetSpent,
    CheckpointDropped,
    CheckpointKept,
    CostFigures,
    Ended,
    Event,
    FrontFound,
    LanesPlanned,
    SessionDescribed,
    SweepEnd,
    SweepEnded,
    SweepResumed,
    SweepStarted,
    TrialChanged,
    TrialEnded,
    TrialRejected,
    TrialReported,
    TrialResumed,
    TrialStarted,
)
from orchestrator.records.history import read_history
from orchestrator.records.journal import Journal
from orchestrator.records.status import TrialStatus
from orchestrator.records.trials import RejectedTrial, TrialRecord
from orchestrator.uris import masked, without_secrets

__all__ = ["Ledger", "RejectedTrial", "TrialRecord", "TrialStatus", "count_rejected"]


class Ledger:
    """Records events; safe to call from several threads.

    Args:
        journal: Where every event is kept; events that stand there already are taken up.

    Raises:
        JournalError: A line of the journal is damaged.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._lock = threading.RLock()
        self._history = read_history(journal.path)

    @property
    def sessions(self) -> int:
        """Drivers that have worked on the sweep."""
        return self._history.sessions

    @property
    def identity(self) -> Mapping[str, Any] | None:
        """What decided the results in the newest session; None before the first."""
        return self._history.identity

    @property
    def ended_by(self) -> str:
        """What the budget said when it ended the sweep; empty when it did not."""
        return self._history.ended_by

    @property
    def stored(self) -> set[tuple[int, str]]:
        """Checkpoints that are to be stored as artifacts, by trial and file."""
        return self._history.stored

    def sweep_started(
        self, name: str, config: Mapping[str, Any], facts: Mapping[str, str], identity: Mapping[str, Any]
    ) -> None:
        """The sweep begins; the identifier keeps equal names of different users apart on a shared server."""
        uid = uuid.uuid4().hex
        self._record(
            SweepStarted(
                time=time.time(),
                name=name,
                uid=uid,
                config=config,
                facts=facts,
                identity=identity,
                format=FORMAT,
            )
        )

    def sweep_resumed(self, config: Mapping[str, Any], facts: Mapping[str, str], identity: Mapping[str, Any]) -> None:
        """A new driver goes on with the sweep."""
        self._record(SweepResumed(time=time.time(), config=config, facts=facts, identity=identity))

    def session_described(self, files: Iterable[str], dataset: Mapping[str, Any]) -> None:
        """What the session just begun works with: files to be stored with the sweep, and facts about its images."""
        self._record(SessionDescribed(time=time.time(), session=self.sessions, files=tuple(files), dataset=dataset))

    def trial_started(self, number: int, tune_id: str, params: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """A trial was proposed and handed to Tune."""
        self._record(TrialStarted(time=time.time(), trial=number, tune_id=tune_id, params=params, config=config))

    def trial_rejected(self, number: int, params: Mapping[str, Any], rule: str, reason: str) -> None:
        """A configuration was proposed and is not tried; it is none of the sweep's trials."""
        self._record(TrialRejected(time=time.time(), trial=number, params=params, rule=rule, reason=reason))

    def lanes_planned(self, lanes: int, workers: int, cpus_per_worker: float, gpus_per_worker: float) -> None:
        """What the trials from here on reserve."""
        self._record(
            LanesPlanned(
                time=time.time(),
                lanes=lanes,
                workers=workers,
                cpus_per_trial=workers * cpus_per_worker,
                gpus_per_trial=workers * gpus_per_worker,
            )
        )

    def trial_resumed(self, number: int, tune_id: str) -> None:
        """A trial that was interrupted is handed to Tune again."""
        self._record(TrialResumed(time=time.time(), trial=number, tune_id=tune_id))

    def trial_changed(self, number: int, donor: int, epoch: int, config: Mapping[str, Any]) -> None:
        """After an epoch a trial goes on from the weights of another one, with another configuration."""
        self._record(TrialChanged(time=time.time(), trial=number, donor=donor, epoch=epoch, config=config))

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
        with self._lock:
            moved = bool(nodes) and tuple(nodes) != self._history.trials[number].nodes
            self._record(
                TrialReported(
                    time=time.time(),
                    trial=number,
                    epoch=epoch,
                    metrics=metrics,
                    held_s=held_s,
                    lane=lane,
                    nodes=tuple(nodes) if moved else None,
                )
            )

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
            if not self._history.trials[number].is_over:
                now = time.time()
                cost = cast(CostFigures, self._history.costs.cost(number, now).as_dict())
                ended = TrialEnded(
                    time=now,
                    trial=number,
                    status=cast(Ended, status),
                    reason=without_secrets(reason),
                    cost=cost,
                    best=best or {},
                )
                self._record(ended)

    def checkpoint_kept(self, number: int, path: str) -> None:
        """A trial is among the best, or the newest; its checkpoint is to be stored as an artifact."""
        self._record(CheckpointKept(time=time.time(), trial=number, path=path))

    def checkpoint_dropped(self, number: int, path: str) -> None:
        """Others have taken the place of a trial whose checkpoint is stored; it need not be any longer."""
        self._record(CheckpointDropped(time=time.time(), trial=number, path=path))

    def budget_spent(self, reason: str) -> None:
        """The sweep is to end although trials are left, because of what its budget says."""
        self._record(BudgetSpent(time=time.time(), reason=reason))

    def front_found(self, numbers: Iterable[int]) -> None:
        """Of several objectives, the trials that no other beats in all."""
        self._record(FrontFound(time=time.time(), trials=tuple(numbers)))

    def sweep_ended(self, status: TrialStatus, summary: Mapping[str, Any], files: Iterable[str]) -> None:
        """The sweep is over; `files` are result files to be stored with it."""
        self._record(SweepEnded(time=time.time(), status=cast(SweepEnd, status), summary=summary, files=tuple(files)))

    def trials(self) -> list[TrialRecord]:
        """All trials by number."""
        with self._lock:
            return [self._history.trials[number] for number in sorted(self._history.trials)]

    def trial(self, number: int) -> TrialRecord:
        """One trial by its number."""
        with self._lock:
            return self._history.trials[number]

    def rejected(self) -> list[RejectedTrial]:
        """All configurations that were proposed and not tried, by number."""
        with self._lock:
            return [self._history.rejected[number] for number in sorted(self._history.rejected)]

    def has_trial(self, number: int) -> bool:
        """Whether a trial of this number was ever started."""
        with self._lock:
            return number in self._history.trials

    def count_ended(self) -> int:
        """Trials that will never train again."""
        with self._lock:
            return len(self._history.over)

    def ended_since(self, count: int) -> list[TrialRecord]:
        """Trials that will never train again, but for the first so many, in the order of their ends."""
        with self._lock:
            return [self._history.trials[number] for number in self._history.over[count:]]

    def open(self) -> list[TrialRecord]:
        """Trials that train, or were interrupted, by number."""
        with self._lock:
            return [self._history.trials[number] for number in sorted(self._history.open)]

    def running(self) -> list[TrialRecord]:
        """Trials that have not ended."""
        return [trial for trial in self.open() if trial.status is TrialStatus.RUNNING]

    def cost_now(self, number: int) -> Cost:
        """What a trial has cost until now."""
        with self._lock:
            return self._history.costs.cost(number, time.time())

    def totals(self) -> SweepTotals:
        """What the sweep has spent and brought until now."""
        with self._lock:
            return self._history.costs.totals(time.time())

    def _record(self, event: Event) -> None:
        if not isinstance(event, TrialReported):  # numbers, and as many as there are epochs
            event = replace(event, **masked({name: value for name, value in vars(event).items() if name != "event"}))
        with self._lock:
            self._history.refuse_contradiction(event)
            self._journal.append(event)
            self._history.take(event)


def count_rejected(counts: Mapping[str, int]) -> str:
    """How many configurations each rule has rejected, such as `12 (max_params 7, pooled_size 5)`; empty for none."""
    each = ", ".join(f"{rule} {count}" for rule, count in sorted(counts.items(), key=lambda item: -item[1]))
    return f"{sum(counts.values())} ({each})" if each else ""
