"""A sweep on a real Ray instance that is steered while it runs, and resumed with the steered settings."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from orchestrator import load_sweep, resume_sweep, run_sweep
from orchestrator.records.history import read_history
from orchestrator.records.ledger import TrialStatus
from orchestrator.runtime.ray_session import ray_session
from orchestrator.steering.client import change_settings, end_sweep, enqueue_configuration, stop_trial
from orchestrator.steering.requests import SteeringError

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SWEEP: dict[str, Any] = {
    "name": "steered",
    "dataset": {"name": "digits"},
    "model": {"name": "conv_resnet26_small"},
    "training": {"epochs": 40, "global_batch_size": 512, "optimizer": "adamw", "lr": 0.003, "warmup_epochs": 0},
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
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    with ray_session():
        yield
    ray.shutdown()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def steer(folder: Path, answers: list[str]) -> None:
    """Stop the first trial, enqueue one, narrow and widen the space, raise the number of trials, then end the sweep."""
    journal = folder / "journal.jsonl"
    wait_for(lambda: journal.exists() and b"trial_reported" in journal.read_bytes())
    answers.append(change_settings(folder, ["trials=3", "budget.wall_clock=1h"]))
    answers.append(change_settings(folder, ["search.lr.high=0.01", "search.optimizer=[adamw, momentum]"]))
    answers.append(enqueue_configuration(folder, {"lr": 0.002, "optimizer": "momentum"}))
    for refused in ({"lr": 0.05}, {"optimizer": "sgd"}, {"optimiser": "adamw"}):
        with pytest.raises(SteeringError) as error:
            enqueue_configuration(folder, refused)
        answers.append(str(error.value))
    answers.append(stop_trial(folder, 0))
    wait_for(lambda: read_history(journal).trials.get(1) is not None and bool(read_history(journal).trials[1].reports))
    answers.append(end_sweep(folder))


def test_a_running_sweep_is_steered_and_resumed_as_steered(tmp_path: Path) -> None:
    folder, answers = tmp_path / "steered", []
    user = threading.Thread(target=steer, args=(folder, answers), daemon=True)
    user.start()
    first = run_sweep(load_sweep({**SWEEP, "runs_dir": str(tmp_path)}))
    user.join(10)

    assert first.status is TrialStatus.INTERRUPTED
    stopped, enqueued = first.records[:2]
    assert (stopped.status, stopped.reason) == (TrialStatus.PRUNED, "stopped by the user")
    assert 1 <= stopped.epochs < 40
    assert enqueued.params == {"lr": 0.002, "optimizer": "momentum"}
    assert enqueued.status is TrialStatus.INTERRUPTED
    assert answers[0] == "trials is 3, budget.wall_clock is 3600"
    assert answers[3] == "enqueue: lr: got 0.05; the search has 0.0001 to 0.01"
    assert answers[4] == "enqueue: optimizer: got sgd; the search has adamw, momentum"
    assert answers[5] == "enqueue: optimiser: is not searched here. Did you mean 'optimizer'?"

    second = threading.Thread(target=stop_all, args=(folder,), daemon=True)
    second.start()
    resumed = resume_sweep("steered", runs_dir=str(tmp_path))
    assert [record.status for record in resumed.records] == [TrialStatus.PRUNED] * 3
    assert resumed.records[1].epochs > enqueued.epochs
    drawn = resumed.records[2].params
    assert 1e-4 <= drawn["lr"] <= 0.01
    assert drawn["optimizer"] in ("adamw", "momentum")


def stop_all(folder: Path) -> None:
    """Stop the trials that are left as soon as they have trained another epoch."""
    journal = folder / "journal.jsonl"
    before = read_history(journal).trials[1].epochs
    wait_for(lambda: read_history(journal).trials[1].epochs > before)
    stop_trial(folder, 1)
    wait_for(lambda: 2 in read_history(journal).trials and bool(read_history(journal).trials[2].reports))
    stop_trial(folder, 2)
