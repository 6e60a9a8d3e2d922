"""A sweep on a real Ray instance that is steered while it runs, and resumed with the steered settings."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator import load_sweep, resume_sweep, run_sweep
from orchestrator.notify import notifications
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.history import read_history
from orchestrator.records.ledger import TrialStatus
from orchestrator.steering.client import (
    change_settings,
    end_sweep,
    enqueue_configuration,
    pause_trial,
    resume_trial,
    stop_trial,
)
from orchestrator.steering.request_folder import RequestFolder
from orchestrator.steering.requests import ChangeSettings, SteeringError
from tests.orchestrator.notify.test_webhook import receiver
from tests.support.sweeps.local_ray import local_ray
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

EPOCHS = 1000  # no trial comes that far while it is steered
SWEEP: dict[str, Any] = {
    "name": "steered",
    "dataset": {"name": "digits"},
    "model": {"name": "conv_resnet26_small"},
    "training": {"epochs": EPOCHS, "global_batch_size": 512, "optimizer": "adamw", "lr": 0.003, "warmup_epochs": 0},
    "search": {
        "lr": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
        "optimizer": ["sgd", "adamw"],
    },
    "try_first": [],
    "trials": 2,
    "sampler": {"name": "tpe", "startup_trials": 1},
    "trial_scheduler": {"name": "none"},
    "resources": {"workers": 1, "lanes": 1},
}


@pytest.fixture(scope="module", autouse=True)
def ray_instance() -> Iterator[None]:
    """One Ray instance for all sessions here."""
    with local_ray(num_cpus=2):
        yield


def steer(folder: Path, answers: list[str]) -> None:
    """Change settings, pause the first trial, stop the next two, resume the first, and end the sweep."""
    journal = folder / "journal.jsonl"

    def epochs(trial: int) -> int:
        found = read_history(journal).trials.get(trial)
        return found.epochs if found else 0

    wait_for(lambda: journal.exists() and b"trial_reported" in journal.read_bytes())
    answers.append(change_settings(folder, ["trials=3", "budget.wall_clock=1h"]))
    answers.append(change_settings(folder, ["search.lr.high=0.01", "search.optimizer=[adamw, momentum]"]))
    answers.append(enqueue_configuration(folder, {"lr": 0.002, "optimizer": "momentum"}))
    for refused in ({"lr": 0.05}, {"optimizer": "sgd"}, {"optimiser": "adamw"}):
        with pytest.raises(SteeringError) as error:
            enqueue_configuration(folder, refused)
        answers.append(str(error.value))
    answers.append(pause_trial(folder, 0))
    wait_for(lambda: epochs(1) > 0)
    answers.append(resume_trial(folder, 0))
    answers.append(stop_trial(folder, 1))
    before = epochs(0)
    wait_for(lambda: epochs(0) > before)  # it comes before the third trial is proposed
    answers.append(pause_trial(folder, 0))
    wait_for(lambda: epochs(2) > 0)
    answers.append(end_sweep(folder))


def test_a_running_sweep_is_steered_and_resumed_as_steered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "_DRAIN_S", 60.0)
    folder, answers = tmp_path / "steered", []
    user = threading.Thread(target=steer, args=(folder, answers), daemon=True)
    user.start()
    with receiver(200) as webhook:
        first = run_sweep(load_sweep({**SWEEP, "runs_dir": str(tmp_path), "notify": webhook.url}))
    user.join()
    events = [body["event"] for body in webhook.bodies]
    assert (events[0], events[-1], set(events[1:-1])) == ("sweep_started", "sweep_interrupted", {"new_best"})
    assert b"T0KEN-of-the-user" not in (folder / "journal.jsonl").read_bytes()
    assert not any(
        b"T0KEN-of-the-user" in path.read_bytes() for path in (folder / "sessions").rglob("*") if path.is_file()
    )
    assert first.notice == ""

    assert answers[0] == "trials is 3, budget.wall_clock is 3600"
    assert answers[3:6] == [
        "enqueue: lr: got 0.05; the search has 0.0001 to 0.01",
        "enqueue: optimizer: got sgd; the search has adamw, momentum",
        "enqueue: optimiser: is not searched here. Did you mean 'optimizer'?",
    ]
    assert first.status is TrialStatus.INTERRUPTED
    paused, stopped, drawn = first.records
    assert (paused.status, paused.steered) == (TrialStatus.PAUSED, "pause")
    assert [report["epoch"] for report in paused.reports] == [*range(1, paused.epochs + 1)]
    assert (stopped.status, stopped.reason) == (TrialStatus.PRUNED, "stopped by the user")
    assert stopped.params == {"lr": 0.002, "optimizer": "momentum"}
    assert 1e-4 <= drawn.params["lr"] <= 0.01
    assert drawn.params["optimizer"] in ("adamw", "momentum")
    assert drawn.status is TrialStatus.INTERRUPTED

    RequestFolder(SweepFolder(folder)).send(ChangeSettings(assignments=("trials=9",)))  # of the session that has ended
    second = threading.Thread(target=stop_all, args=(folder, answers), daemon=True)
    second.start()
    resumed = resume_sweep("steered", runs_dir=str(tmp_path))
    second.join()
    assert answers[-1] == "budget.wall_clock is 7200"
    assert [record.status for record in resumed.records] == [TrialStatus.PRUNED] * 3
    assert resumed.records[0].epochs == paused.epochs
    assert resumed.records[2].epochs > drawn.epochs


def stop_all(folder: Path, answers: list[str]) -> None:
    """Change a setting while the session starts, and stop the paused trial, and the other one after another epoch."""
    journal = folder / "journal.jsonl"
    wait_for(lambda: SweepFolder(folder).is_driven)
    answers.append(change_settings(folder, ["budget.wall_clock=2h"]))
    before = read_history(journal).trials[2].epochs
    wait_for(lambda: read_history(journal).trials[2].epochs > before)
    assert stop_trial(folder, 0).startswith("trial 0 is stopped after")
    stop_trial(folder, 2)
