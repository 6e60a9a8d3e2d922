"""Actors and placement groups of the connected Ray cluster, to check that a sweep leaves none."""

from __future__ import annotations

import time
from typing import Any

import ray
from ray.util import placement_group_table


def live_actors() -> list[str]:
    """Return the classes of live actors, without the service that Ray Train keeps for all jobs of a cluster."""
    alive = [actor["ActorClassName"] for actor in ray._private.state.actors().values() if actor["State"] != "DEAD"]
    return [name for name in alive if name != "_AutoscalingCoordinatorActor"]


def live_placement_groups() -> list[Any]:
    return [group for group in placement_group_table().values() if group["state"] != "REMOVED"]


def assert_nothing_left() -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and (live_actors() or live_placement_groups()):
        time.sleep(0.2)
    assert live_actors() == []
    assert live_placement_groups() == []
