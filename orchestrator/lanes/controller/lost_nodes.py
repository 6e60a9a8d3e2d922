"""Distinction of node and network failures, which are no failure of the trial, from workers that were killed.

When a node fails, its workers are at first only unavailable; Ray takes the node for dead after several failed health
checks. Waiting for that costs nothing: until then Ray would place the next worker group there as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError, RayActorError

_NODE_DEATH_TIMEOUT_S = 90.0  # Ray's own: five health checks, 3 s apart, of 10 s each
_READY_TIMEOUT_S = 2.0
_POLL_INTERVAL_S = 0.5
_TABLE_DELAY_S = 3.0  # Ray reports the death of a worker before its table of nodes shows the death of the node
NODE_DIED = "because its node has died"
"""Part of Ray's text for an actor that died with its node; the text alone says so before the table of nodes does."""


class LostNodes:
    """Check for node failures under the ranks of a worker group; in the lane's controller.

    Args:
        answers: Returns True for an actor that answers, or that died with its node; False for one that died alone, None
            while that is unknown.
        living: Returns the ids of the living nodes.
    """

    def __init__(
        self, answers: Callable[[Any], bool | None] | None = None, living: Callable[[], set[str]] | None = None
    ) -> None:
        self._answers = answers or _answers
        self._living = living or _living_nodes
        self._workers: list[Any] = []

    def set_workers(self, workers: list[Any]) -> None:
        """Store the ranks of a new worker group, in order, as Ray Train describes them."""
        self._workers = workers

    def caused(self, error: Any) -> bool:
        """Return whether the failure of a node or its network caused an error; blocks until Ray has decided.

        Args:
            error: Error of a worker group, with `worker_failures` by rank; or any other, or None.
        """
        failures: Mapping[int, Any] = getattr(error, "worker_failures", {})
        ranks = [rank for rank, failure in failures.items() if _is_away(failure) and rank < len(self._workers)]
        came_back = [self._answers_again(self._workers[rank]) for rank in ranks]
        nodes = {worker.metadata.node_id for worker in self._workers}
        return bool(ranks) and (any(came_back) or self._lost_one_of(nodes))

    def _lost_one_of(self, nodes: set[str]) -> bool:
        """Return whether a node is dead; wait briefly for Ray's table of nodes to show it."""
        deadline = time.monotonic() + _TABLE_DELAY_S
        while nodes <= self._living():
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_INTERVAL_S)
        return True

    def _answers_again(self, worker: Any) -> bool | None:
        """Return whether a rank that did not answer does so again, or died with its node: not it has failed."""
        over = time.monotonic() + _NODE_DEATH_TIMEOUT_S
        while time.monotonic() < over and worker.metadata.node_id in self._living():
            answer = self._answers(worker.actor)
            if answer is not None:
                return answer
            time.sleep(_POLL_INTERVAL_S)
        return None


def _is_away(failure: Any) -> bool:
    """Return whether a rank has failed by no longer answering; the errors of its peers follow from that."""
    return isinstance(getattr(failure, "health_check_failure", failure), RayActorError)


def _answers(actor: Any) -> bool | None:
    try:
        ray.get(actor.__ray_ready__.remote(), timeout=_READY_TIMEOUT_S)
    except ActorDiedError as death:
        return NODE_DIED in str(death)
    except (ActorUnavailableError, GetTimeoutError):
        return None
    return True


def _living_nodes() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}
