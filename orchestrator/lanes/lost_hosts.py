"""Whether a worker group was lost with a host or its network: no fault of the trial, unlike a worker that was killed.

When a host goes, its workers are first no more than unavailable; that the host is dead is known when it has failed
several health checks. Nothing is lost by waiting for that: until then Ray would place the next group there as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError, RayActorError

_PATIENCE_S = 90.0  # Ray's own: five health checks, 3 s apart, of 10 s each
_ANSWER_S = 2.0
_ASK_AGAIN_S = 0.5
_SETTLE_S = 1.0  # the death of a node is announced to its workers' owners before its table shows it


class LostHosts:
    """Knows where the ranks of a worker group are, and finds out what has become of them.

    Args:
        answers: Whether an actor is there, or will never be again; None while nobody knows.
        living: Ids of the living nodes.
    """

    def __init__(
        self, answers: Callable[[Any], bool | None] | None = None, living: Callable[[], set[str]] | None = None
    ) -> None:
        self._answers = answers or _answers
        self._living = living or _living_nodes
        self._workers: list[Any] = []

    def remember(self, workers: list[Any]) -> None:
        """The ranks of a new worker group, in order, as Ray Train describes them."""
        self._workers = workers

    def explain(self, error: Any) -> bool:
        """Whether an error of Ray Train comes from the loss of a host, or of the way to it; waits until Ray knows.

        Args:
            error: Of a worker group, where its `worker_failures` tell what became of each rank; or any other, or None.
        """
        failures: Mapping[int, Any] = getattr(error, "worker_failures", {})
        ranks = [rank for rank, failure in failures.items() if _is_away(failure) and rank < len(self._workers)]
        fates = [self._wait_for_fate(self._workers[rank]) for rank in ranks]
        nodes = {worker.metadata.node_id for worker in self._workers}
        return bool(ranks) and (any(fates) or self._lose_one_of(nodes))

    def _lose_one_of(self, nodes: set[str]) -> bool:
        """Return whether a node is dead, or is found to be dead in a moment."""
        over = time.monotonic() + _SETTLE_S
        while nodes <= self._living():
            if time.monotonic() > over:
                return False
            time.sleep(_ASK_AGAIN_S)
        return True

    def _wait_for_fate(self, worker: Any) -> bool | None:
        """Whether a rank that did not answer answers again: then the network was away."""
        over = time.monotonic() + _PATIENCE_S
        while time.monotonic() < over and worker.metadata.node_id in self._living():
            answer = self._answers(worker.actor)
            if answer is not None:
                return answer
            time.sleep(_ASK_AGAIN_S)
        return None


def _is_away(failure: Any) -> bool:
    """Whether a rank has failed by no longer answering; its peers fail for want of it."""
    return isinstance(getattr(failure, "health_check_failure", failure), RayActorError)


def _answers(actor: Any) -> bool | None:
    try:
        ray.get(actor.__ray_ready__.remote(), timeout=_ANSWER_S)
    except ActorDiedError:
        return False
    except (ActorUnavailableError, GetTimeoutError):
        return None
    return True


def _living_nodes() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}
