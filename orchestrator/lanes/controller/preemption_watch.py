"""Watch for preempted nodes of a worker group, in the controller of its lane."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from orchestrator.runtime.ray_private.train_controller import PreemptionCallback, PreemptionWatcher


class PreemptionWatch(PreemptionCallback):
    """Callback of Ray Train that watches the nodes of each worker group in a thread of the controller.

    Train's own watch does the same in an actor, a process for each lane that imports Train as the workers start.
    """

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Begin the watch; its thread polls the control service and marks the workers."""
        self._stop_watcher()
        ranks_of_node: dict[str, list[int]] = defaultdict(list)
        actors: dict[int, Any] = {}
        for worker in worker_group.get_workers():
            rank = worker.distributed_context.world_rank
            ranks_of_node[worker.metadata.node_id].append(rank)
            actors[rank] = worker.actor
        self._watcher: Any = PreemptionWatcher(dict(ranks_of_node), self._poll_interval_s, actors)

    def _stop_watcher(self) -> None:
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher = None
