"""State of a sweep, reduced from its events; ledger, stored sweeps and repair all use this reducer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import JournalError
from orchestrator.records.costs import Cost, CostAccount
from orchestrator.records.events import (
    BudgetSpent,
    CheckpointDropped,
    CheckpointKept,
    ConfigurationMeasured,
    Event,
    FrontFound,
    SettingsChanged,
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
from orchestrator.records.journal import read_entries
from orchestrator.records.lines import LineError, require_usable_settings
from orchestrator.records.settings.searched_domains import merged_domains
from orchestrator.records.status import TrialStatus
from orchestrator.records.trials import RejectedTrial, TrialRecord
from orchestrator.uris import without_secrets


class History:
    """State of a sweep after the events applied so far; an event is applied in constant time.

    Attributes:
        name: Name of the sweep; empty before it began.
        uid: Identifier of the sweep in MLflow.
        config: Settings of the newest session.
        facts: Versions and revision of the newest session.
        identity: Settings that decided the results in the newest session; None before the first.
        sessions: Number of sessions, one per driver.
        trials: Every trial, by number.
        rejected: Rejected configurations, by number.
        open: Numbers of the trials that are running or interrupted.
        paused: Numbers of the paused trials.
        restorable: Numbers of the paused trials that have a checkpoint.
        pauses: Number of the trial of every pause, in order.
        over: Numbers of the trials that have ended for good, in the order of their ends.
        stored: Checkpoints to be stored as artifacts, by trial and file.
        measured: Trials that the newest mean of each configuration is of, by the number of its first trial.
        repeats: Numbers of the trials that train a configuration with another than the first seed.
        repeats_over: Number of those that have ended for good.
        costs: Time and devices used.
        ended: Status with which the newest session ended; None while it runs.
        ended_by: Limit of the budget that ended the newest session; empty when none did.
        searched: Domains of all searched names there ever were, as first recorded, with all choices there ever were.
        changed: Settings that the user changed while the sweep ran, with their newest values.
        superseded: Settings as they were before each such change.
        enqueued: Configurations that the user enqueued, by the identifier of the request.
    """

    def __init__(self) -> None:
        self.name = ""
        self.uid = ""
        self.config: Mapping[str, Any] = {}
        self.facts: Mapping[str, str] = {}
        self.identity: Mapping[str, Any] | None = None
        self.sessions = 0
        self.trials: dict[int, TrialRecord] = {}
        self.rejected: dict[int, RejectedTrial] = {}
        self.open: set[int] = set()
        self.paused: set[int] = set()
        self.restorable: set[int] = set()
        self.pauses: list[int] = []
        self.over: list[int] = []
        self.stored: set[tuple[int, str]] = set()
        self.measured: dict[int, tuple[int, ...]] = {}
        self.repeats: set[int] = set()
        self.repeats_over = 0
        self.costs = CostAccount()
        self.ended: TrialStatus | None = None
        self.ended_by = ""
        self.searched: dict[str, Any] = {}
        self.changed: dict[str, Any] = {}
        self.superseded: list[Mapping[str, Any]] = []
        self.enqueued: dict[str, Mapping[str, Any]] = {}

    def apply(self, event: Event) -> None:
        """Update the state with the next event.

        Raises:
            LineError: The event contradicts earlier ones; the state is unchanged.
        """
        self.refuse_contradiction(event)
        self._update(event)
        self.costs.apply(event)

    def refuse_contradiction(self, event: Event) -> None:
        """Check that an event can follow those applied so far.

        Raises:
            LineError: The event contradicts earlier ones.
        """
        match event:
            case SweepStarted() if self.sessions:
                raise LineError("the sweep has started before")
            case TrialStarted() | TrialRejected() if event.trial in self.trials:
                raise LineError(f"trial {event.trial} was started before")
            case (
                TrialResumed()
                | TrialChanged()
                | TrialLaneChanged()
                | TrialReported()
                | TrialProgressed()
                | TrialPaused()
                | TrialEnded()
                | CheckpointKept()
            ):
                self._require_started(event.trial)
            case TrialSteered():
                self._require_started(event.trial)
            case FrontFound() | ConfigurationMeasured():
                for number in event.trials:
                    self._require_started(number)
        if isinstance(event, ConfigurationMeasured):
            strangers = [number for number in event.trials if self.trials[number].configuration != event.trial]
            if strangers or len(set(event.trials)) < len(event.trials):
                raise LineError(f"the mean of trial {event.trial} is of {list(event.trials)}, not of its seeds")
        if isinstance(event, TrialStarted) and event.repeats is not None:
            self._require_started(event.repeats)
            if self.trials[event.repeats].is_repeat:
                raise LineError(f"trial {event.trial} repeats trial {event.repeats}, which is itself a repeat")
        if isinstance(event, TrialChanged):
            self._require_started(event.donor)

    def _require_started(self, number: int) -> None:
        if number not in self.trials:
            raise LineError(f"trial {number} was never started")

    def _update(self, event: Event) -> None:
        match event:
            case SweepStarted() | SweepResumed():
                self._begin_session(event)
            case SettingsChanged() | TrialEnqueued() | TrialSteered():
                self._steer(event)
            case SweepEnded():
                self.ended = TrialStatus(event.status)
            case BudgetSpent():
                self.ended_by = event.reason
            case CheckpointKept():
                self.stored.add((event.trial, event.path))
            case CheckpointDropped():
                self.stored.discard((event.trial, event.path))
            case ConfigurationMeasured():
                self.measured[event.trial] = event.trials
            case TrialRejected():
                self.rejected[event.trial] = RejectedTrial(event.trial, event.params, event.rule, event.reason)
            case TrialStarted():
                self._begin_trial(event)
            case TrialResumed() | TrialChanged() | TrialReported() | TrialPaused() | TrialEnded():
                self._update_trial(self.trials[event.trial], event)

    def _begin_session(self, event: SweepStarted | SweepResumed) -> None:
        if isinstance(event, SweepStarted):
            self.name, self.uid = event.name, event.uid
        earlier, search = self.config.get("search") or {}, (event.config or self.config).get("search") or {}
        if search != earlier:  # the user has changed the space between sessions: other conditions, other names
            known = {name: domain for name, domain in self.searched.items() if name in search}
            self.searched = merged_domains(known, search, new_conditions=True)
        self.config, self.facts = event.config or self.config, event.facts or self.facts
        self.sessions, self.identity = self.sessions + 1, event.identity or {}  # absent in the oldest journals
        self.ended, self.ended_by = None, ""

    def _steer(self, event: SettingsChanged | TrialEnqueued | TrialSteered) -> None:
        match event:
            case SettingsChanged():
                self.superseded.append(self.config)
                self.config, self.identity = event.config, event.identity
                self.changed = {**self.changed, **event.changes}
                self.searched = merged_domains(self.searched, event.config.get("search") or {})
            case TrialEnqueued():
                self.enqueued[event.request] = event.params
            case TrialSteered():
                self.trials[event.trial].steered = "" if event.action == "resume" else event.action

    def _begin_trial(self, event: TrialStarted) -> None:
        self.trials[event.trial] = TrialRecord(
            number=event.trial,
            tune_id=event.tune_id,
            params=event.params,
            config=event.config,
            started_s=event.time,
            repeats=event.repeats,
            replicate=event.replicate or 0,
        )
        self.open.add(event.trial)
        if event.repeats is not None:
            self.repeats.add(event.trial)

    def _update_trial(
        self, trial: TrialRecord, event: TrialResumed | TrialChanged | TrialReported | TrialPaused | TrialEnded
    ) -> None:
        match event:
            case TrialResumed():
                trial.status, trial.reason, trial.ended_s = TrialStatus.RUNNING, "", None
                trial.tune_id, trial.attempts = event.tune_id, trial.attempts + 1
            case TrialChanged():
                trial.config, trial.changes = event.config, trial.changes + 1
            case TrialReported():
                trial.reports.append({"epoch": event.epoch, **event.metrics})
                trial.nodes = trial.nodes if event.nodes is None else event.nodes
                trial.failures = trial.failures if event.failures is None else event.failures
            case TrialPaused():
                trial.status, trial.reason = TrialStatus.PAUSED, ""
                trial.ended_s, trial.resume_epoch = event.time, event.epoch
                trial.cost = _cost_of(event)
                self.pauses.append(trial.number)
            case TrialEnded():
                trial.status, trial.reason, trial.ended_s = (
                    TrialStatus(event.status),
                    without_secrets(event.reason),
                    event.time,
                )
                trial.cost = _cost_of(event)
        self._file_by_status(trial)

    def _file_by_status(self, trial: TrialRecord) -> None:
        """Note a trial in the set of its status, so that readers of either need not scan all trials."""
        was_left = trial.number in self.open or trial.number in self.paused
        for numbers in (self.open, self.paused, self.restorable):
            numbers.discard(trial.number)
        if trial.status is TrialStatus.PAUSED:
            self.paused.add(trial.number)
            if trial.resume_epoch:
                self.restorable.add(trial.number)
        elif not trial.is_over:
            self.open.add(trial.number)
        elif was_left:
            self.over.append(trial.number)
            self.repeats_over += trial.is_repeat


def _cost_of(event: TrialPaused | TrialEnded) -> Cost:
    return Cost(**{str(name): value for name, value in (event.cost or {}).items()})


def read_history(path: Path, *, settings: bool = False) -> History:
    """Read a whole journal.

    Args:
        path: Path of the journal; an empty journal is a sweep that has not begun.
        settings: Whether to check the settings of sweep and trials that readers rely on.

    Raises:
        JournalError: A line is damaged or contradicts earlier ones.
    """
    history = History()
    for entry in read_entries(path):
        try:
            if not history.sessions and not isinstance(entry.event, SweepStarted):
                raise LineError(f"the first event is '{entry.event.event}', not 'sweep_started'")
            if settings:
                require_usable_settings(entry.event)
            history.apply(entry.event)
        except LineError as fault:
            raise JournalError(path, str(fault), line=entry.line, byte=entry.start) from None
    return history


def read_begun(path: Path) -> History:
    """Read the journal of a sweep that has begun.

    Args:
        path: Path of the journal.

    Raises:
        JournalError: A line is damaged or contradicts earlier ones, settings cannot be used, or there is no complete
            line.
    """
    history = read_history(path, settings=True)
    if not history.sessions:
        raise JournalError(path, "it holds no whole event", line=1, byte=0)
    return history
