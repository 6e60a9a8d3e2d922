"""Restart of the hub: it begins empty, and Ray retries the calls of ranks and clients that were not answered."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.lanes.hub.hub import LaneHub
from orchestrator.lanes.messages import Decision, Next, Report
from tests.support.hub.hub_calls import (
    COMPLETED,
    FAILED,
    STOPPED,
    A,
    B,
    both,
    finishing,
    in_loop,
    rank_id,
    reporting,
    settled,
    short_waits,
    started,
    waiting,
)

__all__ = ["short_waits"]  # a fixture


@pytest.mark.parametrize("client_first", [False, True])
def test_calls_of_ranks_and_client_rebuild_the_tables(client_first: bool) -> None:
    @in_loop
    async def scenario() -> None:
        hub = LaneHub()
        call = asyncio.ensure_future(hub.next_event(A, 0, 2)) if client_first else None
        await settled()
        ranks = reporting(hub, 3)
        await settled()
        assert (await (call or hub.next_event(A, 0, 2))).epoch == 3
        assert await settled(*ranks) == [False, False]
        more = asyncio.ensure_future(hub.next_event(A, 0, 3))
        assert await asyncio.gather(*ranks) == [Decision.GO] * 2
        reporting(hub, 4)
        assert (await more).epoch == 4

    scenario()


@in_loop
async def test_ranks_that_had_not_received_their_assignment_get_it() -> None:
    hub = LaneHub()
    ranks = waiting(hub)
    client = asyncio.ensure_future(hub.next_event(A, 0, 0))
    assert await asyncio.gather(*ranks) == [A, A]
    assert await settled(client) == [False]


@in_loop
async def test_a_client_whose_lane_was_given_away_gets_another_and_never_foreign_reports() -> None:
    hub = LaneHub()
    await started(hub, B)  # the hub has no record yet that A holds lane 0
    mine = asyncio.ensure_future(hub.next_event(A, 0, 0))
    ranks = reporting(hub, 1, assignment=B)
    assert (await hub.next_event(B, 0, 0)).epoch == 1
    assert await settled(mine, *ranks) == [False, False, False]
    assert await asyncio.gather(*waiting(hub, lane=1)) == [A, A]
    ranks = both(lambda rank: hub.report(rank, A, Report(1, {"mine": 1.0})), lane=1)
    assert (await mine).metrics == {"mine": 1.0}
    assert await settled(*ranks) == [False, False]


@in_loop
async def test_ranks_of_a_trial_without_a_client_are_stopped_after_the_grace_period() -> None:
    hub = LaneHub()
    ranks = reporting(hub, 1)  # released before the restart
    assert await settled(*ranks) == [False, False]
    assert await asyncio.gather(*ranks) == [Decision.STOP] * 2
    assert await asyncio.gather(*finishing(hub, STOPPED, STOPPED)) == [Next.STAY] * 2
    await started(hub, B)


@in_loop
async def test_a_rank_that_is_stopped_for_its_peer_before_its_client_calls_is_retried() -> None:
    hub = LaneHub(max_failures=1)
    report = asyncio.ensure_future(hub.report(rank_id(0), A, Report(1)))
    await settled(report)
    failure = asyncio.ensure_future(hub.finish(rank_id(1), A, FAILED))
    assert await report is Decision.STOP
    assert await hub.finish(rank_id(0), A, STOPPED) is Next.STAY
    assert await failure is Next.STAY
    assert await asyncio.gather(*both(lambda rank: hub.next_assignment(rank, A))) == [A, A]


@in_loop
async def test_an_outcome_recorded_after_a_restart_reaches_the_client() -> None:
    hub = LaneHub()
    assert await asyncio.gather(*finishing(hub, FAILED, FAILED)) == [Next.STAY] * 2
    assert await hub.next_event(A, 0, 1) == FAILED


@in_loop
async def test_a_rank_answered_before_the_restart_does_not_begin_without_its_peer() -> None:
    hub = LaneHub()
    client = asyncio.ensure_future(hub.next_event(A, 0, 3))
    first = asyncio.ensure_future(hub.next_assignment(rank_id(0), A))
    assert await settled(first, client) == [False, False]
    assert await hub.finish(rank_id(1), A, COMPLETED) is Next.STAY
    assert await client == COMPLETED
    assert await settled(first) == [False]
    lease = asyncio.ensure_future(hub.lease(B))
    assert await hub.next_assignment(rank_id(1), A) == B
    assert (await first, await lease) == (B, 0)


@in_loop
async def test_a_trial_whose_outcome_was_lost_is_trained_again_by_all_its_ranks() -> None:
    hub = LaneHub()
    client = asyncio.ensure_future(hub.next_event(A, 0, 1))
    first = asyncio.ensure_future(hub.next_assignment(rank_id(0), A))
    assert await settled(first) == [False]
    assert await hub.next_assignment(rank_id(1), A) == A
    assert await first == A
    finishing(hub, FAILED, FAILED)
    assert await client == FAILED


@in_loop
async def test_a_lane_does_not_repeat_a_trial_that_another_has_taken_over() -> None:
    hub = LaneHub()
    await started(hub)
    left_behind = [rank_id(rank, lane=1) for rank in (0, 1)]
    decisions = await asyncio.gather(*(hub.report(rank, A, Report(1)) for rank in left_behind))
    assert decisions == [Decision.STOP] * 2
    assert await asyncio.gather(*(hub.finish(rank, A, STOPPED) for rank in left_behind)) == [Next.STAY] * 2
    ranks = waiting(hub, lane=1)
    assert await hub.lease(B) == 1
    assert await asyncio.gather(*ranks) == [B, B]


@in_loop
async def test_a_hub_restarted_while_the_sweep_closes_is_closed_again() -> None:
    hub = LaneHub()
    ranks = reporting(hub, 1)
    idle = waiting(hub, lane=1)
    client = asyncio.ensure_future(hub.next_event(A, 0, 0))
    await settled(*ranks, *idle, client)
    await hub.close()
    assert await asyncio.gather(*ranks) == [Decision.STOP] * 2
    assert await asyncio.gather(*idle) == [None] * 2
    hub = LaneHub()  # ranks of lane 0 come from their report, lane 1 is gone
    leaving = finishing(hub, STOPPED, STOPPED)
    assert await asyncio.gather(*leaving) == [Next.STAY] * 2
    ranks = both(lambda rank: hub.next_assignment(rank, A))
    assert await asyncio.gather(*ranks) == [A] * 2  # this hub does not know why they were stopped
    ranks = reporting(hub, 2)
    await hub.close()
    assert await asyncio.gather(*ranks) == [Decision.STOP] * 2
    assert await asyncio.gather(*both(lambda rank: hub.next_assignment(rank, A))) == [None] * 2


@in_loop
async def test_the_loss_of_a_group_that_a_restarted_hub_has_never_seen_is_no_error() -> None:
    hub = LaneHub()
    await hub.group_lost(0)  # a lane without a row
    assert (await hub.hub_state()).alive == frozenset()
