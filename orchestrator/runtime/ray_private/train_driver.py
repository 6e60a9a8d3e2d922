"""Private names of Ray Train (2.60) that run in the driver, which starts worker groups."""

from __future__ import annotations

from typing import Any

# The actor that reserves resources for all worker groups of a cluster; a controller that is killed cancels nothing.
from ray.data._internal.cluster_autoscaler import get_or_create_autoscaling_coordinator

# Two of the callbacks that `create_default_callbacks` makes and a lane has no use for.
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

# Distinguishes a lane without resources from one whose workers fail.
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

__all__ = ["BareTrainer", "autoscaling_coordinator", "autoscaling_requester", "is_startup_timeout"]


class BareTrainer(DataParallelTrainer):
    """A trainer without two of Train's helper processes; both are started for each worker group.

    The cleaner of placement groups is a detached actor that polls Ray's dashboard for the controller; where
    there is no dashboard it outlives the sweep. The driver removes what a killed controller leaves, and Ray what a
    killed driver leaves. The manager of Ray datasets is a process of its own, started beside the workers; there are no
    such datasets here.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        unwanted = (PlacementGroupCleanerCallback, DatasetsCallback)
        return [callback for callback in callbacks if not isinstance(callback, unwanted)]


def autoscaling_coordinator() -> Any:
    """Return the handle of the cluster's autoscaling coordinator; starts it where there is none."""
    return get_or_create_autoscaling_coordinator()


def autoscaling_requester(trainer: DataParallelTrainer) -> str:
    """Return the name under which a trainer's controller requests resources from the coordinator."""
    return f"train-{trainer.train_run_context.run_id}"


def is_startup_timeout(error: BaseException) -> bool:
    """Return whether a run of Train ended because its workers found no resources within Train's timeout."""
    return isinstance(getattr(error, "controller_failure", None), WorkerGroupStartupTimeoutError)
