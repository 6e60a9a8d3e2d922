"""Following a job's log: broken connections, and Ctrl-C at a terminal."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from cluster import following
from cluster.following import Detached, follow
from cluster.job_client import SweepJob
from orchestrator.errors import ClusterError

LOG = ["first\n", "second\n", "third\n"]


class Cluster:
    """A job whose log is streamed from its beginning on every connection.

    Args:
        connections: Pieces that each one tells before it ends, and how it ends: normally, or with an error.
    """

    address = "http://head:8265"

    def __init__(self, *connections: tuple[int, BaseException | None]) -> None:
        self.connections = list(connections)
        self.stopped = False
        self.ray: Any = SimpleNamespace(tail_job_logs=self._tail)

    async def _tail(self, job: str) -> AsyncIterator[str]:
        pieces, error = self.connections.pop(0)
        for piece in LOG[:pieces]:
            yield piece
        if error is not None:
            raise error

    def look(self, job: str) -> SweepJob:
        state = "STOPPED" if self.stopped else "SUCCEEDED" if not self.connections else "RUNNING"
        return SweepJob("digits", job, state, "", 0, None, None, None)

    def stop(self, job: str) -> bool:
        self.stopped = True
        return True


@pytest.fixture(autouse=True)
def at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_PAUSE_S", 0.0)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))


def followed(cluster: Cluster) -> tuple[SweepJob, list[str]]:
    shown: list[str] = []
    return follow(cluster, cluster.look("digits"), shown.append), shown  # type: ignore[arg-type]


def test_a_broken_connection_is_taken_up_where_it_broke() -> None:
    ended, shown = followed(Cluster((1, RuntimeError("closed")), (2, None), (2, OSError("away")), (3, None)))
    assert (ended.state, shown) == ("SUCCEEDED", LOG)


def test_a_log_that_cannot_be_had_is_given_up_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_PATIENCE_S", -1.0)
    with pytest.raises(ClusterError, match=r"closed. The job continues; .* logs digits --address http://head:8265 -"):
        followed(Cluster((0, RuntimeError("closed")), (3, None)))


def test_ctrl_c_asks_and_heeds_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["w", "s"])
    monkeypatch.setattr(typer, "prompt", lambda *_, **__: next(answers))
    cluster = Cluster((1, KeyboardInterrupt()), (2, KeyboardInterrupt()), (3, None))
    ended, shown = followed(cluster)
    assert (ended.state, shown, cluster.stopped) == ("STOPPED", LOG, True)


@pytest.mark.parametrize("terminal", [True, False])
def test_ctrl_c_leaves_the_job_alone_unless_told_otherwise(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: terminal))
    monkeypatch.setattr(typer, "prompt", lambda *_, default, **__: default)
    cluster = Cluster((1, KeyboardInterrupt()), (3, None))
    with pytest.raises(Detached):
        followed(cluster)
    assert not cluster.stopped
