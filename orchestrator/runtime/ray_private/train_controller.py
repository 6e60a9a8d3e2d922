"""Private names of Ray Train (2.60) that run in the controller of a worker group; they import no torch."""

from __future__ import annotations

# Base class of our watch for preemptions, which Train's controller calls when worker groups start and end.
from ray.train.v2._internal.callbacks.preemption_callback import PreemptionCallback

# Base classes of what follows a controller and its worker group; `ray.train.UserCallback` sees reports only.
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback

# States of a controller, from which losses of the worker group are recognised.
from ray.train.v2._internal.execution.controller import state as controller_states

# Train's own distinction between preemptions and failures; there is no public one.
from ray.train.v2._internal.execution.failure_handling.default import _is_preemption_failure as is_preemption_failure

# Train's own thread that polls the control service; Train runs it in an actor.
from ray.train.v2._internal.execution.preemption import PreemptionWatcher as _TrainsWatcher

__all__ = [
    "ControllerCallback",
    "PreemptionCallback",
    "PreemptionWatcher",
    "WorkerGroupCallback",
    "controller_states",
    "is_preemption_failure",
]


class PreemptionWatcher(_TrainsWatcher):
    """Thread that polls for the drain of a worker group's nodes and marks its workers; Train only ever kills it."""

    def stop(self) -> None:
        """End the thread at its next poll."""
        self._stop_event.set()
