"""Ray Train's watch for nodes that are about to be taken away, begun after the workers have loaded what they need."""

from __future__ import annotations

import time
from typing import Any

from orchestrator.runtime.ray_private.train_controller import PreemptionCallback

# A notice stands until its node is gone, so one that came earlier is still seen.
_WORKERS_LOAD_S = 15.0


class LatePreemptionCallback(PreemptionCallback):
    """Starts the watcher's process some seconds after a worker group, which it would slow down at its cold start."""

    def __init__(self) -> None:
        super().__init__()
        self._to_watch: tuple[float, Any] | None = None

    def after_worker_group_start(self, worker_group: Any) -> None:
        """The group's workers begin to import torch and the networks."""
        self._stop_watcher()
        self._to_watch = time.monotonic() + _WORKERS_LOAD_S, worker_group

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:  # noqa: ARG002
        """Every 2 s."""
        if self._to_watch is not None and time.monotonic() >= self._to_watch[0]:
            group = self._to_watch[1]
            self._to_watch = None
            super().after_worker_group_start(group)

    def _stop_watcher(self) -> None:
        self._to_watch = None
        super()._stop_watcher()
