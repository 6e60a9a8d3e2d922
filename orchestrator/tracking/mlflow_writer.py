"""Sender of the journal to MLflow.

The reports of a trial within a batch are sent in one request. A batch is repeated until the server has accepted it:
that is harmless, since metrics have the journal's times, and existing runs are looked up before one is created.
MLflow is imported on the sender's thread, after the first trial has begun to train.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.files.sqlite_files import sqlite_file
from orchestrator.records.events import Event, TrialEnded, TrialPaused, TrialProgressed, TrialReported
from orchestrator.tracking.journal_follower import JournalFollower
from orchestrator.tracking.mlflow_client import open_client, silence_mlflow
from orchestrator.uris import without_password

if TYPE_CHECKING:
    from orchestrator.tracking.event_recorder import EventRecorder

_INVALID = (400, 409, 413, 422)


class MlflowWriter(JournalFollower):
    """Sender of a journal to MLflow, on the thread "mlflow-writer" of the driver.

    Args:
        journal: Path of the journal.
        tracking_uri: Address of the server or database.
        experiment: Name of the experiment, which is created where it is absent.
        artifacts: Folder for artifacts where the address is a database.
    """

    def __init__(self, journal: Path, *, tracking_uri: str, experiment: str, artifacts: Path) -> None:
        database, runs_dir = sqlite_file(tracking_uri), journal.resolve().parents[1]
        # Both are moved together, and the bookmark stays valid.
        is_inside = database is not None and database.is_relative_to(runs_dir)
        bookmark_target = str(database.relative_to(runs_dir)) if database is not None and is_inside else None
        super().__init__(journal, without_password(tracking_uri), bookmark_target)
        self.tracking_uri = tracking_uri
        self._experiment = experiment
        self._artifacts = artifacts
        self._recorder: EventRecorder | None = None

    @property
    def public_uri(self) -> str:
        """Tracking URI without a password."""
        return self._target

    @property
    def sweep_run_id(self) -> str | None:
        """Id of the parent run; None until it exists."""
        return self._recorder.runs.get("sweep") if self._recorder else None

    def run_id(self, trial: int) -> str | None:
        """Return the id of a trial's run; None until it exists."""
        return self._recorder.runs.get(f"trial-{trial}") if self._recorder else None

    def _connect(self) -> None:
        from orchestrator.tracking.event_recorder import EventRecorder

        silence_mlflow()  # again: its import sets the levels of its loggers
        self._recorder = EventRecorder(
            open_client(self.tracking_uri, patient=True),
            experiment=self._experiment,
            tracking_uri=self.tracking_uri,
            artifacts=self._artifacts,
            folder=self._journal.parent,
        )

    @property
    def _outside_files(self) -> Collection[str]:
        return self._recorder.outside_files if self._recorder else ()

    def _restore(self, stored: Mapping[str, Any]) -> bool:
        return self._connected().restore(stored)

    def _take_snapshot(self) -> Mapping[str, Any]:
        return self._connected().snapshot()

    def _send(self, events: Sequence[Event]) -> None:
        """Send events in order; reports and progress are collected up to the end or the pause of their trial.

        Returns early once the sender is abandoned.
        """
        recorder = self._connected()
        reports: dict[int, list[TrialReported | TrialProgressed]] = {}
        try:
            for event in events:
                if self._abandoned.is_set():
                    return
                if isinstance(event, TrialReported | TrialProgressed):
                    reports.setdefault(event.trial, []).append(event)
                    continue
                if isinstance(event, (TrialEnded, TrialPaused)):
                    self._send_reports(recorder, reports.pop(event.trial, []))
                self._send_or_refuse(recorder, event)
            for waiting in reports.values():
                if self._abandoned.is_set():
                    return
                self._send_reports(recorder, waiting)
        except Exception:
            recorder.invalidate_known_runs()
            raise

    def _send_reports(self, recorder: EventRecorder, reports: Sequence[TrialReported | TrialProgressed]) -> None:
        """Send the reports of a trial together, or one by one where the server calls any invalid."""
        from mlflow.exceptions import MlflowException

        try:
            recorder.record_reports(reports)
        except MlflowException as error:
            if error.get_http_status_code() not in _INVALID:
                raise
            for report in reports:
                self._send_or_refuse(recorder, report)

    def _send_or_refuse(self, recorder: EventRecorder, event: Event) -> None:
        """Send an event; one that the server calls invalid is noted and skipped, since it would block the others."""
        from orchestrator.tracking.stored_checkpoints import client_error_status

        try:
            fault = recorder.record(event)
        except Exception as error:
            if client_error_status(error) not in _INVALID:
                raise
            fault = str(error)
        if fault:
            self.refused.append(f"{event.event}: {fault}")

    def _connected(self) -> EventRecorder:
        if self._recorder is None:
            self._connect()
        assert self._recorder is not None
        return self._recorder
