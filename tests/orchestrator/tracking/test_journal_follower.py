"""When the sender of a journal connects."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.records.events import Event
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger
from orchestrator.tracking import journal_follower
from orchestrator.tracking.journal_follower import JournalFollower

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


def test_a_sweep_imports_mlflow_on_the_sender_alone() -> None:
    code = (
        "import sys, orchestrator.sweep.finalize, orchestrator.tracking.mlflow_client; print('mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
