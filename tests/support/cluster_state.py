"""What lives on the connected Ray cluster, to see that a sweep leaves nothing behind."""

from __future__ import annotations

import time
from typing import Any

import ray
from ray.util import placement_group_table


def live_actors() -> list[str]:
    """Without the one service Ray Train starts for all jobs of a cluster and keeps."""
    alive = [actor["ActorClassName"] for actor in ray._private.state.actors().values() if actor["State"] != "DEAD"]
    return [name for name in alive if name != "_AutoscalingCoordinatorActor"]


def live_placement_groups() -> list[Any]:
    return [group for group in placement_group_table().values() if group["state"] != "REMOVED"]


def assert_nothing_left() -> None:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and (live_actors() or live_placement_groups()):
        time.sleep(0.2)
    assert live_actors() == []
    assert live_placement_groups() == []
