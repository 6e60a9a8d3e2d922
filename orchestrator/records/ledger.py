"""Recorder of the events of a sweep, with the state they add up to.

Every event passes through the ledger, which appends it to the journal first. All other state (MLflow, result tables,
progress view) is derived from the journal, so that what is shown never differs from what is stored.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

from orchestrator.errors import StorageFullError
from orchestrator.records.events import (
    FORMAT,
    BudgetSpent,
    CheckpointDropped,
    CheckpointKept,
    ConfigurationMeasured,
    CostFigures,
    Ended,
    Event,
    FrontFound,
    LanesPlanned,
    SessionDescribed,
    SettingsChanged,
    SweepEnd,
    SweepEnded,
    SweepResumed,
    SweepStarted,
    TrialChanged,
    TrialEnded,
    TrialEnqueued,
    TrialLaneChanged,
    TrialPaused,
    TrialProgressed,
    TrialRejected,
    TrialReported,
    TrialResumed,
    TrialStarted,
    TrialSteered,
)
from orchestrator.records.journal import Journal
from orchestrator.records.queries import LedgerQueries
from orchestrator.records.status import TrialStatus
from orchestrator.records.trials import RejectedTrial, TrialRecord
from orchestrator.uris import masked, without_secrets

__all__ = ["Ledger", "RejectedTrial", "TrialRecord", "TrialStatus", "count_rejected"]

_AT_ONCE_S = 0.2  # for another event: many points may be due at once


class Ledger(LedgerQueries):
    """Recorder of events, in the driver process; its methods may be called from any thread.

    A recording method blocks until the event is on disk; a query never waits for that.

    Args:
        journal: Journal to append to; the events already in it are replayed.

    Raises:
        JournalError: A line of the journal is damaged.
    """

    def __init__(self, journal: Journal) -> None:
        super().__init__(journal.path)
        self._journal = journal
        # Held while an event is appended, which may wait for a full disk: queries, which take the other lock, do not.
        self._appends = threading.RLock()

    def sweep_started(
        self, name: str, config: Mapping[str, Any], facts: Mapping[str, str], identity: Mapping[str, Any]
    ) -> None:
        """Record the start of the sweep, with a new identifier that distinguishes equal names on a shared server."""
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
        """Record that a new driver resumes the sweep."""
        self._record(SweepResumed(time=time.time(), config=config, facts=facts, identity=identity))

    def settings_changed(
        self, request: str, changes: Mapping[str, Any], config: Mapping[str, Any], identity: Mapping[str, Any]
    ) -> None:
        """Record that the user changed settings of the running sweep.

        Args:
            request: Identifier of the request.
            changes: Changed settings with their new values.
            config: All settings from now on.
            identity: Settings that decide the results from now on.
        """
        self._record(
            SettingsChanged(time=time.time(), request=request, changes=changes, config=config, identity=identity)
        )

    def trial_enqueued(self, request: str, params: Mapping[str, Any]) -> None:
        """Record that the user enqueued a configuration."""
        self._record(TrialEnqueued(time=time.time(), request=request, params=params))

    def trial_steered(self, request: str, number: int, action: Literal["stop", "pause", "resume"]) -> None:
        """Record that the user requested to stop, pause or resume a trial."""
        self._record(TrialSteered(time=time.time(), request=request, trial=number, action=action))

    def session_described(self, files: Iterable[str], dataset: Mapping[str, Any]) -> None:
        """Record the files to be stored with the session just begun, and the facts about its dataset."""
        self._record(SessionDescribed(time=time.time(), session=self.sessions, files=tuple(files), dataset=dataset))

    def trial_started(
        self,
        number: int,
        tune_id: str,
        params: Mapping[str, Any],
        config: Mapping[str, Any],
        *,
        repeats: int | None = None,
        replicate: int | None = None,
    ) -> None:
        """Record that a trial was proposed and passed to Tune.

        Args:
            number: Number of the trial.
            tune_id: Tune's id of the trial.
            params: Searched values, by name.
            config: `TrialConfig` as plain data.
            repeats: Number of the trial whose configuration it trains with another seed, if it does.
            replicate: Index of that seed, from 1.
        """
        self._record(
            TrialStarted(
                time=time.time(),
                trial=number,
                tune_id=tune_id,
                params=params,
                config=config,
                repeats=repeats,
                replicate=replicate,
            )
        )

    def trial_rejected(self, number: int, params: Mapping[str, Any], rule: str, reason: str) -> None:
        """Record that a proposed configuration was rejected; it does not count as a trial."""
        self._record(TrialRejected(time=time.time(), trial=number, params=params, rule=rule, reason=reason))

    def lanes_planned(self, lanes: int, workers: int, cpus_per_worker: float, gpus_per_worker: float) -> None:
        """Record the lanes, and the devices that each trial reserves from here on."""
        self._record(
            LanesPlanned(
                time=time.time(),
                lanes=lanes,
                workers=workers,
                cpus_per_trial=workers * cpus_per_worker,
                gpus_per_trial=workers * gpus_per_worker,
                waits=True,
            )
        )

    def trial_resumed(self, number: int, tune_id: str) -> None:
        """Record that an interrupted or paused trial was passed to Tune again."""
        self._record(TrialResumed(time=time.time(), trial=number, tune_id=tune_id))

    def trial_changed(self, number: int, donor: int, epoch: int, config: Mapping[str, Any]) -> None:
        """Record that a trial resumes from the weights of another one, with another configuration.

        Args:
            number: Number of the trial.
            donor: Number of the trial whose weights it copies.
            epoch: Epoch of the trial after which it copies them.
            config: New configuration of the trial.
        """
        self._record(TrialChanged(time=time.time(), trial=number, donor=donor, epoch=epoch, config=config))

    def lanes_held(self, asked_s: float, lanes: Mapping[str, int]) -> None:
        """Record the running trials that hold a lane since, or wait for another one; a later call does on a full disk.

        Args:
            asked_s: Unix time at which the hub was asked for them.
            lanes: Lane of each trial that holds one, by Tune's id of the trial.
        """
        self._record_at_once(self._lane_changes(asked_s, lanes))

    def _lane_changes(self, asked_s: float, lanes: Mapping[str, int]) -> Iterator[TrialLaneChanged]:
        for trial in self.running():
            lane, since_s = lanes.get(trial.tune_id), self._history.costs.holds_since(trial.number)
            is_lost = lane is None and since_s is not None and since_s < asked_s  # else its report is newer
            if is_lost or (lane is not None and since_s is None):
                yield TrialLaneChanged(time=time.time(), trial=trial.number, lane=lane)

    def trial_reported(
        self,
        number: int,
        epoch: int,
        metrics: Mapping[str, float],
        held_s: float | None = None,
        lane: int | None = None,
        *,
        nodes: Sequence[str] = (),
        failures: int = 0,
    ) -> None:
        """Record the report of a trial after an epoch.

        Args:
            number: Number of the trial.
            epoch: Epoch, from 1.
            metrics: Values of the epoch, by metric.
            held_s: Seconds the trial has held a lane since it began or resumed, if known.
            lane: Index of the lane, if known.
            nodes: Name and address of the node of every rank, in order; recorded when they have changed.
            failures: Number of failures of the trial so far; likewise.
        """
        with self._appends:
            before = self._history.trials[number]
            moved = bool(nodes) and tuple(nodes) != before.nodes
            self._record(
                TrialReported(
                    time=time.time(),
                    trial=number,
                    epoch=epoch,
                    metrics=metrics,
                    held_s=held_s,
                    lane=lane,
                    nodes=tuple(nodes) if moved else None,
                    failures=failures if failures != before.failures else None,
                )
            )

    def trial_progressed(self, number: int, epoch: int, step: int, metrics: Mapping[str, float]) -> None:
        """Record the progress of a trial within an epoch; nothing is recorded while the disk is full.

        Args:
            number: Number of the trial.
            epoch: Number of the epoch that trains, from 1.
            step: Number of complete steps of the whole training.
            metrics: Values since the progress before, by metric.
        """
        event = TrialProgressed(time=time.time(), trial=number, epoch=epoch, step=step, metrics=metrics)
        self._record_at_once([event])

    def trial_ended(
        self, number: int, status: TrialStatus, reason: str = "", best: Mapping[str, float] | None = None
    ) -> None:
        """Record the end of a trial; a second end is ignored, unless the first was an interruption.

        Args:
            number: Number of the trial.
            status: Status with which it ended.
            reason: Reason of a failure, or place of a divergence.
            best: Value of every objective at its best epoch.
        """
        with self._appends:
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

    def configuration_measured(
        self, number: int, trials: Sequence[int], mean: float, interval: tuple[float, float]
    ) -> None:
        """Record the mean of a configuration over its seeds; one of the same trials is recorded once.

        Args:
            number: Number of the trial that trained the first seed.
            trials: Numbers of the trials that the mean is of, by seed.
            mean: Mean of the first objective.
            interval: Both ends of the interval of the mean.
        """
        with self._appends:
            if self._history.measured.get(number) != tuple(trials):
                low, high = interval
                self._record(
                    ConfigurationMeasured(
                        time=time.time(), trial=number, trials=tuple(trials), mean=mean, ci_low=low, ci_high=high
                    )
                )

    def trial_paused(self, number: int, resume_epoch: int, best: Mapping[str, float] | None = None) -> None:
        """Record the pause of a trial, or the removal of the checkpoint of a paused one.

        Args:
            number: Number of the trial.
            resume_epoch: Epoch of the checkpoint from which it would resume; 0 where none is left.
            best: Value of every objective at its best epoch.
        """
        with self._appends:
            now = time.time()
            cost = cast(CostFigures, self._history.costs.cost(number, now).as_dict())
            self._record(TrialPaused(time=now, trial=number, epoch=resume_epoch, cost=cost, best=best or {}))

    def checkpoint_kept(self, number: int, path: str) -> None:
        """Record that a checkpoint is to be stored as an artifact, since its trial is among the best or the newest."""
        self._record(CheckpointKept(time=time.time(), trial=number, path=path))

    def checkpoint_dropped(self, number: int, path: str) -> None:
        """Record that a stored checkpoint is no longer needed, since other trials have replaced it."""
        self._record(CheckpointDropped(time=time.time(), trial=number, path=path))

    def budget_spent(self, reason: str) -> None:
        """Record the limit of the budget that ends the sweep although trials are left."""
        self._record(BudgetSpent(time=time.time(), reason=reason))

    def front_found(self, numbers: Iterable[int]) -> None:
        """Record the trials of the Pareto front."""
        self._record(FrontFound(time=time.time(), trials=tuple(numbers)))

    def sweep_ended(self, status: TrialStatus, summary: Mapping[str, Any], files: Iterable[str]) -> None:
        """Record the end of the session; `files` are result files to be stored with the sweep."""
        self._record(SweepEnded(time=time.time(), status=cast(SweepEnd, status), summary=summary, files=tuple(files)))

    def _record_at_once(self, events: Iterable[Event]) -> None:
        """Record events, or none, without waiting for room: the main thread of the driver watches for Ctrl-C.

        Args:
            events: Events, which may be found as they are recorded, from the state until then.
        """
        if self._appends.acquire(timeout=_AT_ONCE_S):
            try:
                with contextlib.suppress(StorageFullError):
                    for event in events:
                        self._record(event, waits=False)
            finally:
                self._appends.release()

    def _record(self, event: Event, *, waits: bool = True) -> None:
        if not isinstance(event, TrialReported | TrialProgressed):  # hold numbers only, and there are many
            event = replace(event, **masked({name: value for name, value in vars(event).items() if name != "event"}))
        with self._appends:  # all that changes the history, which may be read here without the other lock
            self._history.refuse_contradiction(event)
            self._journal.append(event, waits=waits)
            with self._lock:
                self._history.apply(event)


def count_rejected(counts: Mapping[str, int]) -> str:
    """Format the counts of rejected configurations by rule, such as `12 (max_params 7, pooled_size 5)`."""
    each = ", ".join(f"{rule} {count}" for rule, count in sorted(counts.items(), key=lambda item: -item[1]))
    return f"{sum(counts.values())} ({each})" if each else ""
