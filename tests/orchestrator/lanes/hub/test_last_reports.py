"""Last reports of trials, which ranks deliver with their request for the next trial."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchestrator.lanes.hub.hub import LaneHub
from orchestrator.lanes.messages import Next, Report
from tests.support.hub.hub_calls import FAILED, STOPPED, A, B, both, in_loop, rank_id, settled, short_waits, started

__all__ = ["short_waits"]
LAST = 3


def completing(hub: LaneHub, generation: int = 1) -> list[asyncio.Task[Any]]:
    """Deliver the last report of trial A from both ranks of lane 0."""
    return both(lambda rank: completed(hub, rank.rank, generation), generation)


async def completed(hub: LaneHub, rank: int, generation: int = 1) -> Any:
    return await hub.next_assignment(rank_id(rank, generation), A, Report(LAST, {"x": rank}, is_last=True))


@in_loop
async def test_ranks_leave_a_trial_with_its_last_report_and_wait_until_tune_has_ended_it() -> None:
    hub = LaneHub()
    await started(hub)
    event = asyncio.ensure_future(hub.next_event(A, 0, LAST - 1))
    first = asyncio.ensure_future(completed(hub, 0))
    assert await settled(first, event) == [False, False]  # not before every rank has delivered it
    second = asyncio.ensure_future(completed(hub, 1))
    assert await event == Report(LAST, {"x": 0}, is_last=True)
    lease = asyncio.ensure_future(hub.lease(B))
    assert await settled(first, second, lease) == [False] * 3
    await hub.release("a")
    assert await asyncio.gather(first, second, lease) == [B, B, 0]


@in_loop
async def test_a_lane_that_is_released_before_its_last_rank_has_left_is_free_afterwards() -> None:
    hub = LaneHub()
    await started(hub)
    lease = asyncio.ensure_future(hub.lease(B))
    first = asyncio.ensure_future(completed(hub, 0))
    await settled(first)
    await hub.release("a")
    assert await settled(first, lease) == [False, False]
    assert await completed(hub, 1) == B
    assert await asyncio.gather(first, lease) == [B, 0]


@in_loop
async def test_a_rank_that_fails_after_the_last_report_of_its_peer_is_retried_with_it() -> None:
    hub = LaneHub(max_failures=1)
    await started(hub)
    first = asyncio.ensure_future(completed(hub, 0))
    await settled(first)
    assert await hub.finish(rank_id(1), A, FAILED) is Next.STAY
    assert await settled(first) == [False]
    assert await hub.next_assignment(rank_id(1), A) == A
    assert await first == A


@in_loop
async def test_a_group_that_is_lost_with_its_last_report_delivers_it_again() -> None:
    hub = LaneHub(max_failures=1)
    await started(hub)
    completing(hub)
    await settled()
    await hub.group_lost(0)
    client = asyncio.ensure_future(hub.next_event(A, 0, LAST - 1))
    await asyncio.gather(*both(hub.join, generation=2))
    assert await asyncio.gather(*both(hub.next_assignment, generation=2)) == [A, A]
    completing(hub, generation=2)
    assert (await client).epoch == LAST


@pytest.mark.parametrize("client_first", [True, False])
@in_loop
async def test_repeated_last_reports_reach_the_client_of_a_restarted_hub_once(client_first: bool) -> None:
    hub = LaneHub()
    client = asyncio.ensure_future(hub.next_event(A, 0, LAST - 1)) if client_first else None
    await settled()
    ranks = completing(hub)
    await settled()
    client = client or asyncio.ensure_future(hub.next_event(A, 0, LAST - 1))
    assert (await client).epoch == LAST
    assert await settled(*ranks) == [False, False]
    await hub.release("a")
    assert await hub.lease(B) == 0
    assert await asyncio.gather(*ranks) == [B, B]


@pytest.mark.parametrize("is_released", [True, False])
@in_loop
async def test_a_restarted_hub_frees_the_lane_of_a_completed_trial_without_a_client(is_released: bool) -> None:
    hub = LaneHub()
    if is_released:
        await hub.release("a")
    ranks = completing(hub)
    await hub.acknowledge("a", 1)  # by a driver that had not known yet that it has ended
    lease = asyncio.ensure_future(hub.lease(B))
    assert await settled(lease) == [is_released]  # otherwise after the grace period
    assert await asyncio.gather(*ranks, lease) == [B, B, 0]


@in_loop
async def test_completed_ranks_return_when_the_sweep_ends() -> None:
    hub = LaneHub()
    await started(hub)
    ranks = completing(hub)
    await settled()
    await hub.close()
    assert await asyncio.gather(*ranks) == [None, None]


@in_loop
async def test_a_restarted_hub_repeats_a_trial_whose_last_report_one_rank_lacks() -> None:
    hub = LaneHub()  # the last one has answered the failure of rank 1
    client = asyncio.ensure_future(hub.next_event(A, 0, LAST - 1))
    first = asyncio.ensure_future(completed(hub, 0))
    await settled(first)
    assert await hub.next_assignment(rank_id(1), A) == A
    assert await first == A
    completing(hub)
    assert (await client).epoch == LAST


@in_loop
async def test_a_restarted_hub_repeats_a_trial_that_was_stopped_for_a_peer() -> None:
    hub = LaneHub()
    client = asyncio.ensure_future(hub.next_event(A, 0, LAST - 1))
    first = asyncio.ensure_future(hub.next_assignment(rank_id(1), A))
    await settled(first)
    assert await hub.finish(rank_id(0), A, STOPPED) is Next.STAY
    assert await hub.next_assignment(rank_id(0), A) == A
    assert await first == A
    assert await settled(client) == [False]
