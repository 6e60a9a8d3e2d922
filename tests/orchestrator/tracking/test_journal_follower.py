"""When the sender of a journal connects, and what an abandoned one still does."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import TrackingError
from orchestrator.records.events import Event
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger
from orchestrator.tracking import journal_follower
from orchestrator.tracking.journal_follower import JournalFollower
from tests.support.waiting import wait_for

ROOT = Path(__file__).resolve().parents[3]


class Recorder(JournalFollower):
    """Follower that keeps the names of the events."""

    def __init__(self, journal: Path) -> None:
        super().__init__(journal, "memory")
        self.connected = threading.Event()
        self.names: list[str] = []

    def _connect(self) -> None:
        self.connected.set()

    def _restore(self, stored: Mapping[str, Any]) -> bool:
        return True

    def _take_snapshot(self) -> Mapping[str, Any]:
        return {}

    def _send(self, events: Sequence[Event]) -> None:
        self.names += [event.event for event in events]


class SlowServer:
    """Server that takes each batch only once the test lets it, and notes the sender of every event.

    Args:
        journal: Path of the journal.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self.events: list[tuple[str, str]] = []
        self.requested = threading.Event()
        self.answers = threading.Event()

    def sender(self, name: str) -> SlowSender:
        return SlowSender(self._journal, name, self)


class SlowSender(Recorder):
    """Sender to a slow server, one event a request.

    Args:
        journal: Path of the journal.
        name: Name of the sender.
        server: The server.
    """

    def __init__(self, journal: Path, name: str, server: SlowServer) -> None:
        super().__init__(journal)
        self.name, self.server = name, server

    def _take_snapshot(self) -> Mapping[str, Any]:
        return {"by": self.name}

    def _send(self, events: Sequence[Event]) -> None:
        self.server.requested.set()
        assert self.server.answers.wait(200)
        self.server.events += [(self.name, event.event) for event in events]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(Journal(tmp_path / "journal.jsonl"))
    ledger.sweep_started("s", {"name": "s"}, {}, {})
    ledger.trial_started(0, "t0", {}, {"number": 0})
    ledger.trial_reported(0, 1, {"val/top1": 0.5})  # of an earlier session
    return ledger


def test_it_connects_after_the_first_report_of_a_session(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_follower, "_LONGEST_WAIT_S", 3600.0)
    monkeypatch.setattr(journal_follower, "_WAITING_POLL_S", 0.01)
    recorder = Recorder(tmp_path / "journal.jsonl")
    recorder.start(after_report=True)
    ledger.trial_started(1, "t1", {}, {"number": 1})
    time.sleep(0.2)
    assert not recorder.connected.is_set()
    ledger.trial_reported(1, 1, {"val/top1": 0.5})
    assert recorder.connected.wait(200)
    recorder.drain(200)
    assert recorder.names == ["sweep_started", *["trial_started", "trial_reported"] * 2]


def test_a_journal_that_cannot_be_read_for_a_moment_is_sent_all_the_same(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails_once(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == "journal.jsonl" and not failed:
            failed.append(path)
            raise OSError(24, "Too many open files")
        return opened(path, *arguments, **options)

    failed: list[Path] = []
    opened = Path.open
    recorder = Recorder(tmp_path / "journal.jsonl")
    monkeypatch.setattr(Path, "open", fails_once)
    recorder.start(after_report=True)
    assert recorder.connected.wait(200)
    recorder.drain(200)
    assert failed
    assert recorder.names == ["sweep_started", "trial_started", "trial_reported"]


@pytest.mark.parametrize("reason", ["the end of the sweep", "a wait that was too long"])
def test_it_does_not_need_a_report(
    ledger: Ledger, tmp_path: Path, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_follower, "_LONGEST_WAIT_S", 3600.0 if "end" in reason else 0.1)
    recorder = Recorder(tmp_path / "journal.jsonl")
    recorder.start(after_report=True)
    if "long" in reason:
        assert recorder.connected.wait(200)
    recorder.drain(200)
    assert recorder.names == ["sweep_started", "trial_started", "trial_reported"]


@pytest.fixture
def slow_server(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlowServer:
    monkeypatch.setattr(journal_follower, "_EVENTS_PER_BATCH", 1)
    monkeypatch.setattr(journal_follower, "_LAST_REQUEST_S", 0.1)
    return SlowServer(tmp_path / "journal.jsonl")


def test_after_a_timeout_no_further_event_is_sent_and_the_bookmark_stays(
    slow_server: SlowServer, tmp_path: Path
) -> None:
    sender = slow_server.sender("first")
    sender.start()
    assert slow_server.requested.wait(200)
    with pytest.raises(TrackingError, match=r"^3 events did not reach MLflow"):
        sender.drain(0.1)
    slow_server.answers.set()
    sender._thread.join(200)
    assert not sender._thread.is_alive()
    assert slow_server.events == [("first", "sweep_started")]
    assert not (tmp_path / "tracked.json").exists()


def test_the_next_session_waits_for_the_request_under_way(slow_server: SlowServer, tmp_path: Path) -> None:
    first, second, third = map(slow_server.sender, ("first", "second", "third"))
    first.start()
    assert slow_server.requested.wait(200)
    with pytest.raises(TrackingError, match="events did not reach"):
        first.drain(0.1)
    second.start()
    wait_for(lambda: second.failure)
    with pytest.raises(TrackingError, match=r"\(a request of the session before is still under way\)"):
        second.drain(0.1)
    third.start()
    wait_for(lambda: third.failure)
    assert not second.connected.is_set()
    assert not third.connected.is_set()
    slow_server.answers.set()
    third.drain(200)
    assert slow_server.events == [
        ("first", "sweep_started"),
        *(("third", event) for event in ("sweep_started", "trial_started", "trial_reported")),
    ]
    assert '"by": "third"' in (tmp_path / "tracked.json").read_text()


def test_a_sender_of_another_sweep_waits_for_nobody(slow_server: SlowServer, ledger: Ledger, tmp_path: Path) -> None:
    first = slow_server.sender("first")
    first.start()
    assert slow_server.requested.wait(200)
    other = tmp_path / "other" / "journal.jsonl"
    Ledger(Journal(other)).sweep_started("other", {"name": "other"}, {}, {})
    recorder = Recorder(other)
    recorder.start()
    recorder.drain(200)
    assert recorder.names == ["sweep_started"]
    slow_server.answers.set()
    first.drain(200)


def test_a_sweep_imports_mlflow_on_the_sender_alone() -> None:
    code = (
        "import sys, orchestrator.sweep.finalize, orchestrator.tracking.mlflow_client; print('mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
