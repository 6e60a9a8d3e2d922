"""Hub between trial clients and lanes, as plain asyncio: decisions, leases, and losses of ranks, groups and clients."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.lanes.hub.hub import LaneHub
from orchestrator.lanes.messages import Decision, Next, Outcome, Report, TrialOutcome
from tests.support.hub.hub_calls import (
    FAILED,
    PEER_LOST,
    STOPPED,
    A,
    B,
    finishing,
    in_loop,
    rank_id,
    reporting,
    settled,
    short_waits,
    started,
    waiting,
)
from tests.support.hub.hub_world import World
from tests.support.hub.virtual_clock import run_in_virtual_time

__all__ = ["short_waits"]  # a fixture


@in_loop
async def test_a_lane_is_leased_once_every_rank_waits() -> None:
    hub = LaneHub()
    await hub.join(rank_id(0))
    lease = asyncio.ensure_future(hub.lease(A))
    first = asyncio.ensure_future(hub.next_assignment(rank_id(0)))
    assert await settled(lease, first) == [False, False]
    assert await hub.next_assignment(rank_id(1)) == A
    assert (await lease, await first) == (0, A)


@in_loop
async def test_ranks_continue_together_once_the_client_acknowledges() -> None:
    hub = LaneHub()
    await started(hub)
    event = asyncio.ensure_future(hub.next_event(A, 0, 0))
    first = asyncio.ensure_future(hub.report(rank_id(0), A, Report(1, {"x": 1.0})))
    assert await settled(event, first) == [False, False]
    second = asyncio.ensure_future(hub.report(rank_id(1), A, Report(1)))
    assert await event == Report(1, {"x": 1.0})
    assert await settled(first, second) == [False, False]
    event = asyncio.ensure_future(hub.next_event(A, 0, 1))
    assert (await first, await second) == (Decision.GO, Decision.GO)
    assert await settled(event) == [False]


@in_loop
async def test_the_driver_may_acknowledge_an_epoch_before_the_client() -> None:
    hub = LaneHub()
    await started(hub)
    ranks = reporting(hub, 1)
    await hub.acknowledge("unknown", 1)
    assert await settled(*ranks) == [False, False]
    await hub.acknowledge("a", 1)
    assert await asyncio.gather(*ranks) == [Decision.GO] * 2
    assert (await hub.next_event(A, 0, 0)).epoch == 1  # which the client gets still
    ranks = reporting(hub, 2)
    await hub.wind_down()
    await hub.acknowledge("a", 2)
    assert await settled(*ranks) == [False, False]  # none is to begin another epoch


@in_loop
async def test_a_release_stops_every_rank_and_frees_the_lane() -> None:
    hub = LaneHub()
    await started(hub)
    ranks = reporting(hub, 1)
    await hub.next_event(A, 0, 0)
    await hub.release("a")
    assert await asyncio.gather(*ranks) == [Decision.STOP] * 2
    assert await asyncio.gather(*finishing(hub, STOPPED, STOPPED)) == [Next.STAY] * 2
    await started(hub, B)


@in_loop
async def test_all_ranks_get_one_decision_when_an_epoch_is_acknowledged_and_then_released() -> None:
    hub = LaneHub()
    await started(hub)
    ranks = reporting(hub, 1)
    await settled()
    more = asyncio.ensure_future(hub.next_event(A, 0, 1))
    release = asyncio.ensure_future(hub.release("a"))
    assert await asyncio.gather(*ranks) == [Decision.GO] * 2
    await asyncio.gather(more, release)
    await hub.next_event(A, 0, 2)  # too late to let one rank continue
    assert await asyncio.gather(*reporting(hub, 2)) == [Decision.STOP] * 2


@in_loop
async def test_a_release_before_any_rank_began_frees_the_lane_at_once() -> None:
    hub = LaneHub()
    ranks = waiting(hub)
    await settled()
    await asyncio.gather(hub.lease(A), hub.release("a"))
    assert await hub.lease(B) == 0
    assert await asyncio.gather(*ranks) == [B, B]


@in_loop
async def test_a_trial_whose_group_is_lost_resumes_in_the_next() -> None:
    hub = LaneHub(max_failures=1)
    await started(hub)
    event = asyncio.ensure_future(hub.next_event(A, 0, 0))
    old = reporting(hub, 1)
    assert (await event).epoch == 1
    event = asyncio.ensure_future(hub.next_event(A, 0, 1))
    assert await asyncio.gather(*old) == [Decision.GO] * 2
    assert await asyncio.gather(*waiting(hub, generation=2)) == [A, A]
    assert await asyncio.gather(*reporting(hub, 1, generation=2)) == [Decision.GO] * 2  # repeated epoch
    ranks = reporting(hub, 2, generation=2)
    assert (await event).epoch == 2
    assert await settled(*ranks) == [False, False]


@in_loop
async def test_an_older_generation_is_ignored() -> None:
    hub = LaneHub(max_failures=1)
    await started(hub)
    late = asyncio.ensure_future(hub.finish(rank_id(1), A, PEER_LOST))
    assert await asyncio.gather(*waiting(hub, generation=2)) == [A, A]
    assert await hub.report(rank_id(0), A, Report(9)) is Decision.STOP
    assert await hub.next_assignment(rank_id(0)) is None
    await late
    ranks = reporting(hub, 1, generation=2)
    assert (await hub.next_event(A, 0, 0)).epoch == 1
    await hub.release("a")
    await asyncio.gather(*ranks)
    assert await asyncio.gather(*finishing(hub, STOPPED, STOPPED, generation=2)) == [Next.STAY] * 2


@in_loop
async def test_a_rank_that_fails_alone_fails_the_trial_and_rebuilds_the_group() -> None:
    hub = LaneHub()
    await started(hub)
    event = asyncio.ensure_future(hub.next_event(A, 0, 0))
    assert await hub.finish(rank_id(1), A, FAILED) is Next.LEAVE
    assert await event == FAILED
    assert await hub.finish(rank_id(0), A, PEER_LOST) is Next.LEAVE
    lease = asyncio.ensure_future(hub.lease(B))
    assert await settled(lease) == [False]
    assert await asyncio.gather(*waiting(hub, generation=2)) == [B, B]


@in_loop
async def test_a_failure_that_finds_its_peers_reporting_keeps_the_group() -> None:
    hub = LaneHub()
    await started(hub)
    peer = asyncio.ensure_future(hub.report(rank_id(1), A, Report(1)))
    failing = asyncio.ensure_future(hub.finish(rank_id(0), A, FAILED))
    assert await peer is Decision.STOP
    assert await hub.finish(rank_id(1), A, STOPPED) is Next.STAY
    assert await failing is Next.STAY
    assert await hub.next_event(A, 0, 0) == FAILED


@in_loop
async def test_when_all_ranks_fail_the_group_stays() -> None:
    hub = LaneHub()
    await started(hub)
    assert await asyncio.gather(*finishing(hub, FAILED, FAILED)) == [Next.STAY] * 2
    assert await hub.next_event(A, 0, 0) == FAILED
    await started(hub, B)


@in_loop
async def test_a_trial_that_diverges_leaves_a_sound_group() -> None:
    hub = LaneHub()
    await started(hub)
    diverged = TrialOutcome(Outcome.DIVERGED, "diverged: the training loss of epoch 1 is not finite at step 2")
    assert await asyncio.gather(*finishing(hub, diverged, diverged)) == [Next.STAY] * 2
    assert await hub.next_event(A, 0, 0) == diverged
    await started(hub, B)


@in_loop
async def test_a_late_call_of_a_rank_does_not_restart_a_released_trial() -> None:
    hub = LaneHub()
    await started(hub)
    await hub.release("a")
    assert await hub.finish(rank_id(0), A, PEER_LOST) is Next.LEAVE
    assert await hub.report(rank_id(1), A, Report(1)) is Decision.STOP
    ranks = waiting(hub, generation=2)
    assert await settled(*ranks) == [False, False]
    await hub.lease(B)
    assert await asyncio.gather(*ranks) == [B, B]


@in_loop
async def test_close_ends_every_wait() -> None:
    hub = LaneHub()
    await started(hub)
    idle = asyncio.ensure_future(hub.next_assignment(rank_id(0, lane=1)))
    clients = [asyncio.ensure_future(hub.lease(B)), asyncio.ensure_future(hub.next_event(A, 0, 0))]
    leaving = asyncio.ensure_future(hub.finish(rank_id(0), A, STOPPED))
    assert await settled(idle, *clients, leaving) == [False] * 4
    await hub.close()
    assert await asyncio.gather(idle, *clients) == [None, None, TrialOutcome(Outcome.INTERRUPTED)]
    assert await leaving is Next.STAY
    assert await hub.report(rank_id(1), A, Report(1)) is Decision.STOP
    assert await hub.next_assignment(rank_id(1)) is None


@pytest.mark.parametrize("hub_dies", [False, True])
@pytest.mark.parametrize("seed", range(50))
def test_every_trial_ends_once_under_random_losses(seed: int, hub_dies: bool) -> None:
    world = World(seed, hub_dies=hub_dies)
    run_in_virtual_time(world.run(), 60.0)
    for trial_id, plan in world.plans.items():
        assert len(world.ends[trial_id]) == 1
        assert world.epochs[trial_id] == list(range(1, len(world.epochs[trial_id]) + 1))
        assert world.ends[trial_id][0] in plan.possible_ends(world.max_failures, world.losses + world.hub_losses)
