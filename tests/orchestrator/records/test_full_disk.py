"""Journal and ledger on a disk that is full: who waits for room, and for how long."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator import disk_space
from orchestrator.errors import StorageFullError
from orchestrator.records.events import TrialEnded
from orchestrator.records.journal import Journal, read_events
from orchestrator.records.ledger import Ledger, TrialStatus
from tests.support.waiting import wait_for


class Disk:
    """Quota that is used up while `is_full`, which each refused event is counted by."""

    def __init__(self) -> None:
        self.is_full, self.refused, self._fsync = False, 0, os.fsync

    def fsync(self, descriptor: int) -> None:
        if self.is_full:
            self.refused += 1
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        self._fsync(descriptor)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(os, "fsync", disk.fsync)
    monkeypatch.setattr(disk_space, "_PAUSE_S", 0.01)
    return disk


@pytest.fixture
def urgent() -> threading.Event:
    return threading.Event()


@pytest.fixture
def ledger(tmp_path: Path, disk: Disk, urgent: threading.Event) -> Iterator[Ledger]:
    with Journal(tmp_path / "journal.jsonl", gives_up=urgent.is_set) as journal:
        ledger = Ledger(journal)
        ledger.sweep_started("s", {"name": "s"}, {}, {})
        ledger.trial_started(0, "t0", {}, {"number": 0})
        yield ledger


class Waiting:
    """Thread that records an event, and keeps the error."""

    def __init__(self, disk: Disk, record: Callable[[], None]) -> None:
        self.error: Exception | None = None
        self._record = record
        self._thread = threading.Thread(target=self._run, daemon=True)
        disk.is_full, before = True, disk.refused
        self._thread.start()
        wait_for(lambda: disk.refused > before)

    def join(self) -> None:
        self._thread.join(200)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._record()
        except StorageFullError as error:
            self.error = error


def test_queries_answer_while_an_event_waits_for_room(ledger: Ledger, disk: Disk) -> None:
    waiting = Waiting(disk, lambda: ledger.trial_reported(0, 1, {"val/top1": 0.5}))
    assert [trial.epochs for trial in ledger.running()] == [0]
    assert (ledger.trial(0).reports, ledger.count_ended(), ledger.totals().epochs) == ([], 0, 0)
    disk.is_full = False
    waiting.join()
    assert (waiting.error, ledger.trial(0).epochs, ledger.totals().epochs) == (None, 1, 1)


def test_a_wait_ends_where_the_user_ends_the_sweep_at_once(ledger: Ledger, disk: Disk, urgent: threading.Event) -> None:
    waiting = Waiting(disk, lambda: ledger.trial_reported(0, 1, {"val/top1": 0.5}))
    urgent.set()
    waiting.join()
    assert str(waiting.error).startswith("the disk is full: ")
    assert str(waiting.error).endswith("journal.jsonl: Disk quota exceeded")
    with pytest.raises(StorageFullError):
        ledger.trial_ended(0, TrialStatus.INTERRUPTED)
    disk.is_full = False
    ledger.trial_ended(0, TrialStatus.INTERRUPTED)
    assert ledger.trial(0).status is TrialStatus.INTERRUPTED


def test_progress_does_not_wait_for_room_and_ends_no_other_wait(ledger: Ledger, disk: Disk, tmp_path: Path) -> None:
    disk.is_full = True
    ledger.trial_progressed(0, 1, 10, {"train_loss": 1.0})
    waiting = Waiting(disk, lambda: ledger.trial_reported(0, 1, {"val/top1": 0.5}))
    ledger.trial_progressed(0, 1, 20, {"train_loss": 1.0})
    disk.is_full = False
    waiting.join()
    assert waiting.error is None
    ledger.trial_progressed(0, 2, 30, {"train_loss": 1.0})
    events = [event.event for event, _ in read_events(tmp_path / "journal.jsonl")]
    assert events == ["sweep_started", "trial_started", "trial_reported", "trial_progressed"]


def test_events_of_several_threads_are_applied_in_the_order_of_the_journal(ledger: Ledger, tmp_path: Path) -> None:
    def trials(first: int) -> None:
        for number in range(first, first + 25):
            ledger.trial_started(number, f"t{number}", {}, {"number": number})
            ledger.trial_ended(number, TrialStatus.FINISHED)

    threads = [threading.Thread(target=trials, args=(first,)) for first in (100, 200, 300, 400)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = [event for event, _ in read_events(tmp_path / "journal.jsonl")]
    written = [event.trial for event in events if isinstance(event, TrialEnded)]
    assert len(written) == 100
    assert [trial.number for trial in ledger.ended_since(0)] == written
