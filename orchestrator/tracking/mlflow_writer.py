"""Carries the journal into MLflow.

The reports of a trial within a batch travel in one request. A batch is repeated until the server has taken it: metrics
carry the journal's own times, which makes that harmless, and what may exist is looked up before it is made.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from orchestrator.files.sqlite_files import sqlite_file
from orchestrator.records.events import Event, TrialEnded, TrialReported
from orchestrator.tracking.event_recorder import EventRecorder
from orchestrator.tracking.journal_follower import JournalFollower
from orchestrator.tracking.mlflow_client import open_client
from orchestrator.tracking.stored_checkpoints import refusal
from orchestrator.uris import without_password

_INVALID = (400, 409, 413, 422)


class MlflowWriter(JournalFollower):
    """Follows a journal into MLflow.

    Args:
        journal: The file to follow.
        tracking_uri: Of the server or database.
        experiment: Name of the experiment; made when absent.
        artifacts: Folder for artifacts when the URI is a database rather than a server.
    """

    def __init__(self, journal: Path, *, tracking_uri: str, experiment: str, artifacts: Path) -> None:
        database, runs_dir = sqlite_file(tracking_uri), journal.resolve().parents[1]
        # Both move together, and the bookmark holds at the new place.
        is_beside = database is not None and database.is_relative_to(runs_dir)
        place = str(database.relative_to(runs_dir)) if database is not None and is_beside else None
        super().__init__(journal, without_password(tracking_uri), place)
        self.tracking_uri = tracking_uri
        self._experiment = experiment
        self._artifacts = artifacts
        self._recorder: EventRecorder | None = None

    @property
    def public_uri(self) -> str:
        """The tracking URI without a password."""
        return self._target

    @property
    def sweep_run_id(self) -> str | None:
        """Id of the parent run, once it exists."""
        return self._recorder.runs.get("sweep") if self._recorder else None

    def run_id(self, trial: int) -> str | None:
        """Id of a trial's run, once it exists."""
        return self._recorder.runs.get(f"trial-{trial}") if self._recorder else None

    def _connect(self) -> None:
        self._recorder = EventRecorder(
            open_client(self.tracking_uri),
            experiment=self._experiment,
            tracking_uri=self.tracking_uri,
            artifacts=self._artifacts,
            folder=self._journal.parent,
        )

    @property
    def _outside(self) -> Collection[str]:
        return self._recorder.outside if self._recorder else ()

    def _recall(self, memory: Mapping[str, Any]) -> bool:
        return self._connected().recall(memory)

    def _remember(self) -> Mapping[str, Any]:
        return self._connected().remember()

    def _take(self, events: Sequence[Event]) -> None:
        """Replays events in their order, but for reports, which wait for others of their trial up to its end."""
        recorder = self._connected()
        reports: dict[int, list[TrialReported]] = {}
        try:
            for event in events:
                if isinstance(event, TrialReported):
                    reports.setdefault(event.trial, []).append(event)
                    continue
                if isinstance(event, TrialEnded):
                    self._take_reports(recorder, reports.pop(event.trial, []))
                self._take_or_refuse(recorder, event)
            for waiting in reports.values():
                self._take_reports(recorder, waiting)
        except Exception:
            recorder.doubt()
            raise

    def _take_reports(self, recorder: EventRecorder, reports: Sequence[TrialReported]) -> None:
        """Sends the reports of a trial together, or one by one where the server finds fault with any."""
        try:
            recorder.record_reports(reports)
        except MlflowException as error:
            if error.get_http_status_code() not in _INVALID:
                raise
            for report in reports:
                self._take_or_refuse(recorder, report)

    def _take_or_refuse(self, recorder: EventRecorder, event: Event) -> None:
        """Replays an event; one that the server calls invalid is noted and left out, for it would block all others."""
        try:
            fault = recorder.record(event)
        except Exception as error:
            if refusal(error) not in _INVALID:
                raise
            fault = str(error)
        if fault:
            self.refused.append(f"{event.event}: {fault}")

    def _connected(self) -> EventRecorder:
        if self._recorder is None:
            self._connect()
        assert self._recorder is not None
        return self._recorder
