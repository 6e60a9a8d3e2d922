"""Sweeps on a cluster that changes under them: nodes come, are taken away, and are shared by two sweeps."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
import yaml
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from orchestrator import SweepResult, load_sweep, run_sweep
from orchestrator.lanes.pool import lane_trainer
from orchestrator.records.journal import read_events
from orchestrator.records.ledger import TrialStatus
from orchestrator.records.lines import content_of
from orchestrator.runtime.ray_session import ray_session
from tests.support.cluster_state import assert_nothing_left, live_actors
from tests.support.networks.own_file import PacedFile
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
# Nothing is searched: every trial is the same, and so must be what it learns, wherever it was trained.
SAME = {
    "name": "same",
    "dataset": {"name": "digits"},
    "training": {"epochs": 6, "global_batch_size": 128, "optimizer": "adamw", "lr": 0.003},
    "trial_scheduler": {"name": "none"},
    "resources": {"workers": 1},
    "keep": {"best": 10},
}
ELASTIC_EPOCHS = 45  # 100 s, until `run_beside` lets it go


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Start a head with one CPU, to which tests add nodes."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False)
    with ray_session():
        yield cluster
    ray.shutdown()
    cluster.shutdown()


def events(tmp_path: Path, kind: str) -> list[dict[str, Any]]:
    journals = list(tmp_path.glob("*/journal.jsonl"))
    return [content_of(event) for journal in journals for event, _ in read_events(journal) if event.event == kind]


def workers() -> int:
    return sum("RayTrainWorker" in name for name in live_actors())


def run_beside(sweep: dict[str, Any], tmp_path: Path, meanwhile: Callable[[], None]) -> SweepResult:
    """Runs a sweep while something happens to its cluster; nodes can be added from the main thread only."""
    network = PacedFile(tmp_path, step_s=0.24)
    with ThreadPoolExecutor(1) as pool:
        whole = {**sweep, "model": {"name": network.name}, "runs_dir": str(tmp_path)}
        running = pool.submit(run_sweep, load_sweep(whole))
        try:
            meanwhile()
        finally:
            network.let_go()
        assert not running.done(), "the sweep ended before everything had happened to it"
        return running.result()


def assert_all_the_same(result: SweepResult) -> None:
    """Check that all trials finished, reported every epoch once, and learned the same to the last bit."""
    assert [trial.status for trial in result.records] == [TrialStatus.FINISHED] * len(result.records)
    for trial in result.records:
        assert [report["epoch"] for report in trial.reports] == list(range(1, trial.epochs + 1))
    folders = [result.folder / "trials" / f"trial-{trial.number:05d}" for trial in result.records]
    weights = [torch.load(folder / "best.pt", weights_only=True)["state_dict"] for folder in folders]
    for other in weights[1:]:
        assert all(torch.equal(value, other[name]) for name, value in weights[0].items())


def test_lanes_follow_the_nodes(cluster: Cluster, tmp_path: Path) -> None:
    def two_train() -> bool:
        return len({event["trial"] for event in events(tmp_path, "trial_reported")[-2:]}) == 2

    def come_and_go() -> None:
        wait_for(lambda: events(tmp_path, "trial_reported"))
        node = cluster.add_node(num_cpus=1)
        wait_for(lambda: workers() == 2)
        wait_for(two_train)
        cluster.remove_node(node, allow_graceful=False)

    sweep = {**SAME, "trials": 4, "training": {**SAME["training"], "epochs": 20}}
    result = run_beside(sweep, tmp_path, come_and_go)
    assert_all_the_same(result)
    assert_nothing_left()


def test_elastic_trials_grow_and_leave_a_node_in_time(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane_trainer, "RESIZE_INTERVAL_S", 3.0)

    def grow_and_drain() -> None:
        wait_for(lambda: events(tmp_path, "trial_reported"))
        node = cluster.add_node(num_cpus=1)
        wait_for(lambda: workers() == 2)
        heard = len(events(tmp_path, "trial_reported"))
        wait_for(lambda: len(events(tmp_path, "trial_reported")) > heard + 1)
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        soon_ms = int((time.time() + 300) * 1000)
        assert GcsClient(address=cluster.address).drain_node(node.node_id, reason, "taken back", soon_ms)[0]
        wait_for(lambda: workers() < 2)
        cluster.remove_node(node, allow_graceful=False)

    resources = {"workers": [1, 2], "max_failures": 0}  # neither a new size nor a drained node is a failure
    training = {**SAME["training"], "epochs": ELASTIC_EPOCHS}
    result = run_beside({**SAME, "trials": 1, "training": training, "resources": resources}, tmp_path, grow_and_drain)
    (trial,) = result.records
    assert (trial.status, trial.reason) == (TrialStatus.FINISHED, "")
    assert [report["epoch"] for report in trial.reports] == list(range(1, ELASTIC_EPOCHS + 1))
    assert_nothing_left()


def test_two_sweeps_share_a_cluster(cluster: Cluster, tmp_path: Path) -> None:
    cluster.add_node(num_cpus=1)
    network = PacedFile(tmp_path)
    network.let_go()
    drivers = []
    short = {
        **SAME,
        "model": {"name": network.name},
        "trials": 2,
        "training": {**SAME["training"], "epochs": 3},
        "runs_dir": str(tmp_path),
    }
    for name in ("one", "two"):
        sweep = {**short, "name": name, "resources": {"workers": 1, "lanes": 1}}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(sweep))
        command = ["-m", "orchestrator", "run", str(tmp_path / f"{name}.yaml"), "--address", cluster.address]
        drivers.append(
            subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        )
    said = [driver.communicate(timeout=400)[0].decode() for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], said
    bests = []
    for name in ("one", "two"):
        (folder,) = tmp_path.glob(f"{name}*/journal.jsonl")
        ends = [content_of(event) for event, _ in read_events(folder) if event.event == "trial_ended"]
        assert [end["status"] for end in ends] == ["finished"] * 2
        bests += sorted(folder.parent.glob("trials/*/best.pt"))
    weights = [torch.load(best, weights_only=True)["state_dict"] for best in bests]
    assert len(weights) == 4
    assert all(torch.equal(value, other[name]) for other in weights[1:] for name, value in weights[0].items())
    assert_nothing_left()
