"""Distinction of a node failure from a killed worker."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import ray
from ray.exceptions import ActorDiedError, RayActorError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from orchestrator.lanes.controller import lost_nodes
from orchestrator.lanes.controller.lost_nodes import NODE_DIED, LostNodes

AWAY = WorkerHealthCheckFailedError("a health check failed", RayActorError())
PEER = RuntimeError("Connection reset by peer")


class Group:
    """Two ranks on two nodes.

    Args:
        answers: Answers of the rank that is away, one for each check; the last one is repeated.
        dies: Number of checks of the nodes after which node 1 is dead.
    """

    def __init__(self, *answers: bool | None, dies: int | None = None) -> None:
        self._answers, self._dies, self.checks = list(answers), dies, 0
        self.nodes = LostNodes(self.answer, self.living)
        self.nodes.set_workers([self.worker(0), self.worker(1)])

    def worker(self, rank: int) -> Any:
        return SimpleNamespace(actor=rank, metadata=SimpleNamespace(node_id=f"node-{rank}"))

    def answer(self, actor: int) -> bool | None:
        assert actor == 1
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    def living(self) -> set[str]:
        self.checks += 1
        gone = self._dies is not None and self.checks > self._dies
        return {"node-0", "elsewhere"} | ({"node-1"} if not gone else set())

    def explains(self, failures: dict[int, Exception]) -> bool:
        return self.nodes.caused(SimpleNamespace(worker_failures=failures))


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for what comes, however late."""
    monkeypatch.setattr(lost_nodes, "_POLL_INTERVAL_S", 0.0)
    monkeypatch.setattr(lost_nodes, "_TABLE_DELAY_S", 600.0)
    monkeypatch.setattr(lost_nodes, "_NODE_DEATH_TIMEOUT_S", 600.0)


@pytest.fixture
def impatient(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait briefly for what does not come."""
    monkeypatch.setattr(lost_nodes, "_TABLE_DELAY_S", 0.05)
    monkeypatch.setattr(lost_nodes, "_NODE_DEATH_TIMEOUT_S", 0.05)


@pytest.mark.usefixtures("impatient")
def test_a_killed_worker_is_no_node_failure() -> None:
    assert not Group(False).explains({0: PEER, 1: AWAY})


def test_the_check_waits_until_ray_has_declared_the_node_dead() -> None:
    group = Group(None, dies=3)
    assert group.explains({0: PEER, 1: AWAY})
    assert group.checks > 3


def test_a_worker_that_died_with_its_node_was_not_killed() -> None:
    assert Group(False, dies=1).explains({1: RayActorError()})
    assert Group(False, dies=3).explains({1: RayActorError()})  # the death of the worker is known first


def test_a_worker_that_answers_again_had_no_network() -> None:
    assert Group(None, None, True).explains({1: AWAY})


def test_a_worker_whose_death_names_the_node_was_not_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    died = ActorDiedError()
    died.error_msg = f"The actor died {NODE_DIED}. Node Id: 4a79"
    monkeypatch.setattr(ray, "get", Mock(side_effect=died))
    actor = SimpleNamespace(__ray_ready__=Mock())
    assert lost_nodes._answers(actor) is True
    monkeypatch.setattr(ray, "get", Mock(side_effect=ActorDiedError()))
    assert lost_nodes._answers(actor) is False


def test_ray_names_the_death_of_a_node_in_these_words() -> None:
    server = Path(ray.__file__).parent / "core" / "src" / "ray" / "gcs" / "gcs_server"
    assert NODE_DIED.encode() in server.read_bytes()


def test_errors_of_the_ranks_themselves_are_no_node_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group(None)
    assert not group.explains({0: PEER, 1: ValueError()})
    assert not group.nodes.caused(None)
    assert not group.nodes.caused(RuntimeError("the controller's own"))
    assert group.checks == 0


@pytest.mark.usefixtures("impatient")
def test_the_check_has_a_timeout() -> None:
    assert not Group(None).explains({1: AWAY})
