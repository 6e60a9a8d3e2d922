"""Ray Train's watch for preempted nodes, started after the workers have imported torch and the networks."""

from __future__ import annotations

import time
from typing import Any

from orchestrator.runtime.ray_private.train_controller import PreemptionCallback

# A notice stays until its node is gone, so an earlier one is still found.
_WORKERS_LOAD_S = 15.0


class LatePreemptionCallback(PreemptionCallback):
    """Start the watcher's process some seconds after a worker group, whose start it would slow down."""

    def __init__(self) -> None:
        super().__init__()
        self._to_watch: tuple[float, Any] | None = None

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Schedule the watch; the workers import torch and the networks now."""
        self._stop_watcher()
        self._to_watch = time.monotonic() + _WORKERS_LOAD_S, worker_group

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:  # noqa: ARG002
        """Start the watch when it is due; Train calls this every 2 s."""
        if self._to_watch is not None and time.monotonic() >= self._to_watch[0]:
            group = self._to_watch[1]
            self._to_watch = None
            super().after_worker_group_start(group)

    def _stop_watcher(self) -> None:
        self._to_watch = None
        super()._stop_watcher()
