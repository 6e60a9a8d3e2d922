"""Private names of Ray Train (2.60) that run in the controller of a worker group; they import no torch."""

from __future__ import annotations

# Base class of our watch for preemptions, which only begins later than Train's own.
from ray.train.v2._internal.callbacks.preemption_callback import PreemptionCallback

# Base classes of what follows a controller and its worker group; `ray.train.UserCallback` sees reports only.
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback

# States of a controller, from which losses of the worker group are recognised.
from ray.train.v2._internal.execution.controller import state as controller_states

# Train's own distinction between preemptions and failures; there is no public one.
from ray.train.v2._internal.execution.failure_handling.default import _is_preemption_failure as is_preemption_failure

__all__ = [
    "ControllerCallback",
    "PreemptionCallback",
    "WorkerGroupCallback",
    "controller_states",
    "is_preemption_failure",
]
