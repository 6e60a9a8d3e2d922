"""Time in which a trial holds a lane, as the hub counts it, in virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from orchestrator.lanes.hub.hub import LaneHub
from orchestrator.lanes.messages import Report
from tests.support.hub.hub_calls import A, B, both, in_loop, rank_id, reporting, settled, short_waits, started, waiting

__all__ = ["short_waits"]  # a fixture


async def held_s(hub: LaneHub, after: int, told_s: float = 0.0) -> float:
    """Return the held time of the next report of trial A, as its client gets it."""
    event = await hub.next_event(replace(A, held_s=told_s), 0, after)
    assert isinstance(event, Report)
    return round(event.held_s, 3)


@in_loop
async def test_a_wait_for_a_lane_is_not_counted() -> None:
    hub = LaneHub()
    lease = asyncio.ensure_future(hub.lease(A))
    await asyncio.sleep(30.0)
    assert (await hub.hub_state()).held == {}
    await asyncio.gather(*both(hub.join))
    ranks = waiting(hub)
    assert await lease == 0
    assert (await hub.hub_state()).held == {"a": 0}
    await asyncio.gather(*ranks)
    await asyncio.sleep(20.0)
    reporting(hub, 1)
    assert await held_s(hub, 0) == 20.0


@in_loop
async def test_a_trial_whose_lane_was_lost_is_not_counted_until_another_has_started() -> None:
    hub = LaneHub(max_failures=1)
    await started(hub)
    await asyncio.sleep(20.0)
    await hub.group_lost(0)
    assert (await hub.hub_state()).held == {}
    event = asyncio.ensure_future(held_s(hub, 0))
    await asyncio.sleep(100.0)
    await asyncio.gather(*both(hub.join, 2))
    await asyncio.sleep(50.0)  # its ranks place their dataset
    first = asyncio.ensure_future(hub.next_assignment(rank_id(0, 2)))
    assert await settled(first) == [True]
    assert (await hub.hub_state()).held == {}
    assert await hub.next_assignment(rank_id(1, 2)) == A
    assert (await hub.hub_state()).held == {"a": 0}
    await asyncio.sleep(7.0)
    reporting(hub, 1, generation=2)
    assert await event == 27.0


@in_loop
async def test_a_replaced_client_and_a_restarted_hub_count_on() -> None:
    hub = LaneHub()
    await started(hub)
    await asyncio.sleep(100.0)
    ranks = reporting(hub, 1)
    assert await held_s(hub, 0) == 100.0
    event = asyncio.ensure_future(held_s(hub, 1))  # of another client, which has received nothing
    await asyncio.gather(*ranks)
    await asyncio.sleep(100.0)
    reporting(hub, 2)
    assert await event == 200.0
    hub = LaneHub()  # and Ray retries the call of the client
    event = asyncio.ensure_future(held_s(hub, 2, told_s=200.0))
    await settled(event)
    assert (await hub.hub_state()).held == {"a": 0}
    await asyncio.sleep(50.0)
    reporting(hub, 3)
    assert await event == 250.0


@in_loop
async def test_a_trial_that_has_yielded_its_lane_is_not_counted() -> None:
    hub = LaneHub()
    await started(hub)
    await asyncio.sleep(10.0)
    ranks = reporting(hub, 1)
    assert await held_s(hub, 0) == 10.0
    yielded = asyncio.ensure_future(hub.yield_lane("a", forced=True))
    await asyncio.gather(*ranks)
    idle = both(lambda rank: hub.next_assignment(rank, A))
    assert await yielded
    await asyncio.sleep(60.0)
    assert await hub.lease(A) == 0
    await asyncio.gather(*idle)
    await asyncio.sleep(5.0)
    reporting(hub, 2)
    assert await held_s(hub, 1) == 15.0


@in_loop
async def test_a_generation_is_ready_once_every_rank_has_started() -> None:
    hub = LaneHub(max_failures=1)
    assert await hub.ready_generation(0) == -1
    await asyncio.gather(*both(hub.join))
    first = asyncio.ensure_future(hub.next_assignment(rank_id(0)))
    assert await settled(first) == [False]
    assert await hub.ready_generation(0) == -1  # a rank fails where its node lacks the dataset
    await started(hub, B, generation=2)
    assert await hub.ready_generation(0) == 2
    await hub.group_lost(0)
    await asyncio.gather(*both(hub.join, 3))
    assert await hub.ready_generation(0) == 2
    assert await hub.next_assignment(rank_id(0, 3)) == B  # before its peer has started
    assert await hub.ready_generation(0) == 2
    hub = LaneHub()
    reporting(hub, 4)
    await settled()
    assert await hub.ready_generation(0) == 1
