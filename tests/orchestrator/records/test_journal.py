"""Journal on disk, and the ledger reduced from it."""

from __future__ import annotations

import errno
import json
import math
import os
import threading
import time
from pathlib import Path

import pytest

from orchestrator import disk_space as full_disk
from orchestrator.errors import StorageFullError
from orchestrator.records.events import Event, TrialReported
from orchestrator.records.history import read_history
from orchestrator.records.journal import Journal, read_events
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.records.lines import seal
from tests.support.journal_events import an_event, write_sealed
from tests.support.sweeps.tracked_sweep import REASON, tell


def report(number: int, **metrics: float) -> Event:
    return an_event("trial_reported", 1.5, trial=number, metrics=metrics or {"loss": 0.5})


def numbers(path: Path) -> list[int]:
    return [event.trial for event, _ in read_events(path) if isinstance(event, TrialReported)]


def test_written_events_are_read_back(tmp_path: Path) -> None:
    config = {"text": "\u00fc\n", "values": [1, 2.5, None, True], "number": "1"}
    events = [
        an_event(
            "trial_started", 1.0, trial=0, params={"a": 1, "b": 0.1, "c": "1", "d": True, "e": None}, config=config
        ),
        report(0, loss=math.inf, other=-math.inf),
        an_event("trial_ended", 3.25, trial=0, status="failed", reason="\u00fc", cost={"held_s": 0.1}, best={}),
    ]
    with Journal(tmp_path / "deep" / "journal.jsonl") as journal:
        for event in events:
            journal.append(event)
        read = list(read_events(journal.path))
    assert [event for event, _ in read] == events
    assert read[-1][1] == journal.path.stat().st_size
    assert list(read_events(journal.path, read[0][1])) == read[1:]
    assert list(read_events(journal.path, read[2][1])) == []
    lines = [json.loads(line) for line in journal.path.read_text().splitlines()]  # as `jq` reads them
    assert [(line["event"], line["line"]) for line in lines] == [
        ("trial_started", 1),
        ("trial_reported", 2),
        ("trial_ended", 3),
    ]


def test_characters_that_utf8_cannot_encode_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append(an_event("budget_spent", reason="caf\udce9 \U0001f600"))
    assert [event.reason for event, _ in read_events(path)] == ["caf? \U0001f600"]


def test_the_time_to_read_a_journal_grows_with_its_events_and_no_faster(tmp_path: Path) -> None:
    metrics = {f"metric/{index}": index / 7 for index in range(12)}

    def seconds(epochs: int) -> float:
        events: list[Event] = [an_event("sweep_started"), an_event("trial_started", trial=0)]
        events += [an_event("trial_reported", n, trial=0, epoch=n + 1, metrics=metrics) for n in range(epochs)]
        write_sealed(tmp_path / "journal.jsonl", events)
        began = time.process_time()
        assert read_history(tmp_path / "journal.jsonl").trials[0].epochs == epochs
        return time.process_time() - began

    seconds(1_500)
    assert seconds(30_000) < 5 * 20 * seconds(1_500)


def test_an_event_is_on_disk_when_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.append(report(0))
        assert synced == [journal.path.stat().st_size] != [0]


def test_append_retries_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync, full = os.fsync, [True, True, False]

    def refuse_at_first(descriptor: int) -> None:
        if full.pop(0):
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(full_disk, "_PAUSE_S", 0.01)
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.append(report(0))
        monkeypatch.setattr(os, "fsync", refuse_at_first)
        journal.append(report(1))
        monkeypatch.setattr(full_disk, "PATIENCE_S", 0.0)
        full[:] = [True, True]
        with pytest.raises(StorageFullError, match=r"journal\.jsonl: No space left"):
            journal.append(report(2))
        monkeypatch.setattr(full_disk, "PATIENCE_S", 300.0)
        full[:] = [True]
        with pytest.raises(StorageFullError, match=r"journal\.jsonl: No space left"):
            journal.append(report(2))  # it has waited before
        full[:] = [False]
        journal.append(report(3))
    assert numbers(journal.path) == [0, 1, 3]


def test_an_incomplete_last_line_is_not_read(tmp_path: Path) -> None:
    path, whole = tmp_path / "journal.jsonl", seal(report(1), 2)
    path.write_bytes(seal(report(0), 1) + whole[:20])
    ((event, offset),) = read_events(path)
    assert event == report(0)
    with path.open("ab") as file:
        file.write(whole[20:])
    assert [later for later, _ in read_events(path, offset)] == [report(1)]


def test_a_reopened_journal_resumes_after_an_incomplete_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append(report(0))
    with path.open("ab") as file:
        file.write(seal(report(7), 2)[:-5])
    with Journal(path) as journal:
        journal.append(report(1))
    assert numbers(path) == [0, 1]


def test_threads_never_mix_their_lines(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.jsonl") as journal:

        def write(who: int) -> None:
            for number in range(25):
                journal.append(an_event("trial_reported", trial=who, epoch=number + 1, metrics={"x" * 500: 1.0}))

        threads = [threading.Thread(target=write, args=(who,)) for who in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    read = [event for event, _ in read_events(journal.path)]
    for who in range(4):
        assert [event.epoch for event in read if event.trial == who] == list(range(1, 26))


def test_append_to_a_closed_journal_raises(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.close()
    with pytest.raises(ValueError, match="closed"):
        journal.append(report(0))


def test_a_reopened_ledger_has_the_state_of_its_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    tell(path)
    trials = read_history(path).trials
    assert [trials[number].status.value for number in range(4)] == ["finished", "pruned", "failed", "interrupted"]
    first = trials[0]
    assert first.reports == [
        {"epoch": 1, "val/top1": 0.4, "lr": 0.1, "train/loss": 1.0},
        {"epoch": 2, "val/top1": 0.8, "lr": 0.1, "train/loss": 0.5},
    ]
    assert (first.epochs, first.best("val/top1", "max"), first.best("train/loss", "min")) == (2, 0.8, 0.5)
    assert first.best("val/loss", "min") is None
    assert (first.tune_id, first.params["lr"], first.test) == ("tune0", 0.5, {})
    assert trials[2].reason == REASON
    assert all(trial.ended_s is not None and trial.ended_s >= trial.started_s for trial in trials.values())


def test_running_trials_are_listed_and_the_first_end_is_kept(tmp_path: Path) -> None:
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
    assert sum(event.event == "trial_ended" for event, _ in read_events(journal.path)) == 1
