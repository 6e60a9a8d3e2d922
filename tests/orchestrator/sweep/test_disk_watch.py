"""Warning of the driver when the storage of its sweep has no room for a checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.sweep import disk_watch
from orchestrator.sweep.disk_watch import DiskWatch
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
        f"{folder.path} has 2.0 MB left, a checkpoint needs 3.0 MB: training waits for room, 5 minutes at most; "
        "then the sweep ends. Free some space there",
        "There is room again.",
    ]
