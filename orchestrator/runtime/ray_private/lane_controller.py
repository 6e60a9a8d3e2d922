"""Ray Train's (2.60) controller and worker group with fewer processes to start; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2._internal.execution.worker_group import state as worker_group_state
from ray.train.v2._internal.execution.worker_group import worker_group as worker_group_module

from orchestrator.runtime.ray_private.train_worker import set_environment

__all__ = ["ByValue", "LaneController", "LaneWorkerGroup", "environment_of_lane"]


def environment_of_lane() -> dict[str, str]:
    """Return the variables of this process that Train sets in its controller and its workers, and their defaults."""
    # Train's controller blocks in `ray.get` on purpose; without this variable Ray warns of it.
    return {"RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0", **get_env_vars_to_propagate()}


class ByValue:
    """Stand-in for Train's `ObjectRefWrapper`, without an object in Ray's store.

    When the node of a driver is lost while the store holds objects of it, Ray tries to write their loss into the store
    and, as that fails, ends the driver without a message.

    Args:
        value: Object that is pickled with this one.
    """

    def __init__(self, value: Any) -> None:
        self._value = value

    def get(self) -> Any:
        """Return the object."""
        return self._value


class _NoSynchronization:
    """Stand-in for the class of the actor in which Train's collective calls meet."""

    @classmethod
    def options(cls, **_: Any) -> type[_NoSynchronization]:
        """Return this class: an actor that is not started needs no node."""
        return cls

    @classmethod
    def remote(cls, **_: Any) -> _NoSynchronization:
        """Return an object that stands where the handle of the actor would."""
        return cls()


class LaneWorkerGroup(WorkerGroup):
    """A worker group whose processes Ray starts directly, without an actor for collective calls.

    Train passes variables to its workers as a runtime environment. Ray then starts each process twice, the first time
    to set the variables. Here each worker sets them itself, before Train prepares it. Ranks of a lane report to the hub
    and meet in their process group, so that no call of theirs goes through the synchronization actor.
    """

    @staticmethod
    def _get_worker_runtime_env(custom_runtime_env: Any) -> Any:
        return custom_runtime_env

    def _init_train_context(self, workers: list[Any], sync_actor: Any) -> None:  # noqa: ARG002
        environment = environment_of_lane()
        ray.get([worker.execute_async(set_environment, environment) for worker in workers])
        super()._init_train_context(workers, None)  # type: ignore[arg-type]

    def set_required_barrier_ranks(self, ranks: Any) -> bool:  # noqa: ARG002
        """Return that nothing was changed: there is no barrier."""
        return False


class LaneController(TrainController):
    """Controller of a lane: Train's, with a `LaneWorkerGroup`.

    Args:
        environment: Variables to set in its process, which has no runtime environment.
        settings: Arguments of Train's controller.
    """

    worker_group_cls = LaneWorkerGroup

    def __init__(self, environment: Mapping[str, str], **settings: Any) -> None:
        set_environment(environment)
        # This process controls one lane and nothing else.
        vars(worker_group_module)["SynchronizationActor"] = _NoSynchronization
        vars(worker_group_state)["_shutdown_sync_actor"] = lambda _: None
        super().__init__(**settings)
