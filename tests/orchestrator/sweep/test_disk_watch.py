"""Driver of a sweep whose storage is full: warning, and tables that are not written."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.results.stored_sweep import load_result
from orchestrator.sweep import disk_watch
from orchestrator.sweep.disk_watch import DiskWatch
from orchestrator.sweep.finalize import _write_tables
from tests.support.sweeps.fake_sweeps import write_sweep

MB = 2**20


def test_a_full_disk_is_reported_once_and_its_end_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = [(TrialStatus.FINISHED, [0.5]), (TrialStatus.RUNNING, [0.5])]
    folder = SweepFolder(write_sweep(tmp_path, "s", trials, ended=None))
    for number, size in ((0, 9 * MB), (1, 3 * MB)):
        checkpoint = folder.trials / f"trial-{number:05d}" / "last.pt"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.write_bytes(b"\0" * size)
    usage, said = shutil.disk_usage(tmp_path), []
    monkeypatch.setattr(disk_watch, "_INTERVAL_S", 0.0)
    with Journal(folder.journal) as journal:
        watch = DiskWatch(folder, Ledger(journal), said.append)
        for free in (4, 2, 1, 4, 4):  # the checkpoint of an ended trial does not count
            monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage._replace(free=free * MB))
            watch.poll()
    assert said == [
        f"{folder.path} has 2.0 MiB left, a checkpoint needs 3.0 MiB: training waits for room, 5 minutes at most; "
        "then the sweep ends. Free some space there",
        "There is room again.",
    ]


def test_a_trial_without_a_checkpoint_needs_room_as_the_last_one_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = SweepFolder(write_sweep(tmp_path, "s", [(TrialStatus.RUNNING, [0.5])], ended=None))
    checkpoint = folder.trials / "trial-00000" / "last.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"\0" * 3 * MB)
    usage, said = shutil.disk_usage(tmp_path), []
    monkeypatch.setattr(disk_watch, "_INTERVAL_S", 0.0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2 * MB))
    with Journal(folder.journal) as journal:
        watch = DiskWatch(folder, Ledger(journal), said.append)
        watch.poll()
        checkpoint.unlink()
        watch.poll()
    assert len(said) == 1


def test_tables_without_room_are_a_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_sweep(tmp_path, "s", [(TrialStatus.FINISHED, [0.5])])
    result = load_result(folder)

    def refuse(_table: object, path: Path) -> None:
        path.write_bytes(b"half a table")
        raise OSError(errno.ENOSPC, "Error writing bytes to file")

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", refuse)
        tables, notice = _write_tables(result)
    assert (tables, "no room for the tables of results" in notice) == ([], True)
    assert not list(folder.glob("*parquet*"))
    assert [path.name for path in _write_tables(result)[0]] == ["trials.parquet", "reports.parquet"]
