"""A thread that carries the journal somewhere else, at the other side's pace: training never waits for it.

Events are taken a batch at a time, and a batch is repeated until the other side has it, in smaller pieces where the way
there is bad. A bookmark beside the journal says how far that is, so that a later session of the sweep, or
`spatialsweep sync`, begins there and not at the start.
"""

from __future__ import annotations

import json
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from orchestrator.errors import JournalError, TrackingError
from orchestrator.files.atomic_files import atomic_file
from orchestrator.records.events import Event
from orchestrator.records.journal import read_events
from orchestrator.tracking.lasting_faults import lasting_fault

logger = logging.getLogger(__name__)

_EVENTS_PER_BATCH = 500
_POLL_S = 1.0
_RETRY_S = 2.0


class JournalFollower(ABC):
    """Follows a journal, from a thread of its own.

    Args:
        journal: The file to follow.
        target: What errors call the other side; no password.
        place: What the bookmark calls it; None takes `target`.

    Attributes:
        failure: The last error, whether it passed or not.
        fault: What is wrong and how it is mended, while a fault lasts.
        refused: Events that the other side calls invalid.
        events_sent: Events sent by this follower.
    """

    def __init__(self, journal: Path, target: str, place: str | None = None) -> None:
        self._journal = journal
        self._target = target
        self._place = place or target
        self._bookmark = journal.with_name("tracked.json")
        self._memory: Mapping[str, Any] | None = None
        self._done_bytes = 0
        self._stop = threading.Event()
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="mlflow-writer", daemon=True)
        self.failure: Exception | None = None
        self.fault: str | None = None
        self._said = ""
        self.refused: list[str] = []
        self.events_sent = 0
        self._open_bookmark()

    def start(self) -> None:
        """Starts to follow the journal."""
        self._thread.start()

    def drain(self, timeout_s: float) -> None:
        """Waits until every event has arrived, then ends the thread.

        Raises:
            TrackingError: Events are left when the time is up, or a fault stays that no waiting mends; they stay in
                the journal. Or files were left out that are none of the sweep's.
        """
        self._stop.set()
        self._thread.join(timeout_s)
        self._given_up.set()
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
        if self._outside:
            raise TrackingError(
                f"{len(self._outside)} file(s) that {self._journal} names lie outside of {self._journal.parent} and "
                f"were not sent to MLflow, such as {min(self._outside)}. All else was"
            )

    @property
    def _outside(self) -> Collection[str]:
        """Files that the journal names and that are none of the sweep's."""
        return ()

    @abstractmethod
    def _connect(self) -> None:
        """Reaches the other side; any error means later."""

    @abstractmethod
    def _recall(self, memory: Mapping[str, Any]) -> bool:
        """Takes up what `_remember` said in an earlier session; False when the other side knows nothing of it."""

    @abstractmethod
    def _remember(self) -> Mapping[str, Any]:
        """What a later session needs to go on behind the bookmark."""

    @abstractmethod
    def _take(self, events: Sequence[Event]) -> None:
        """Sends a batch; any error means that all of it is sent again."""

    def _follow(self) -> None:
        connected, at_once = False, _EVENTS_PER_BATCH
        while True:
            stopping = self._stop.is_set()
            try:
                if not connected:
                    self._connect()
                    if self._memory is not None and not self._recall(self._memory):
                        self._done_bytes = 0
                    connected = True
                while batch := list(islice(read_events(self._journal, self._done_bytes), at_once)):
                    self._take([event for event, _ in batch])
                    self.events_sent += len(batch)
                    self._done_bytes = batch[-1][1]
                    self._set_bookmark()
                    at_once = min(2 * at_once, _EVENTS_PER_BATCH)
            except Exception as error:  # whatever it is, the journal keeps the events and the next round repeats them
                self._note(error)
                if self.fault and self._stop.is_set() and (not connected or at_once == 1):
                    return
                at_once = max(1, at_once // 4)
                if not (self.fault and self._stop.is_set()) and self._given_up.wait(_RETRY_S):
                    return
                continue
            self.fault, self._said = None, ""
            if stopping:
                return
            self._stop.wait(_POLL_S)

    def _note(self, error: Exception) -> None:
        """Keep a fault for the end, and say it once: it may last for as long as the sweep."""
        self.failure, self.fault = error, lasting_fault(error)
        text = self.fault or str(error)
        if text != self._said:
            logger.warning("MLflow at %s does not take an event: %s", self._target, text)
        self._said = text

    def _set_bookmark(self) -> None:
        content = {"target": self._place, "bytes": self._done_bytes, "memory": self._remember()}
        with atomic_file(self._bookmark) as partial:
            partial.write_text(json.dumps(content), encoding="utf-8")

    def _open_bookmark(self) -> None:
        """One that is damaged, or of another place, is as good as none: a replay from the start changes nothing."""
        try:
            content = json.loads(self._bookmark.read_text(encoding="utf-8"))
            if content["target"] == self._place:
                self._require_line(content["bytes"])
                self._done_bytes, self._memory = content["bytes"], content["memory"]
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            logger.warning("%s cannot be read; the journal is replayed from its start", self._bookmark)

    def _require_line(self, offset: Any) -> None:
        """Checks that a line begins at an offset of the journal.

        Raises:
            ValueError: None does, as after the journal was written anew.
        """
        if type(offset) is not int or offset < 0:
            raise ValueError(f"{offset!r} is no offset")
        with self._journal.open("rb") as file:
            if offset > 0 and (file.seek(offset - 1), file.read(1))[1] != b"\n":
                raise ValueError(f"no line begins at byte {offset}")
