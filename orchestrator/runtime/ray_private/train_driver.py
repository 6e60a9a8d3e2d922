"""Private names of Ray Train (2.60) that run in the driver, which starts worker groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray

# The actor that reserves resources for all worker groups of a cluster; a controller that is killed cancels nothing.
from ray.data._internal.cluster_autoscaler import get_or_create_autoscaling_coordinator

# Two of the callbacks that `create_default_callbacks` makes and a lane has no use for.
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

# Distinguishes a lane without resources from one whose workers fail.
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from orchestrator.runtime.ray_private.core import on_this_node
from orchestrator.runtime.ray_private.lane_controller import ByValue, LaneController, environment_of_lane

__all__ = ["BareTrainer", "autoscaling_coordinator", "autoscaling_requester", "is_startup_timeout"]


class BareTrainer(DataParallelTrainer):
    """A trainer without three of Train's helper processes, which are started for each worker group.

    The cleaner of placement groups is a detached actor that polls Ray's dashboard for the controller; where
    there is no dashboard it outlives the sweep. The driver removes what a killed controller leaves, and Ray what a
    killed driver leaves. The manager of Ray datasets is a process of its own, started beside the workers; there are no
    such datasets here. `LaneWorkerGroup` omits the third.

    The training function goes to the controller and its workers by value (`ByValue`).

    Args:
        train_loop: Function that each worker runs.
        on_start: Called with the handle of the controller when that is created.
        settings: Arguments of `DataParallelTrainer`.
    """

    def __init__(self, train_loop: Callable[..., Any], *, on_start: Callable[[Any], None], **settings: Any) -> None:
        super().__init__(train_loop, **settings)
        self._on_start = on_start

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        unwanted = (PlacementGroupCleanerCallback, DatasetsCallback)
        return [callback for callback in callbacks if not isinstance(callback, unwanted)]

    def _initialize_and_run_controller(self, **controller_init_kwargs: Any) -> Any:
        stored = controller_init_kwargs["train_fn_ref"]
        controller_init_kwargs["train_fn_ref"] = ByValue(stored.get())
        del stored._ref  # `fit` holds the wrapper until the lane ends
        actor: Any = ray.remote(num_cpus=0, label_selector=on_this_node())(LaneController)
        controller = actor.remote(environment_of_lane(), **controller_init_kwargs)
        self._on_start(controller)
        ray.get(controller.run.remote())
        return ray.get(controller.get_result.remote())


def autoscaling_coordinator() -> Any:
    """Return the handle of the cluster's autoscaling coordinator; starts it where there is none."""
    return get_or_create_autoscaling_coordinator()


def autoscaling_requester(trainer: DataParallelTrainer) -> str:
    """Return the name under which a trainer's controller requests resources from the coordinator."""
    return f"train-{trainer.train_run_context.run_id}"


def is_startup_timeout(error: BaseException) -> bool:
    """Return whether a run of Train ended because its workers found no resources within Train's timeout."""
    return isinstance(getattr(error, "controller_failure", None), WorkerGroupStartupTimeoutError)
