"""Failures at the hub: retries of a trial, exemptions, and trials whose lane is down."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from orchestrator.lanes.hub.hub import LaneHub
from orchestrator.lanes.hub.lane_table import GROUP_LOST, MAX_NODE_LOSSES
from orchestrator.lanes.messages import Decision, Next, Outcome, Report, TrialOutcome
from tests.support.hub.hub_calls import (
    COMPLETED,
    FAILED,
    PEER_LOST,
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


@in_loop
async def test_a_failed_trial_is_retried_on_the_same_group_and_then_has_failed() -> None:
    hub = LaneHub(max_failures=1)
    await started(hub)
    event = asyncio.ensure_future(hub.next_event(A, 0, 0))
    assert await asyncio.gather(*finishing(hub, FAILED, FAILED)) == [Next.STAY] * 2
    assert await settled(event) == [False]
    assert await asyncio.gather(*both(lambda rank: hub.next_assignment(rank, A))) == [A, A]
    assert await asyncio.gather(*finishing(hub, FAILED, FAILED)) == [Next.STAY] * 2
    assert await event == replace(FAILED, reason="attempt 2: no luck")
    await started(hub, B)


@in_loop
async def test_failures_before_a_pause_or_in_earlier_sessions_count() -> None:
    hub = LaneHub(max_failures=3)
    resumed = replace(A, failures=2)
    await started(hub, resumed)
    await asyncio.gather(*finishing(hub, FAILED, FAILED, assignment=resumed))
    assert await asyncio.gather(*both(lambda rank: hub.next_assignment(rank, A))) == [resumed, resumed]
    reporting(hub, 1, resumed)
    event = await hub.next_event(resumed, 0, 0)
    assert isinstance(event, Report)
    assert event.failures == 3  # which its client sends along when it is resumed again
    event_after = asyncio.ensure_future(hub.next_event(resumed, 0, 1))
    await asyncio.gather(*finishing(hub, FAILED, FAILED, assignment=resumed))
    assert await event_after == replace(FAILED, reason="attempt 4: no luck")


@in_loop
async def test_a_final_failure_is_not_retried() -> None:
    hub = LaneHub(max_failures=3)
    await started(hub)
    final = TrialOutcome(Outcome.FAILED, "out of memory", final=True)
    assert await asyncio.gather(*finishing(hub, final, final)) == [Next.STAY] * 2
    assert await hub.next_event(A, 0, 0) == final


@in_loop
async def test_a_rank_that_fails_alone_counts_as_one_failure() -> None:
    hub = LaneHub(max_failures=1)
    await started(hub)
    event = asyncio.ensure_future(hub.next_event(A, 0, 0))
    assert await hub.finish(rank_id(1), A, FAILED) is Next.LEAVE
    assert await hub.finish(rank_id(0), A, PEER_LOST) is Next.LEAVE
    await hub.group_lost(0)
    assert await asyncio.gather(*waiting(hub, generation=2)) == [A, A]
    reporting(hub, 1, generation=2)
    assert (await event).epoch == 1


@in_loop
async def test_a_lost_group_is_a_failure_of_its_trial() -> None:
    hub = LaneHub(max_failures=2)
    await started(hub)
    event = asyncio.ensure_future(hub.next_event(A, 0, 0))
    for generation in (2, 3):
        assert await hub.finish(rank_id(1, generation - 1), A, PEER_LOST) is Next.LEAVE
        assert await asyncio.gather(*waiting(hub, generation)) == [A, A]
        await hub.begin(rank_id(0, generation), A)
        assert await settled(event) == [False]
    ranks = waiting(hub, generation=4)
    assert await event == replace(GROUP_LOST, reason=f"attempt 3: {GROUP_LOST.reason}")
    await hub.lease(B)
    assert await asyncio.gather(*ranks) == [B, B]


@in_loop
async def test_a_group_lost_before_a_rank_began_is_no_failure_of_the_trial() -> None:
    hub = LaneHub(max_failures=0)
    ranks = waiting(hub)
    await hub.lease(A)
    await asyncio.gather(*ranks)  # received by processes that are dead already
    await hub.group_lost(0)
    assert await asyncio.gather(*waiting(hub, generation=2)) == [A, A]


@in_loop
async def test_preemption_is_no_failure() -> None:
    hub = LaneHub(max_failures=0)
    await started(hub)
    for generation in range(2, 6):
        await hub.exempt_loss(0)
        await hub.group_lost(0)
        assert await asyncio.gather(*waiting(hub, generation)) == [A, A]
        await hub.begin(rank_id(0, generation), A)
    event = asyncio.ensure_future(hub.next_event(A, 0, 0))
    await hub.group_lost(0)
    assert await event == GROUP_LOST


@in_loop
async def test_node_failures_are_no_failure_of_the_trial_until_there_are_many() -> None:
    hub = LaneHub(max_failures=0)
    await started(hub)
    event = asyncio.ensure_future(hub.next_event(A, 0, 0))
    for generation in range(2, 2 + MAX_NODE_LOSSES):
        for _ in range(2):  # a controller reports it in each of its states
            await hub.node_lost(0)
        await hub.group_lost(0)
        assert await asyncio.gather(*waiting(hub, generation)) == [A, A]
        await hub.begin(rank_id(0, generation), A)
    assert not event.done()
    await hub.node_lost(0)
    await hub.group_lost(0)
    assert await event == GROUP_LOST


@in_loop
async def test_a_trial_moves_with_its_ranks_before_a_preemption() -> None:
    hub = LaneHub(max_failures=0)
    await started(hub)
    event = asyncio.ensure_future(hub.next_event(A, 0, 0))
    moved = TrialOutcome(Outcome.MOVED)
    assert await asyncio.gather(*finishing(hub, moved, moved)) == [Next.LEAVE] * 2
    await hub.group_lost(0)
    assert await asyncio.gather(*waiting(hub, generation=2)) == [A, A]
    assert await settled(event) == [False]


@in_loop
async def test_a_trial_whose_lane_is_down_moves_to_the_first_ready_one() -> None:
    hub = LaneHub(max_failures=1)
    await started(hub)
    event = asyncio.ensure_future(hub.next_event(A, 0, 0))
    reporting(hub, 1)
    assert (await event).lane == 0
    event = asyncio.ensure_future(hub.next_event(A, 0, 1))
    await hub.group_lost(0)
    assert (await hub.hub_state()).alive == frozenset()
    assert await asyncio.gather(*waiting(hub, lane=1)) == [A, A]
    repeated = both(lambda rank: hub.report(rank, A, Report(1)), lane=1)
    assert await asyncio.gather(*repeated) == [Decision.GO] * 2
    ranks = both(lambda rank: hub.report(rank, A, Report(2)), lane=1)
    assert ((await event).epoch, (await event).lane) == (2, 1)
    assert await settled(*ranks, *waiting(hub, generation=2)) == [False] * 4  # lane 0 has nothing to do


@in_loop
async def test_the_trial_of_a_retired_lane_moves_to_another() -> None:
    hub = LaneHub(max_failures=1)
    await started(hub)
    event = asyncio.ensure_future(hub.next_event(A, 0, 0))
    await hub.retire_lane(0)
    assert await hub.next_assignment(rank_id(0)) is None  # a late call does not bring the lane back
    assert await asyncio.gather(*waiting(hub, lane=1)) == [A, A]
    assert await settled(event) == [False]
    assert await hub.lease(A) == 1


@in_loop
async def test_a_new_client_of_the_same_trial_finds_its_lane() -> None:
    hub = LaneHub()
    await started(hub)
    dead = asyncio.ensure_future(hub.next_event(A, 0, 0))  # of an actor that died
    ranks = reporting(hub, 1)
    await settled()
    assert await hub.lease(A) == 0
    assert (await hub.next_event(A, 0, 0)).epoch == 1
    more = asyncio.ensure_future(hub.next_event(A, 0, 1))
    assert await asyncio.gather(*ranks) == [Decision.GO] * 2
    assert await settled(dead, more) == [True, False]


@in_loop
async def test_a_trial_released_while_its_lane_is_down_is_not_assigned_again() -> None:
    hub = LaneHub(max_failures=1)
    await started(hub)
    await hub.group_lost(0)
    await hub.release("a")
    ranks = waiting(hub, generation=2)
    assert await settled(*ranks) == [False, False]
    await hub.lease(B)
    assert await asyncio.gather(*ranks) == [B, B]


@in_loop
async def test_failures_of_one_trial_are_not_counted_against_the_next() -> None:
    hub = LaneHub(max_failures=1)
    await started(hub)
    await asyncio.gather(*finishing(hub, FAILED, FAILED))
    assert await asyncio.gather(*both(lambda rank: hub.next_assignment(rank, A))) == [A, A]
    await asyncio.gather(*finishing(hub, COMPLETED, COMPLETED))
    await started(hub, B)
    await asyncio.gather(*finishing(hub, FAILED, FAILED, assignment=B))
    assert await asyncio.gather(*both(lambda rank: hub.next_assignment(rank, B))) == [B, B]
    await hub.release("b")
    assert await asyncio.gather(*finishing(hub, STOPPED, STOPPED, assignment=B)) == [Next.STAY] * 2
