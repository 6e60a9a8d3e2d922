"""One lane as a run of Ray Train; called in the driver, by the thread of the lane."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.exceptions import RayError
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig

from orchestrator.config.sections.resources import ResourcesConfig
from orchestrator.lanes.controller.preemption_watch import PreemptionWatch
from orchestrator.lanes.controller.process_group import ProcessGroupConfig
from orchestrator.lanes.controller.status_reporter import StatusReporter
from orchestrator.lanes.lane_setting import LaneSetting
from orchestrator.lanes.worker.worker import lane_loop
from orchestrator.runtime.ray_private.train_driver import BareTrainer, autoscaling_coordinator, autoscaling_requester

# Restarts of the worker group within one run of Train; after that the driver starts another run.
_MAX_GROUP_LOSSES = 3
_COLLECTIVE_TIMEOUT_S = 600
RESIZE_INTERVAL_S = 60.0


@dataclass(frozen=True)
class LanePlacement:
    """Resources and scratch folder of a lane.

    Args:
        resources: Resources of one trial.
        gpus_per_worker: GPUs of a worker, resolved against the cluster; zero on CPU.
        scratch: Folder for Ray Train, reachable by all nodes.
    """

    resources: ResourcesConfig
    gpus_per_worker: float
    scratch: Path


def run_lane(setting: LaneSetting, placement: LanePlacement, on_start: Callable[[Any], None]) -> None:
    """Run a lane until the sweep is over, a node is preempted or too many worker groups were lost; blocks.

    Args:
        setting: Settings of the lane.
        placement: Its resources and folder.
        on_start: Called with the handle of the lane's controller when that is created.

    Raises:
        ray.train.TrainingFailedError: Too many worker groups were lost, or none can be started.
        ray.exceptions.RayActorError: The controller died.
    """
    resources = placement.resources
    callbacks: list[Any] = [StatusReporter(setting.lane, setting.hub), PreemptionWatch()]
    coordinator = autoscaling_coordinator()  # started beside the controller, which would wait for it
    trainer = BareTrainer(
        lane_loop,
        on_start=on_start,
        train_loop_config={"lane": setting},
        backend_config=ProcessGroupConfig(_backend(placement.gpus_per_worker), _COLLECTIVE_TIMEOUT_S),
        scaling_config=ScalingConfig(
            num_workers=(resources.min_workers, resources.max_workers) if resources.elastic else resources.max_workers,
            use_gpu=placement.gpus_per_worker > 0,
            resources_per_worker=resources.per_worker(placement.gpus_per_worker),
            elastic_resize_monitor_interval_s=RESIZE_INTERVAL_S,
        ),
        run_config=RunConfig(
            # Use a new name for each run: Train restores the snapshot of a name that it has used before.
            name=f"lane-{setting.lane}-{uuid.uuid4().hex[:8]}",
            storage_path=str(placement.scratch),
            failure_config=FailureConfig(
                max_failures=_MAX_GROUP_LOSSES,
                controller_failure_limit=_MAX_GROUP_LOSSES,
                max_preemption_failures=-1,
            ),
            callbacks=callbacks,
        ),
    )
    try:
        trainer.fit()
    finally:
        # A killed controller does not cancel its request, which lapses after three minutes.
        with contextlib.suppress(RayError):
            coordinator.cancel_request.remote(requester_id=autoscaling_requester(trainer))


def _backend(gpus_per_worker: float) -> str:
    """Return the backend of the process group: a lane with a share of a GPU has one worker, which exchanges nothing."""
    return "nccl" if gpus_per_worker >= 1 else "gloo"
