"""What Ray Train's controller of a lane tells the hub: who it is, and what becomes of its worker group."""

from __future__ import annotations

import time
from typing import Any

import ray

from orchestrator.lanes.controller.lost_nodes import LostNodes
from orchestrator.runtime.ray_private.train_controller import (
    ControllerCallback,
    WorkerGroupCallback,
    controller_states,
    is_preemption_failure,
)

_GROUP_GONE = (
    controller_states.RestartingState,
    controller_states.ReschedulingState,
    controller_states.ShuttingDownState,
    controller_states.ErroredState,
    controller_states.FinishedState,
)
_LOSS_TO_COME = (controller_states.PreemptingState, controller_states.ResizingState)
# Train looks at a group every 2 s; to hear from a thousand controllers as often would take the hub a third of its time.
_REPEAT_S = 10.0
_WAIT_S = 1.0  # as often as Train itself asks what the cluster has for an elastic group


class StatusReporter(ControllerCallback, WorkerGroupCallback):
    """Runs in the controller of a lane. It repeats itself, for a hub that was restarted has heard nothing.

    Args:
        lane: Index of the lane.
        hub: Handle of the hub.
    """

    def __init__(self, lane: int, hub: Any) -> None:
        self._lane = lane
        self._hub = hub
        self._announced_s = -_REPEAT_S
        self._hosts = LostNodes()

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Its ranks are where they will be."""
        self._hosts.remember(worker_group.get_workers())

    def after_controller_start(self, *_: Any, **__: Any) -> None:
        """The driver can abort the controller from now on, if it does not end by itself."""
        self._announce()

    def after_worker_group_poll_status(self, *_: Any, **__: Any) -> None:
        """The hub may be another one by now."""
        if time.monotonic() - self._announced_s > _REPEAT_S:
            self._announce()

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Tells losses of the worker group, and which of them are nobody's failure.

        While an elastic group waits for its least number of workers, Train decides again and again, without a pause,
        to do nothing: that took a whole core for each lane that waits, and told the hub of one loss a thousand times.
        """
        if current_state is previous_state:
            time.sleep(_WAIT_S)
        error = getattr(current_state, "training_failed_error", None)
        if isinstance(current_state, _LOSS_TO_COME) or (error is not None and is_preemption_failure(error)):
            self._hub.exempt_loss.remote(self._lane)
        elif self._hosts.explain(error):
            self._hub.node_lost.remote(self._lane)
        if isinstance(current_state, _GROUP_GONE):
            self._hub.group_lost.remote(self._lane)

    def _announce(self) -> None:
        self._announced_s = time.monotonic()
        controller = ray.get_runtime_context().current_actor
        self._hub.adopt_controller.remote(self._lane, controller)
