"""Reports of a lane's controller to the hub: the losses of its worker group."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import ray
from ray.exceptions import RayActorError

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
_WAIT_S = 1.0  # the interval at which Train polls the resources for an elastic group


class StatusReporter(ControllerCallback, WorkerGroupCallback):
    """Callback of Ray Train in the controller of a lane.

    Args:
        lane: Index of the lane.
        hub: Handle of the hub.
    """

    def __init__(self, lane: int, hub: Any) -> None:
        self._lane = lane
        self._hub = hub
        self._lost_nodes = LostNodes()

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Store the ranks of the group."""
        self._lost_nodes.set_workers(worker_group.get_workers())

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Report the loss of the worker group, and whether it is exempt from the trial's failures; may block.

        Sleep briefly while an elastic group waits for its minimum number of workers: Train repeats the decision to do
        nothing without a delay, which would use a whole core per waiting lane and report one loss thousands of times.
        """
        if current_state is previous_state:
            time.sleep(_WAIT_S)
        error = getattr(current_state, "training_failed_error", None)
        # An exemption is awaited: the hub need not run calls in the order in which they are sent.
        if isinstance(current_state, _LOSS_TO_COME) or (error is not None and is_preemption_failure(error)):
            ray.get(self._hub.exempt_loss.remote(self._lane))
        elif self._lost_nodes.caused(error):
            ray.get(self._hub.node_lost.remote(self._lane))
        if isinstance(current_state, _GROUP_GONE):
            # Awaited, so that no report is under way when the sweep ends and its hub is killed.
            with contextlib.suppress(RayActorError):
                ray.get(self._hub.group_lost.remote(self._lane))
