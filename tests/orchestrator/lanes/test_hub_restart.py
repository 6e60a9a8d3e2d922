"""A hub that died is replaced by an empty one; ranks and clients repeat the calls it did not answer, and go on."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.lanes.hub.hub import LaneHub
from orchestrator.lanes.messages import Decision, Next, Report
from tests.support.hub_calls import (
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
def test_reports_and_the_clients_question_rebuild_the_tables(client_first: bool) -> None:
    @in_loop
    async def scenario() -> None:
        hub = LaneHub()
        ask = asyncio.ensure_future(hub.next_event(A, 0, 2)) if client_first else None
        await settled()
        ranks = reporting(hub, 3)
        await settled()
        assert (await (ask or hub.next_event(A, 0, 2))).epoch == 3
        assert await settled(*ranks) == [False, False]
        more = asyncio.ensure_future(hub.next_event(A, 0, 3))
        assert await asyncio.gather(*ranks) == [Decision.GO] * 2
        reporting(hub, 4)
        assert (await more).epoch == 4

    scenario()


@in_loop
async def test_ranks_that_had_not_heard_of_their_order_get_it() -> None:
    hub = LaneHub()
    ranks = waiting(hub)
    client = asyncio.ensure_future(hub.next_event(A, 0, 0))
    assert await asyncio.gather(*ranks) == [A, A]
    assert await settled(client) == [False]


@in_loop
async def test_a_client_whose_lane_was_given_away_gets_another_and_never_foreign_reports() -> None:
    hub = LaneHub()
    await started(hub, B)  # the hub did not know yet that lane 0 belonged to A
    mine = asyncio.ensure_future(hub.next_event(A, 0, 0))
    ranks = reporting(hub, 1, assignment=B)
    assert (await hub.next_event(B, 0, 0)).epoch == 1
    assert await settled(mine, *ranks) == [False, False, False]
    assert await asyncio.gather(*waiting(hub, lane=1)) == [A, A]
    ranks = both(lambda rank: hub.report(rank, A, Report(1, {"mine": 1.0})), lane=1)
    assert (await mine).metrics == {"mine": 1.0}
    assert await settled(*ranks) == [False, False]


@in_loop
async def test_ranks_of_a_trial_nobody_asks_for_are_stopped_after_a_while() -> None:
    hub = LaneHub()
    ranks = reporting(hub, 1)  # released at a hub that took the knowledge with it
    assert await settled(*ranks) == [False, False]
    assert await asyncio.gather(*ranks) == [Decision.STOP] * 2
    assert await asyncio.gather(*finishing(hub, STOPPED, STOPPED)) == [Next.STAY] * 2
    await started(hub, B)


@in_loop
async def test_an_ending_nobody_was_told_reaches_the_client() -> None:
    hub = LaneHub()
    assert await asyncio.gather(*finishing(hub, FAILED, FAILED)) == [Next.STAY] * 2
    assert await hub.next_event(A, 0, 1) == FAILED


@in_loop
async def test_a_rank_that_was_told_the_end_does_not_begin_again_without_its_peer() -> None:
    hub = LaneHub()
    client = asyncio.ensure_future(hub.next_event(A, 0, 3))
    told = asyncio.ensure_future(hub.next_assignment(rank_id(0), "a"))
    assert await settled(told, client) == [False, False]
    assert await hub.finish(rank_id(1), A, COMPLETED) is Next.STAY
    assert await client == COMPLETED
    assert await settled(told) == [False]
    lease = asyncio.ensure_future(hub.lease(B))
    assert await hub.next_assignment(rank_id(1), "a") == B
    assert (await told, await lease) == (B, 0)


@in_loop
async def test_a_trial_whose_end_got_lost_is_run_again_by_all_its_ranks() -> None:
    hub = LaneHub()
    client = asyncio.ensure_future(hub.next_event(A, 0, 1))
    first = asyncio.ensure_future(hub.next_assignment(rank_id(0), "a"))
    assert await settled(first) == [False]
    assert await hub.next_assignment(rank_id(1), "a") == A
    assert await first == A
    finishing(hub, FAILED, FAILED)
    assert await client == FAILED


@in_loop
async def test_a_lane_is_not_told_to_repeat_what_another_has_taken_over() -> None:
    hub = LaneHub()
    await started(hub)
    left_behind = [rank_id(rank, lane=1) for rank in (0, 1)]
    verdicts = await asyncio.gather(*(hub.report(rank, A, Report(1)) for rank in left_behind))
    assert verdicts == [Decision.STOP] * 2
    assert await asyncio.gather(*(hub.finish(rank, A, STOPPED) for rank in left_behind)) == [Next.STAY] * 2
    ranks = waiting(hub, lane=1)
    assert await hub.lease(B) == 1
    assert await asyncio.gather(*ranks) == [B, B]


@in_loop
async def test_a_hub_lost_while_the_sweep_closes_is_told_again() -> None:
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
    ranks = both(lambda rank: hub.next_assignment(rank, "a"))
    assert await settled(*ranks) == [False, False]
    await hub.close()
    assert await asyncio.gather(*ranks) == [None] * 2


@in_loop
async def test_a_controller_is_known_again_after_its_next_announcement() -> None:
    hub = LaneHub()
    await hub.adopt_controller(0, "controller")
    assert (await hub.hub_state()).controllers == {0: "controller"}
    hub = LaneHub()
    await hub.group_lost(0)  # of a lane this hub has not heard of
    assert (await hub.hub_state()).controllers == {}
    await hub.adopt_controller(0, "controller")
    assert (await hub.hub_state()).controllers == {0: "controller"}
