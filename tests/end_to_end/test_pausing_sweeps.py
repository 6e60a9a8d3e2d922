"""Sweeps whose trials pause and resume on real lanes: bit for bit as if they had never paused, and resumable later."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import yaml
from mlflow import MlflowClient

from orchestrator import SweepResult, load_sweep, resume_sweep, run_sweep
from orchestrator.records.ledger import TrialStatus
from orchestrator.search.allocation.allocator import Allocator, Feasibility, Propose, Resume, Scores
from orchestrator.search.allocation.rules import ALLOCATORS
from orchestrator.training.checkpoints.checkpoint_content import read_best, read_state
from tests.support.cluster_state import assert_nothing_left
from tests.support.networks.own_file import HeldFile
from tests.support.sweeps.local_ray import local_ray

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
EPOCHS, TRIALS = 3, 3
SWEEP = {
    "name": "s",
    "dataset": {"name": "digits"},
    "model": {"name": "conv_resnet26_small"},
    "training": {"epochs": EPOCHS, "global_batch_size": 64, "optimizer": "adamw", "warmup_epochs": 0},
    "search": {"lr": {"choices": [1e-9, 3e-3]}},
    "try_first": [],
    "sampler": {"name": "grid"},
    "trial_scheduler": {"name": "asha"},
    "trials": 2,
    "keep": {"best": 2, "last": 2},
}


@pytest.fixture(scope="module", autouse=True)
def ray_instance() -> Iterator[None]:
    """One Ray instance for all sweeps here; it claims four CPUs, so that two lanes of two workers fit."""
    with local_ray(num_cpus=4):
        yield


# Each training step waits until all ranks of the trials that are to train at once have come to it.
MEETING = """
import os, time
from pathlib import Path
from torch import nn

PLACE, DRIVER, RANKS = Path({place!r}), {driver}, {ranks}

class Meeting(nn.Sequential):
    def forward(self, x):
        if self.training and os.getpid() != DRIVER and PLACE.is_symlink():
            meeting = PLACE.resolve()
            (meeting / str(os.getpid())).touch()
            while len(list(meeting.iterdir())) < RANKS:
                time.sleep(0.01)
        return super().forward(x)

