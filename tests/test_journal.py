"""The journal on disk, and the ledger that is folded from it."""

from __future__ import annotations

import errno
import math
import os
import threading
from pathlib import Path

import pytest
from tracked_sweep import REASON, tell

from orchestrator import full_disk
from orchestrator.ledger import Ledger, TrialRecord, TrialStatus, fold
from orchestrator.records.journal import Journal, read_events


def test_events_are_read_as_they_were_written(tmp_path: Path) -> None:
    events = [{"event": "a", "text": "ü\n", "values": [1, 2.5, None, True]}, {"event": "b", "loss": math.inf}]
    with Journal(tmp_path / "deep" / "journal.jsonl") as journal:
        for event in events:
            journal.append(event)
        read = list(read_events(journal.path))
    assert [event for event, _ in read] == events
    assert read[-1][1] == journal.path.stat().st_size
    assert list(read_events(journal.path, read[0][1])) == read[1:]
    assert list(read_events(journal.path, read[1][1])) == []


def test_an_event_is_on_disk_when_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.append({"event": "a"})
        assert synced == [journal.path.stat().st_size] != [0]


def test_a_full_disk_is_waited_for_and_leaves_no_half_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync, full = os.fsync, [True, True, False]

    def refuse_at_first(descriptor: int) -> None:
        if full.pop(0):
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(full_disk, "_PAUSE_S", 0.01)
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.append({"event": "a"})
        monkeypatch.setattr(os, "fsync", refuse_at_first)
        journal.append({"event": "b"})
        monkeypatch.setattr(full_disk, "PATIENCE_S", 0.0)
        full[:] = [True, True]
        with pytest.raises(OSError, match="No space left"):
            journal.append({"event": "c"})
    assert [event["event"] for event, _ in read_events(journal.path)] == ["a", "b"]


def test_a_half_written_last_line_is_left_for_later(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"event": "a"}\n{"event": "b')
    ((event, offset),) = read_events(path)
    assert event == {"event": "a"}
    with path.open("ab") as file:
        file.write(b'"}\n')
    assert [later for later, _ in read_events(path, offset)] == [{"event": "b"}]


def test_a_reopened_journal_goes_on_after_a_line_that_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append({"event": "a"})
    with path.open("ab") as file:
        file.write(b'{"event": "cut')
    with Journal(path) as journal:
        journal.append({"event": "b"})
    assert [event for event, _ in read_events(path)] == [{"event": "a"}, {"event": "b"}]


def test_threads_never_mix_their_lines(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.jsonl") as journal:

        def write(who: int) -> None:
            for number in range(25):
                journal.append({"who": who, "number": number, "padding": "x" * 500})

        threads = [threading.Thread(target=write, args=(who,)) for who in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    read = [event for event, _ in read_events(journal.path)]
    for who in range(4):
        assert [event["number"] for event in read if event["who"] == who] == list(range(25))


def test_a_closed_journal_takes_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.close()
    with pytest.raises(ValueError, match="closed"):
        journal.append({"event": "late"})


def test_a_ledger_is_what_its_journal_says(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    tell(path)
    trials: dict[int, TrialRecord] = {}
    for event, _ in read_events(path):
        fold(trials, event)
    assert [trials[number].status.value for number in range(4)] == ["finished", "pruned", "failed", "interrupted"]
    first = trials[0]
    assert first.reports == [
        {"epoch": 1, "val/top1": 0.4, "lr": 0.1, "train/loss": 1.0},
        {"epoch": 2, "val/top1": 0.8, "lr": 0.1, "train/loss": 0.5},
    ]
    assert (first.epochs, first.best("val/top1", "max"), first.best("train/loss", "min")) == (2, 0.8, 0.5)
    assert first.best("val/loss", "min") is None
    assert (first.tune_id, first.params["lr"], first.test_top1) == ("tune0", 0.5, None)
    assert trials[2].reason == REASON
    assert all(trial.ended_s is not None and trial.ended_s >= trial.started_s for trial in trials.values())


def test_a_ledger_shows_what_runs_and_keeps_the_first_end(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.jsonl") as journal:
        ledger = Ledger(journal)
        ledger.trial_started(1, "t1", {}, {})
        ledger.trial_started(0, "t0", {}, {})
        assert [trial.number for trial in ledger.running()] == [0, 1]
        ledger.trial_ended(0, TrialStatus.PRUNED)
        ledger.trial_ended(0, TrialStatus.INTERRUPTED, "too late")
        assert [trial.number for trial in ledger.running()] == [1]
        assert [(trial.status, trial.reason) for trial in ledger.trials()] == [
            (TrialStatus.PRUNED, ""),
            (TrialStatus.RUNNING, ""),
        ]
    assert sum(event["event"] == "trial_ended" for event, _ in read_events(journal.path)) == 1
