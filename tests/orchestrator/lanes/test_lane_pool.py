"""The driver's side of the lanes, while they close."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import ray

from orchestrator.lanes.pool import lane_pool
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