def make(num_classes, in_chans):
    layers = [nn.Conv2d(in_chans, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return Meeting(*layers, nn.Dropout(0.1), nn.Linear(32, num_classes))
"""


class InPairs(Allocator):
    """Rule that pauses every trial after every epoch.

    Of three trials, each pair trains an epoch at once, on two lanes: whichever lane each gets, one trial has to move.

    Args:
        place: Link to a folder in which the ranks of the present pair meet; absent where trials need not train at once.
        setting: Setting of the sweep.
    """

    def __init__(self, place: Path, setting: Any) -> None:
        super().__init__(setting)
        self._place = place
        self._rounds = [(0, 1), (1, 2), (2, 0), (0, 1, 2)]
        self._next: list[int] = []
        self._running: set[int] = set()
        self._epochs: dict[int, int] = {}
        self._ended: set[int] = set()

    def start(self, number: int, params: Mapping[str, Any]) -> None:
        self._running.add(number)

    def report(
        self,
        number: int,
        epoch: int,
        scores: Scores,
        seconds: float,
        feasibility: Feasibility = Feasibility.FEASIBLE,
    ) -> bool:
        assert seconds > 0
        self._epochs[number] = epoch
        return epoch == self.setting.max_epochs

    def pause(self, number: int, resume_epoch: int) -> None:
        assert resume_epoch == self._epochs[number]
        self._running.discard(number)

    def end(self, number: int) -> None:
        self._running.discard(number)
        self._ended.add(number)

    def next_trial(self, proposed: int) -> Resume | Propose | None:
        if not self._next and not self._running and self._rounds:
            self._begin_round()
        if not self._next:
            return None
        number = self._next.pop(0)
        self._running.add(number)
        return Resume(number) if number < proposed else Propose()

    def _begin_round(self) -> None:
        self._next = list(self._rounds.pop(0))
        self._place.unlink(missing_ok=True)
        if len(self._next) == 2:
            meeting = self._place.with_name(f"meeting-{len(self._rounds)}")
            meeting.mkdir()
            self._place.symlink_to(meeting)

    @property
    def is_finished(self) -> bool:
        return len(self._ended) == self.setting.trials


def events(result: SweepResult, kind: str) -> list[dict[str, Any]]:
    lines = (result.folder / "journal.jsonl").read_text().splitlines()
    return [event for line in lines if (event := json.loads(line))["event"] == kind]


def learned(result: SweepResult) -> dict[tuple[int, int], dict[str, float]]:
    """Return what the epochs of a sweep measured, apart from times and loads of nodes."""
    measured = ("train/", "val/", "test/", "lr", "best_epoch")
    return {
        (event["trial"], event["epoch"]): {
            name: value for name, value in event["metrics"].items() if name.startswith(measured)
        }
        for event in events(result, "trial_reported")
    }


def test_trials_that_pause_after_every_epoch_learn_the_same_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, network = tmp_path / "meeting", tmp_path / "meeting_net.py"
    network.write_text(MEETING.format(place=str(place), driver=os.getpid(), ranks=4))
    monkeypatch.setitem(ALLOCATORS, "asha", functools.partial(InPairs, place))  # type: ignore[arg-type]
    sweep = {
        **SWEEP,
        "model": {"name": f"{network}:make"},
        "search": {"lr": {"choices": [1e-9, 1e-3, 3e-3]}},
        "trials": TRIALS,
        "keep": {"best": TRIALS, "last": TRIALS},
        "resources": {"workers": 2, "lanes": 2},
    }
    paused = run_sweep(load_sweep({**sweep, "runs_dir": str(tmp_path / "paused")}))
    plain = {**sweep, "trial_scheduler": {"name": "none"}, "runs_dir": str(tmp_path / "plain")}
    reference = run_sweep(load_sweep(plain, ["resources.lanes=1"]))

    assert [record.status for record in paused.records] == [TrialStatus.FINISHED] * TRIALS
    assert [record.attempts for record in paused.records] == [EPOCHS] * TRIALS
    assert len(events(paused, "trial_paused")) == TRIALS * (EPOCHS - 1)
    lanes = [
        {event["lane"] for event in events(paused, "trial_reported") if event["trial"] == number}
        for number in range(TRIALS)
    ]
    assert {0, 1} in lanes  # at least one of them has moved
    assert len(learned(paused)) == TRIALS * EPOCHS
    assert learned(paused) == learned(reference)
    for number in range(TRIALS):
        ours, theirs = (result.folder / f"trials/trial-{number:05d}" for result in (paused, reference))
        for read, name in ((read_best, "best.pt"), (read_state, "last.pt")):
            assert_equal(read(ours / name)["state_dict"], read(theirs / name)["state_dict"])
        assert_equal(read_state(ours / "last.pt")["optimizer"], read_state(theirs / "last.pt")["optimizer"])
    assert_nothing_left()


def assert_equal(ours: Any, theirs: Any) -> None:
    """Compare nested mappings and lists with tensors, to the last bit."""
    assert type(ours) is type(theirs)
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs)
    elif isinstance(ours, Mapping):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_equal(ours[key], theirs[key])
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_equal(one, other)
    else:
        assert ours == theirs


def test_a_finished_sweep_keeps_its_paused_trials_for_later(tmp_path: Path) -> None:
    sweep = {
        **SWEEP,
        "search": {"lr": {"type": "float", "low": 1e-9, "high": 3e-3, "log": True}},
        "sampler": {"name": "random"},
        "trials": 3,
        "trial_scheduler": {"name": "asha", "grace_epochs": 1, "reduction_factor": 3},
        "resources": {"workers": 1, "lanes": 1},
        "runs_dir": str(tmp_path),
    }
    first = run_sweep(load_sweep(sweep))

    assert first.status is TrialStatus.FINISHED
    assert sorted(record.status for record in first.records) == ["finished", "paused", "paused"]
    assert first.best is not None
    assert first.best.status is TrialStatus.FINISHED
    waiting = [record.number for record in first.records if record.status is TrialStatus.PAUSED]
    for number in waiting:
        assert (first.folder / f"trials/trial-{number:05d}/last.pt").exists()
        run = MlflowClient(first.tracking_uri).get_run(first.run_ids[number])
        assert (run.info.status, run.data.tags["spatialsweep.status"]) == ("KILLED", "paused")
    assert {row["trial"] for row in first.trials.to_pylist() if row["status"] == "paused"} == set(waiting)
    unchanged = resume_sweep("s", runs_dir=str(tmp_path))
    assert sorted(record.status for record in unchanged.records) == ["finished", "paused", "paused"]

    later = resume_sweep("s", ["trials=6"], runs_dir=str(tmp_path))
    assert len(later.records) == 6
    assert len(learned(later)) == len(events(later, "trial_reported"))  # no epoch was trained twice
    assert {str(record.status) for record in later.records} == {"finished", "paused"}
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path / 'optuna.db'}")
    states = {"finished": "COMPLETE", "paused": "RUNNING"}
    assert [trial.state.name for trial in study.trials] == [states[record.status] for record in later.records]
    assert_nothing_left()


def test_a_killed_driver_loses_no_paused_trial_and_none_is_trained_again(tmp_path: Path) -> None:
    journal = tmp_path / "runs/s/journal.jsonl"
    network = HeldFile(tmp_path, journal)
    network.hold_at("trial_paused", 2)
    sweep = {
        **SWEEP,
        "model": {"name": network.name},
        "search": {"lr": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True}},
        "sampler": {"name": "random"},
        "trials": 4,
        "trial_scheduler": {"name": "asha", "grace_epochs": 1, "reduction_factor": 4},
        "resources": {"workers": 1, "lanes": 1},
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(sweep))
    command = [
        sys.executable,
        "-m",
        "orchestrator",
        "run",
        str(tmp_path / "s.yaml"),
        "--runs-dir",
        str(tmp_path / "runs"),
    ]
    driver = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 240
        while not (journal.exists() and journal.read_text().count('"trial_paused"') >= 2):
            assert time.monotonic() < deadline, "no two trials have paused in time"
            assert driver.poll() is None, "the driver has ended by itself"
            time.sleep(0.05)
    finally:
        driver.kill()
        driver.wait()
    network.let_go()

    result = resume_sweep("s", runs_dir=str(tmp_path / "runs"))

    assert result.status is TrialStatus.FINISHED
    assert sorted(record.status for record in result.records) == ["finished", "paused", "paused", "paused"]
    assert sorted(event["trial"] for event in events(result, "trial_started")) == [0, 1, 2, 3]
    reported = [(event["trial"], event["epoch"]) for event in events(result, "trial_reported")]
    assert len(set(reported)) == len(reported) == 3 + EPOCHS
    best = max(result.records, key=lambda record: record.reports[0]["val/top1"])
    assert best.status is TrialStatus.FINISHED
    before = [json.loads(line) for line in journal.read_text().splitlines()]
    second = next(index for index, event in enumerate(before) if event["event"] == "sweep_resumed")
    early = {event["trial"] for event in before[:second] if event["event"] == "trial_paused"}
    again = {event["trial"] for event in before[second:] if event["event"] == "trial_resumed"}
    assert early & again <= {best.number}  # the others were left alone
