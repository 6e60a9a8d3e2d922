"""Share of a GPU that a trial reserves; there is no GPU here, so what CUDA does is not tested."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.exceptions import GetTimeoutError

from orchestrator.config import ModelConfig, TrainingConfig, TrialConfig
from orchestrator.config.sections.resources import ResourcesConfig
from orchestrator.data.datasets import dataset_facts
from orchestrator.errors import ClusterError
from orchestrator.runtime import gpu_share
from orchestrator.runtime.gpu_share import CONTEXT_BYTES, GpuMemory, limit_memory, measured_share, memory_fraction
from orchestrator.runtime.lane_plan import LanePlan, plan_lanes
from orchestrator.runtime.mps import mps_runs

GB = 2**30
TRIAL = TrialConfig(number=0, model=ModelConfig(name="conv_resnet26_small"), training=TrainingConfig(), seed=0)
FACTS = dataset_facts("digits", None, 8)


@pytest.mark.parametrize(
    ("needed", "total", "lanes", "share"),
    [
        (3.25, 16, 100, 0.3333),  # 0.9 x 16 / (3.25 + 0.75) = 3.6
        (0.25, 16, 100, 0.0714),  # 14.4, rounded down: 14 trials of 0.0714 are 0.9996 of a GPU
        (0.05, 80, 100, 0.0625),  # never more than 16
        (0.05, 80, 3, 0.3333),  # never more than trials
        (20, 16, 100, 1.0),
        (7.0, 16, 100, 1.0),  # two would need 15.5 GB, more than 0.9 x 16
    ],
)
def test_the_share_follows_from_memory(needed: float, total: float, lanes: int, share: float) -> None:
    assert gpu_share.share_for([GpuMemory(int(needed * GB), int(total * GB))], lanes) == share
    assert round(1 / share) * share <= 1


def test_the_smallest_gpu_decides() -> None:
    memories = [GpuMemory(3 * GB, 80 * GB), GpuMemory(3 * GB, 16 * GB)]
    assert gpu_share.share_for(memories, 100) == 0.3333
    assert gpu_share.share_for([], 100) == 1.0


def test_a_lane_leaves_the_memory_of_its_neighbours() -> None:
    """Four lanes with their contexts take the whole GPU, and no more."""
    fraction = memory_fraction(0.25, 16 * GB)
    assert 4 * (fraction * 16 * GB + CONTEXT_BYTES) == 16 * GB
    message = "got 0.0625; of a GPU with 8.0 GB that is no more than CUDA's own context takes"
    with pytest.raises(ClusterError, match=message):
        memory_fraction(0.0625, 8 * GB)


@pytest.mark.parametrize(
    ("device", "share", "fractions"), [("cuda:1", 0.5, [0.453125]), ("cuda:1", 1.0, []), ("cpu", 0.5, [])]
)
def test_only_a_shared_gpu_is_bounded(
    monkeypatch: pytest.MonkeyPatch, device: str, share: float, fractions: list[float]
) -> None:
    set_fractions: list[float] = []

    class Properties:
        total_memory = 16 * GB

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda given, _: set_fractions.append(given))
    limit_memory(torch.device(device), share)
    assert set_fractions == fractions


def test_mps_is_seen_by_its_pipe(tmp_path: Path) -> None:
    environ = {"CUDA_MPS_PIPE_DIRECTORY": str(tmp_path)}
    assert not mps_runs(environ)
    (tmp_path / "control").touch()
    assert mps_runs(environ)


@pytest.fixture(scope="module")
def two_gpus() -> Any:
    """Start Ray with two GPUs that are only declared."""
    ray.init(address="local", num_cpus=8, num_gpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


class Lane:
    """Process that reserves a share."""

    def gpu(self) -> Any:
        """Return the GPUs of this process."""
        return ray.get_gpu_ids()


@pytest.mark.ray
def test_ray_places_as_many_shares_as_are_planned(two_gpus: None) -> None:
    planned = plan_lanes(ResourcesConfig(workers=1, gpus_per_worker=0.4), 20)
    assert planned == LanePlan(4, 1, 0.4, 20)
    lane: Any = ray.remote(num_cpus=1, num_gpus=0.4)(Lane)
    lanes = [lane.remote() for _ in range(4)]
    places = sorted(gpu for (gpu,) in ray.get([each.gpu.remote() for each in lanes]))
    assert [int(place) for place in places] == [0, 0, 1, 1]
    lanes.append(lane.remote())  # last: Ray places actors in any order
    with pytest.raises(GetTimeoutError):
        ray.get(lanes[4].gpu.remote(), timeout=1)
    for each in lanes:
        ray.kill(each)


def _needs_three(*_: Any) -> tuple[int, int]:
    return 3 * GB, 16 * GB


def _fails(*_: Any) -> tuple[int, int]:
    raise ValueError("no such kernel")


@pytest.mark.ray
def test_a_trial_is_measured_on_a_gpu_of_the_cluster(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_share, "measure", _needs_three)
    assert measured_share(TRIAL, FACTS, {}, 20) == 0.3333
    monkeypatch.setattr(gpu_share, "measure", _fails)
    with pytest.raises(ClusterError, match=r"got auto; the measurement failed: no such kernel\. Use a number"):
        measured_share(TRIAL, FACTS, {}, 20)
    monkeypatch.setattr(gpu_share, "measure", lambda *_: time.sleep(60))
    monkeypatch.setattr(gpu_share, "_MEASUREMENT_S", 0.5)
    with pytest.raises(ClusterError, match=r"no GPU was free for a measurement within 0\.5 s"):
        measured_share(TRIAL, FACTS, {}, 20)
