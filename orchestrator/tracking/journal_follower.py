"""Thread that sends the journal to a target at the target's pace: training never waits for it.

Events are sent in batches; a batch is repeated until the target has it, in smaller batches after a failure. A bookmark
next to the journal stores the position, so that a later session of the sweep, or `spatialsweep sync`, resumes there.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from orchestrator.errors import JournalError, TrackingError
from orchestrator.files.atomic_files import atomic_file
from orchestrator.records.events import Event
from orchestrator.records.journal import read_events
from orchestrator.tracking.lasting_faults import lasting_fault

logger = logging.getLogger(__name__)

_EVENTS_PER_BATCH = 500
_POLL_S = 1.0
_RETRY_S = 2.0
_LONGEST_WAIT_S = 5.0
_WAITING_POLL_S = 0.1
_LAST_REQUEST_S = 5.0
_REPORT = b'"trial_reported"'
_SENDERS: WeakValueDictionary[Path, threading.Thread] = WeakValueDictionary()
"""Newest sender of each journal in this process, which the next one waits for."""


class JournalFollower(ABC):
    """Sender of a journal, on the thread "mlflow-writer".

    The driver's main thread calls `start` and `drain`; the methods of subclasses run on the sender's thread. A sender
    waits until an earlier one of the same journal in this process has ended: each knows only the runs it has looked up
    itself, so that two at once would create runs twice.

    Args:
        journal: Path of the journal.
        target: Name of the target in errors, without a password.
        bookmark_target: Name of the target in the bookmark; None takes `target`.

    Attributes:
        failure: Last error, temporary or not.
        fault: Description and remedy of the current permanent fault; None without one.
        refused: Events that the target calls invalid, with its reasons.
        events_sent: Number of events sent by this follower.
    """

    def __init__(self, journal: Path, target: str, bookmark_target: str | None = None) -> None:
        self._journal = journal
        self._target = target
        self._bookmark_target = bookmark_target or target
        self._bookmark = journal.with_name("tracked.json")
        self._stored_snapshot: Mapping[str, Any] | None = None
        self._done_bytes = 0
        self._stop = threading.Event()
        self._abandoned = threading.Event()  # nothing more may be sent: the folder may be another driver's
        self._first_byte: int | None = None
        self._predecessor: threading.Thread | None = None
        self._thread = threading.Thread(target=self._run, name="mlflow-writer", daemon=True)
        self.failure: Exception | None = None
        self.fault: str | None = None
        self._logged = ""
        self.refused: list[str] = []
        self.events_sent = 0
        self._read_bookmark()

    def start(self, *, after_report: bool = False) -> None:
        """Start the thread; returns at once.

        Args:
            after_report: Whether it connects only after the first report of a trial, or 5 s: importing the client
                would delay the first trial by a second.
        """
        if after_report:
            self._first_byte = self._journal.stat().st_size
        journal = self._journal.resolve()
        self._predecessor = _SENDERS.get(journal)
        _SENDERS[journal] = self._thread
        self._thread.start()

    def drain(self, timeout_s: float) -> None:
        """Wait until every event has arrived, and end the thread; blocks for at most `timeout_s` and some seconds.

        At the timeout the thread ends after the request under way, for which the seconds are; it sends nothing later.

        Args:
            timeout_s: Timeout in seconds.

        Raises:
            TrackingError: Events are left at the timeout or after a permanent fault, and stay in the journal; or the
                target refused events; or files outside of the sweep's folder were not sent.
        """
        self._stop.set()
        self._thread.join(timeout_s)
        self._abandoned.set()
        self._thread.join(_LAST_REQUEST_S)
        try:
            left = sum(1 for _ in read_events(self._journal, self._done_bytes))
        except JournalError as error:
            raise TrackingError(f"MLflow at {self._target} lacks what follows: {error}") from error
        if left:
            cause = f" ({self.fault or self.failure})" if self.failure else ""
            raise TrackingError(
                f"{left} events did not reach MLflow at {self._target}{cause}. They are kept in {self._journal}; "
                f"`spatialsweep sync {self._journal.parent.name}` sends them."
            )
        if self.refused:
            raise TrackingError(
                f"MLflow refused {len(self.refused)} events, the first with: {self.refused[0]}. "
                f"They are kept in {self._journal}."
            )
        if self._outside_files:
            raise TrackingError(
                f"{len(self._outside_files)} file(s) that {self._journal} names lie outside of {self._journal.parent} "
                f"and were not sent to MLflow, such as {min(self._outside_files)}. All else was"
            )

    @property
    def _outside_files(self) -> Collection[str]:
        """Files that the journal names outside of the sweep's folder."""
        return ()

    @abstractmethod
    def _connect(self) -> None:
        """Connect to the target; after any error the connection is retried."""

    @abstractmethod
    def _restore(self, stored: Mapping[str, Any]) -> bool:
        """Resume from the snapshot of an earlier session; False where the target has no record of that session."""

    @abstractmethod
    def _take_snapshot(self) -> Mapping[str, Any]:
        """Return what a later session needs to resume at the bookmark."""

    @abstractmethod
    def _send(self, events: Sequence[Event]) -> None:
        """Send a batch; after any error all of it is sent again. Stops between two requests once it is abandoned."""

    def _run(self) -> None:
        self._wait_for_predecessor()
        if self._first_byte is not None:
            try:
                self._wait_for_report(self._first_byte)
            except OSError as error:  # where it lasts, `_follow` meets it as well, and tries again
                logger.debug("The journal cannot be read before the first report: %s", error)
        self._follow()

    def _wait_for_predecessor(self) -> None:
        """Wait for an earlier sender's last request, also when abandoned: the next sender waits for this one alone."""
        if self._predecessor is None or not self._predecessor.is_alive():
            return
        self.failure = TrackingError("a request of the session before is still under way")
        self._predecessor.join()
        self.failure = None
        self._read_bookmark()

    def _wait_for_report(self, offset: int) -> None:
        """Wait until the journal holds a report after an offset, until `drain`, or for some seconds."""
        end = time.monotonic() + _LONGEST_WAIT_S
        with self._journal.open("rb") as file:
            file.seek(offset)
            while time.monotonic() < end and not self._stop.wait(_WAITING_POLL_S):
                if _REPORT in file.read():  # an event is written at once, so that it is not cut
                    return

    def _follow(self) -> None:
        connected, at_once = False, _EVENTS_PER_BATCH
        while not self._abandoned.is_set():
            stopping = self._stop.is_set()
            try:
                if not connected:
                    self._connect()
                    if self._stored_snapshot is not None and not self._restore(self._stored_snapshot):
                        self._done_bytes = 0
                    connected = True
                while batch := self._next_batch(at_once):
                    self._send([event for event, _ in batch])
                    if self._abandoned.is_set():  # events may be left, and the bookmark may be another driver's
                        return
                    self.events_sent += len(batch)
                    self._done_bytes = batch[-1][1]
                    self._write_bookmark()
                    at_once = min(2 * at_once, _EVENTS_PER_BATCH)
            except Exception as error:  # for any error, the journal keeps the events and the next round repeats them
                self._record_failure(error)
                if self.fault and stopping and (not connected or at_once == 1):
                    return
                at_once = max(1, at_once // 4)
                if not (self.fault and self._stop.is_set()) and self._abandoned.wait(_RETRY_S):
                    return
                continue
            self.fault, self._logged = None, ""
            if stopping:
                return
            self._stop.wait(_POLL_S)

    def _next_batch(self, most: int) -> list[tuple[Event, int]]:
        """Return the next events with the offsets after them; none once the sender is abandoned."""
        return [] if self._abandoned.is_set() else list(islice(read_events(self._journal, self._done_bytes), most))

    def _record_failure(self, error: Exception) -> None:
        """Record a failure for `drain`, and log it once: it may last for as long as the sweep."""
        self.failure, self.fault = error, lasting_fault(error)
        text = self.fault or str(error)
        if text != self._logged:
            logger.warning("MLflow at %s does not take an event: %s", self._target, text)
        self._logged = text

    def _write_bookmark(self) -> None:
        content = {"target": self._bookmark_target, "bytes": self._done_bytes, "memory": self._take_snapshot()}
        with atomic_file(self._bookmark) as partial:
            partial.write_text(json.dumps(content), encoding="utf-8")

    def _read_bookmark(self) -> None:
        """Read the bookmark; one that is damaged or of another target is ignored, since a replay changes nothing."""
        try:
            content = json.loads(self._bookmark.read_text(encoding="utf-8"))
            if content["target"] == self._bookmark_target:
                self._require_line(content["bytes"])
                self._done_bytes, self._stored_snapshot = content["bytes"], content["memory"]
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            logger.warning("%s cannot be read; the journal is replayed from its start", self._bookmark)

    def _require_line(self, offset: Any) -> None:
        """Check that a line begins at an offset of the journal.

        Args:
            offset: Offset in bytes, from the bookmark.

        Raises:
            ValueError: None does, as after the journal was replaced.
        """
        if type(offset) is not int or offset < 0:
            raise ValueError(f"{offset!r} is no offset")
        with self._journal.open("rb") as file:
            if offset > 0 and (file.seek(offset - 1), file.read(1))[1] != b"\n":
                raise ValueError(f"no line begins at byte {offset}")
