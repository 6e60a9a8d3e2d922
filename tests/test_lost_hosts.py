"""The loss of a host is told from the death of a worker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from orchestrator.lanes import lost_hosts
from orchestrator.lanes.lost_hosts import LostHosts

AWAY = WorkerHealthCheckFailedError("a health check failed", RayActorError())
PEER = RuntimeError("Connection reset by peer")


class Group:
    """Two ranks on two nodes.

    Args:
        answers: Of the rank that is away, each time it is asked; the last one again and again.
        dies: After so many looks at the nodes, node 1 is not among the living any more.
    """

    def __init__(self, *answers: bool | None, dies: int | None = None) -> None:
        self._answers, self._dies, self.looks = list(answers), dies, 0
        self.hosts = LostHosts(self.answer, self.living)
        self.hosts.remember([self.worker(0), self.worker(1)])

    def worker(self, rank: int) -> Any:
        return SimpleNamespace(actor=rank, metadata=SimpleNamespace(node_id=f"node-{rank}"))

    def answer(self, actor: int) -> bool | None:
        assert actor == 1
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    def living(self) -> set[str]:
        self.looks += 1
        gone = self._dies is not None and self.looks > self._dies
        return {"node-0", "elsewhere"} | ({"node-1"} if not gone else set())

    def explains(self, failures: dict[int, Exception]) -> bool:
        return self.hosts.explain(SimpleNamespace(worker_failures=failures))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_hosts, "_ASK_AGAIN_S", 0.0)
    monkeypatch.setattr(lost_hosts, "_SETTLE_S", 0.05)


def test_a_killed_worker_is_no_lost_host() -> None:
    assert not Group(False).explains({0: PEER, 1: AWAY})


def test_a_host_is_waited_for_until_it_is_known_to_be_dead() -> None:
    group = Group(None, dies=3)
    assert group.explains({0: PEER, 1: AWAY})
    assert group.looks > 3


def test_a_worker_that_died_with_its_host_was_not_killed() -> None:
    assert Group(False, dies=1).explains({1: RayActorError()})
    assert Group(False, dies=3).explains({1: RayActorError()})  # known of the worker first, then of its host


def test_a_worker_that_answers_again_was_cut_off() -> None:
    assert Group(None, None, True).explains({1: AWAY})


def test_what_ranks_raise_themselves_is_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group(None)
    assert not group.explains({0: PEER, 1: ValueError()})
    assert not group.hosts.explain(None)
    assert not group.hosts.explain(RuntimeError("the controller's own"))
    assert group.looks == 0


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_hosts, "_PATIENCE_S", 0.05)
    assert not Group(None).explains({1: AWAY})
