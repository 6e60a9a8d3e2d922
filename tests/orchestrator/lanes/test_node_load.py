"""Load of a node, as its workers report it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import psutil
import pynvml
import pytest

from orchestrator.lanes.hub.hub import LaneHub
from orchestrator.lanes.messages import Report
from orchestrator.lanes.worker import node_load
from orchestrator.lanes.worker.node_load import NodeLoad
from tests.support.hub.hub_calls import A, in_loop, rank_id, started


def test_the_load_has_processors_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "node-7")
    found = NodeLoad().read()
    assert {key for key in found if "gpu" not in key} == {
        "system/node-7/cpu_utilization_percentage",
        "system/node-7/system_memory_usage_megabytes",
        "system/node-7/system_memory_usage_percentage",
    }
    assert 0 <= found["system/node-7/cpu_utilization_percentage"] <= 100
    memory_mb = psutil.virtual_memory().total / 1e6
    assert 0 < found["system/node-7/system_memory_usage_megabytes"] < memory_mb


def test_readings_that_a_gpu_does_not_support_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(device: Any) -> Any:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(node_load, "_gpus", lambda: ["a", "b"])
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", lambda device: SimpleNamespace(used=2e9, total=8e9))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", lambda device: SimpleNamespace(gpu=93))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetPowerUsage", refuse)
    found = {key.rpartition("/")[2]: value for key, value in NodeLoad().read().items() if "gpu" in key}
    assert found == {
        f"gpu_{index}_{name}": value
        for index in (0, 1)
        for name, value in {
            "memory_usage_megabytes": 2000.0,
            "memory_usage_percentage": 25.0,
            "utilization_percentage": 93.0,
        }.items()
    }


@in_loop
async def test_the_load_of_every_node_is_merged_with_the_metrics_of_the_first_rank() -> None:
    hub = LaneHub()
    await started(hub)
    event = asyncio.ensure_future(hub.next_event(A, 0, 0))
    metrics = ({"val/top1": 0.5, "system/a/cpu": 10.0}, {"val/top1": 9.0, "system/b/cpu": 20.0})
    reports = [Report(1, metrics[rank], nodes=("ab"[rank],)) for rank in (0, 1)]
    ranks = [asyncio.ensure_future(hub.report(rank_id(rank), A, reports[rank])) for rank in (1, 0)]
    assert (await event).metrics == {"val/top1": 0.5, "system/a/cpu": 10.0, "system/b/cpu": 20.0}
    assert (await event).nodes == ("a", "b")
    for waiting in ranks:
        waiting.cancel()
