"""Number of lanes that a cluster holds, and the message when it holds none."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from orchestrator.config.sections.resources import BYTES_PER_GB, ResourcesConfig
from orchestrator.errors import ClusterError
from orchestrator.runtime.lane_plan import LanePlan, lanes_that_fit, plan_lanes
from orchestrator.runtime.ray_private import core


def cluster(patch: pytest.MonkeyPatch, *nodes: dict[str, float], may_become: dict[str, float] | None = None) -> None:
    """Replace the nodes of the cluster."""
    alive = [{"Alive": True, "Resources": node} for node in nodes]
    patch.setattr(ray, "nodes", lambda: [*alive, {"Alive": False, "Resources": {"CPU": 100.0}}])
    patch.setattr(core, "autoscaled_resources", lambda: may_become)


def plan(trials: int = 20, **resources: Any) -> tuple[int, int, float, int]:
    found = plan_lanes(ResourcesConfig(**resources), trials)
    return found.lanes, found.workers, found.gpus_per_worker, found.at_most


def test_workers_are_packed_node_by_node(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, {"CPU": 7}, {"CPU": 3}, {"CPU": 2})
    assert plan(workers=2, cpus_per_worker=3) == (1, 2, 0.0, 20)
    assert plan(workers=1, cpus_per_worker=3) == (3, 1, 0.0, 20)
    assert plan(workers=1, cpus_per_worker=0.1)[0] == 20
    assert plan(trials=2, workers=1) == (2, 1, 0.0, 2)
    assert plan(workers=1, lanes=4)[0] == plan(workers=1, lanes=4)[3] == 4


def test_gpus_are_used_where_there_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, {"CPU": 16, "GPU": 4}, {"CPU": 16})
    assert plan(workers=2) == (2, 2, 1.0, 20)
    assert plan(workers=8)[2] == 0.0
    assert plan(workers=2, gpus_per_worker=0)[0] == 16


def test_memory_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, {"CPU": 16, "memory": 10.0 * BYTES_PER_GB})
    assert plan(workers=2, memory_gb_per_worker=2)[0] == 2
    with pytest.raises(ClusterError) as raised:
        plan(workers=2, memory_gb_per_worker=6)
    assert str(raised.value) == (
        "a trial needs 2 workers of 1 CPU and 0 GPU and 6 GB each; this cluster has 16 CPU and 0 GPU and 10.0 GB on "
        "1 node(s), room for 1 such worker(s). Lower resources.workers or resources.cpus_per_worker or "
        "resources.memory_gb_per_worker."
    )


def test_an_elastic_lane_counts_with_its_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    for cpus, lanes in {2: 1, 7: 1, 8: 1, 16: 2}.items():
        cluster(monkeypatch, {"CPU": cpus})
        assert plan(workers=[2, 8])[0] == lanes
    cluster(monkeypatch, {"CPU": 1})
    with pytest.raises(ClusterError, match="a trial needs 2 workers"):
        plan(workers=[2, 8])


def test_a_cluster_with_an_autoscaler_counts_with_its_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, {"CPU": 0}, may_become={"CPU": 16, "memory": 64.0 * BYTES_PER_GB})
    assert plan(workers=2, lanes=3) == (3, 2, 0.0, 3)
    assert lanes_that_fit(ResourcesConfig(workers=4), 0.0) == 4
    cluster(monkeypatch, {"CPU": 0}, may_become={"CPU": 16, "GPU": 4})
    assert plan(workers=2) == (2, 2, 1.0, 20)


def test_a_share_of_a_gpu_is_one_of_a_single_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs hold four workers of 0.4 each: what is left of both is no GPU."""
    cluster(monkeypatch, {"CPU": 16, "GPU": 2})
    for share, lanes in {0.25: 8, 0.3333: 6, 0.4: 4, 0.5: 4, 0.6: 2, 1: 2, 2: 1}.items():
        assert plan(workers=1, gpus_per_worker=share) == (lanes, 1, float(share), 20)
    cluster(monkeypatch, {"CPU": 5, "GPU": 2}, {"CPU": 16, "GPU": 1})
    assert plan(workers=1, gpus_per_worker=0.25)[0] == 5 + 4


def test_auto_takes_the_measured_share_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    resources = ResourcesConfig(workers=1, gpus_per_worker="auto")
    cluster(monkeypatch, {"CPU": 16, "GPU": 2})
    assert plan_lanes(resources, 20, gpu_share=0.25) == LanePlan(8, 1, 0.25, 20)
    assert plan_lanes(resources, 20) == LanePlan(2, 1, 1.0, 20)
    cluster(monkeypatch, {"CPU": 16})
    assert plan_lanes(resources, 20, gpu_share=0.25) == LanePlan(16, 1, 0.0, 20)
