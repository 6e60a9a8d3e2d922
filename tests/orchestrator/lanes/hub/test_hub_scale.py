"""Cost of a call to the hub by the number of lanes, and the order in which ready lanes are leased."""

from __future__ import annotations

import asyncio
import gc
import sys
from typing import Any

import pytest

from orchestrator.lanes.hub.hub import LaneHub
from orchestrator.lanes.messages import Outcome, Report, TrialAssignment
from tests.support.hub.hub_calls import A, B, in_loop, rank_id, settled, short_waits

__all__ = ["short_waits"]  # a fixture


async def _lane_with_a_trial(hub: LaneHub, lane: int) -> TrialAssignment:
    """Lease a lane of two ranks to a trial of its own."""
    assignment = TrialAssignment(f"trial-{lane}", {}, "")
    ranks = [asyncio.ensure_future(hub.next_assignment(rank_id(rank, lane=lane))) for rank in (0, 1)]
    assert await hub.lease(assignment) == lane
    await asyncio.gather(*ranks)
    return assignment


async def _work_of_an_epoch(lanes: int) -> int:
    """Count the Python functions that run while the ranks of one lane report and its client acknowledges."""
    hub, waiting = LaneHub(), []
    for lane in range(lanes):
        assignment = await _lane_with_a_trial(hub, lane)
        waiting.append(asyncio.ensure_future(hub.next_event(assignment, lane, 0)))
    await settled()
    ran = 0

    def count(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal ran
        ran += event == "call"

    middle = TrialAssignment(f"trial-{lanes // 2}", {}, "")
    gc.disable()  # finalizers of what earlier tests left would count
    sys.setprofile(count)
    try:
        ranks = [
            asyncio.ensure_future(hub.report(rank_id(rank, lane=lanes // 2), middle, Report(1, {"x": 1.0})))
            for rank in (0, 1)
        ]
        await waiting[lanes // 2]
        more = asyncio.ensure_future(hub.next_event(middle, lanes // 2, 1))
        await asyncio.gather(*ranks)
    finally:
        sys.setprofile(None)
        gc.enable()
    await hub.close()
    await asyncio.gather(more, *waiting)
    return ran


def test_the_work_of_an_epoch_does_not_grow_with_the_number_of_lanes() -> None:
    assert asyncio.run(_work_of_an_epoch(500)) == asyncio.run(_work_of_an_epoch(5))


@in_loop
async def test_lanes_that_become_ready_at_once_are_leased_to_all_waiting_trials() -> None:
    hub = LaneHub()
    leases = [asyncio.ensure_future(hub.lease(TrialAssignment(str(number), {}, ""))) for number in range(20)]
    await settled()
    ranks = [asyncio.ensure_future(hub.next_assignment(rank_id(0, lane=lane, world_size=1))) for lane in range(20)]
    assert sorted(await asyncio.gather(*leases)) == list(range(20))
    assert {assignment.trial_id for assignment in await asyncio.gather(*ranks)} == {str(number) for number in range(20)}


@pytest.mark.parametrize("leaves", ["is cancelled", "has ended"])
@in_loop
async def test_a_client_that_no_longer_needs_a_lane_leaves_it_to_the_next(leaves: str) -> None:
    hub = LaneHub()
    first, second = asyncio.ensure_future(hub.lease(A)), asyncio.ensure_future(hub.lease(B))
    await settled()
    rank = asyncio.ensure_future(hub.next_assignment(rank_id(0, world_size=1)))
    while not (await hub.hub_state()).alive:  # then the lane is ready, and the first in line woken
        await asyncio.sleep(0)
    if leaves == "is cancelled":
        first.cancel()
    else:
        await hub.release("a")
    assert (await second, await rank) == (0, B)
    if leaves == "has ended":
        assert await first == 0
        assert (await hub.next_event(A, 0, 0)).kind is Outcome.STOPPED
