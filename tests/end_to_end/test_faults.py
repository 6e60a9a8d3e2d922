"""One of each fault of `tools/chaos/faults.py` hits one sweep: nothing is lost but parts of epochs."""

from __future__ import annotations

import errno
import importlib
import os
import re
import signal
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from orchestrator import disk_space, load_result, load_sweep, resume_sweep, run_sweep
from orchestrator.errors import StorageFullError
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import TrialStatus
from tests.orchestrator.notify.test_webhook import receiver
from tests.support.networks.own_file import PacedFile
from tests.support.sweeps import stopped_sweep
from tests.support.sweeps.stopped_sweep import StoppedSweep
from tests.support.tasks.few_scenes import write_scenes

TRIALS, EPOCHS = 2, 12
SCRIPTS = Path(__file__).resolve().parents[2] / "tools" / "chaos"
# A network whose processes see a full disk as long as a file is there, and wait a second for room.
WITH_A_FULL_DISK = """
import shutil
from pathlib import Path

from torch import nn

from orchestrator import disk_space

disk_space.PATIENCE_S, real = 1.0, shutil.disk_usage


def usage(path):
    found = real(path)
    return found._replace(free=0) if Path({full!r}).exists() else found


shutil.disk_usage = usage


def make(num_classes, in_chans):
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_chans, num_classes))
"""


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("faults")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_is_killed_costs_no_trial_and_leaves_nothing(
    faults: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "LATEST_S", 1.0)
    network = {"model": {"name": PacedFile(tmp_path, step_s=0.03).name}}
    with faults.lasting_cluster(cpus=2) as address:
        kinds = ["worker", "controller", "tune", "hub", "driver"]
        outcome = faults.run_sequence(
            kinds, tmp_path, address, seed=0, trials=TRIALS, epochs=EPOCHS, workers=2, **network
        )
    assert_harmless(outcome, faults=5)
    assert outcome.whole_epochs_lost <= 3
    assert_every_epoch_once(tmp_path, "val/top1", trials=TRIALS, epochs=EPOCHS)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_full_disk_ends_a_sweep_and_fails_no_trial(tmp_path: Path) -> None:
    full, network = tmp_path / "full", tmp_path / "net.py"
    network.write_text(WITH_A_FULL_DISK.format(full=str(full)))
    sweep = StoppedSweep(tmp_path, f"{network}:make")
    full.touch()
    code, output = sweep.call_in_new_process("run", str(sweep.file))
    assert code == 1, output
    assert re.search(
        r"spatialsweep: the disk is full: .*best\.pt: needs \d+ MiB, and 0 MiB are free\. Make room", output
    )
    assert f"resume it with `spatialsweep resume stops --runs-dir {sweep.runs_dir}`" in output
    assert [event["status"] for event in sweep.events("trial_ended")] == ["interrupted"]
    full.unlink()
    code, output = sweep.call_in_new_process("resume", "stops")
    assert code == 0, output
    assert stopped_sweep.states(sweep) == {"COMPLETE": stopped_sweep.TRIALS}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sweep_whose_journal_has_no_room_is_ended_by_sigterm_at_once_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, full, refused = StoppedSweep(tmp_path), threading.Event(), threading.Event()
    write = Journal._write

    def write_if_room(journal: Journal, line: bytes) -> None:
        if full.is_set():
            refused.set()
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        write(journal, line)

    def use_up_the_quota() -> None:
        sweep.wait_for_epochs(1)
        full.set()
        sweep.network.let_go()
        assert refused.wait(200)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Journal, "_write", write_if_room)
    monkeypatch.setattr("orchestrator.notify.notifications._DRAIN_S", 60.0)
    monkeypatch.setattr(disk_space, "PATIENCE_S", 3600.0)  # longer than this test may take
    sweep.network.hold_at("trial_reported", 1)
    with receiver(200) as webhook:
        config = load_sweep(sweep.file, [f"notify={webhook.url}", f"runs_dir={sweep.runs_dir}"])
        user = threading.Thread(target=use_up_the_quota, daemon=True)
        user.start()
        with pytest.raises(StorageFullError, match=r"the disk is full: .*journal\.jsonl: Disk quota exceeded"):
            run_sweep(config)
        user.join()
        assert webhook.bodies[-1]["event"] == "sweep_failed"
    assert not sweep.folder.scratch.exists()
    assert not sweep.folder.is_driven
    full.clear()
    assert resume_sweep("stops", runs_dir=str(sweep.runs_dir)).status is TrialStatus.FINISHED
    assert stopped_sweep.states(sweep) == {"COMPLETE": stopped_sweep.TRIALS}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_killed_worker_costs_no_trial_of_detection(
    faults: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kill a worker while the other one waits for its gradients, or for the counts of its losses."""
    monkeypatch.setattr(faults, "LATEST_S", 1.0)
    (tmp_path / "scenes").mkdir()
    scenes = write_scenes(tmp_path / "scenes")
    sweep = {
        "task": "detection",
        "dataset": {"uri": str(scenes), "image_size": 32, "validation_fraction": 0.25},
        "model": {
            "name": "conv_resnet26_small",
            "options": {"fpn_channels": 8, "head_channels": 8, "proposals": 20, "samples": 16},
        },
        "training": {"epochs": 8, "global_batch_size": 7, "optimizer": "adamw", "lr": 0.003},
    }
    with faults.lasting_cluster(cpus=2) as address:
        outcome = faults.run_sequence(["worker"], tmp_path, address, seed=0, trials=1, epochs=8, workers=2, **sweep)
    assert_harmless(outcome, faults=1)
    assert_every_epoch_once(tmp_path, "val/ap", trials=1, epochs=8)


def assert_harmless(outcome: Any, *, faults: int) -> None:
    assert outcome.leaked == []
    assert outcome.harmless, outcome
    assert sum(outcome.faults.values()) == faults


def assert_every_epoch_once(folder: Path, metric: str, *, trials: int, epochs: int) -> None:
    """Check that every epoch of every trial is reported once in each journal below a folder."""
    journals = list(folder.glob("*/*/journal.jsonl"))
    assert journals
    for journal in journals:
        rows = load_result(journal.parent).reports.to_pylist()
        reported = [(row["trial"], row["epoch"]) for row in rows if row["metric"] == metric]
        assert sorted(reported) == [(trial, epoch) for trial in range(trials) for epoch in range(1, epochs + 1)]
