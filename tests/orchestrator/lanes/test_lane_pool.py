"""The driver's side of the lanes, while they are restarted and while they close."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import RayError

from orchestrator.lanes.hub.hub import LaneHub
from orchestrator.lanes.messages import RankId
from orchestrator.lanes.pool import lane_pool, lane_trainer
from orchestrator.lanes.pool.lane_pool import LanePool


def test_a_controller_that_starts_while_the_lanes_close_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[Any] = []
    monkeypatch.setattr(ray, "kill", killed.append)
    monkeypatch.setattr(lane_pool, "actor_id", lambda controller: f"id of {controller}")
    pool = object.__new__(LanePool)
    pool._controllers, pool._creators, pool._closing = {}, {}, threading.Event()
    pool._add_controller(0, "early")
    assert (pool._controllers, pool._creators, killed) == ({0: "early"}, {"id of early": 0}, [])
    pool._closing.set()
    pool._add_controller(1, "late")
    assert killed == ["late"]


class _Hub:
    """Hub in this process whose calls are answered at once; `ray.get` is the identity here."""

    def __init__(self) -> None:
        self.hub = LaneHub()

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *arguments: asyncio.run(getattr(self.hub, name)(*arguments)))


def restarts(monkeypatch: pytest.MonkeyPatch, *, ready_in: Collection[int], at_most: int = 12) -> tuple[int, LanePool]:
    """Return how often a lane is run whose worker joins and fails, and is ready before in some runs only."""
    hub, runs = _Hub(), 0
    pool = object.__new__(LanePool)
    pool.hub, pool.failure, pool._closing = hub, None, threading.Event()
    pool._plan = SimpleNamespace(gpus_per_worker=0.0)
    pool._resources = pool._inputs = pool._scratch = None
    pool._creators = {}

    def run_lane(*_: Any) -> None:
        nonlocal runs
        rank = RankId(0, hub.new_generation.remote(0), 0, 1)
        hub.join.remote(rank)
        if runs in ready_in:
            hub.hub._table.wait(hub.hub._table.lane_of(rank), 0, None, None)
        runs += 1
        if runs == at_most:
            pool._closing.set()
        raise RuntimeError("no such dataset")

    monkeypatch.setattr(ray, "get", lambda answer: answer)
    monkeypatch.setattr(lane_pool, "remove_placement_groups_of", lambda actors: None)
    monkeypatch.setattr(lane_trainer, "run_lane", run_lane)
    pool._keep_running(0)
    return runs, pool


def test_a_lane_whose_workers_join_and_then_fail_is_retired(monkeypatch: pytest.MonkeyPatch) -> None:
    runs, pool = restarts(monkeypatch, ready_in=())
    assert (runs, str(pool.failure)) == (3, "no such dataset")
    runs, pool = restarts(monkeypatch, ready_in=(0, 3))  # three starts in a row that fail
    assert (runs, str(pool.failure)) == (7, "no such dataset")


def test_a_lane_that_was_ready_is_restarted_without_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    runs, pool = restarts(monkeypatch, ready_in=range(12))
    assert (runs, pool.failure) == (12, None)


def test_a_lane_ends_quietly_with_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = object.__new__(LanePool)
    pool.failure, pool._closing = None, threading.Event()
    lost = RayError("the hub died with its node")

    def keep_running(_: int) -> None:
        raise lost

    monkeypatch.setattr(pool, "_keep_running", keep_running)
    pool._run_until_closed(0)
    assert pool.failure is lost
    pool.failure = None
    pool._closing.set()
    pool._run_until_closed(0)
    assert pool.failure is None
