"""Calls to a hub as the two ranks of a lane make them, and a check of which calls wait."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from orchestrator.lanes.hub import hub as hub_module
from orchestrator.lanes.hub.hub import LaneHub
from orchestrator.lanes.messages import Outcome, RankId, Report, TrialAssignment, TrialOutcome
from tests.support.hub.virtual_clock import run_in_virtual_time

A, B = TrialAssignment("a", {}, ""), TrialAssignment("b", {}, "")
FAILED, STOPPED, COMPLETED = (
    TrialOutcome(Outcome.FAILED, "no luck"),
    TrialOutcome(Outcome.STOPPED),
    TrialOutcome(Outcome.COMPLETED),
)
PEER_LOST = TrialOutcome(Outcome.PEER_LOST)


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a coroutine as a test, in virtual time: only what waits for a grace period meets its end."""

    @functools.wraps(test)
    def run(*arguments: Any, **keywords: Any) -> None:
        run_in_virtual_time(test(*arguments, **keywords), 600.0)

    return run


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "PEER_GRACE_S", 0.02)
    monkeypatch.setattr(hub_module, "ORPHAN_GRACE_S", 0.3)


def rank_id(rank: int, generation: int = 1, lane: int = 0, world_size: int = 2) -> RankId:
    return RankId(lane, generation, rank, world_size)


async def settled(*tasks: asyncio.Task[Any]) -> list[bool]:
    """Return which tasks have ended once the event loop is at rest."""
    for _ in range(100):
        await asyncio.sleep(0)
    return [task.done() for task in tasks]


def both(call: Callable[[RankId], Awaitable[Any]], generation: int = 1, lane: int = 0) -> list[asyncio.Task[Any]]:
    """Start the same call from both ranks of a lane."""
    return [asyncio.ensure_future(call(rank_id(rank, generation, lane))) for rank in (0, 1)]


def waiting(hub: LaneHub, generation: int = 1, lane: int = 0) -> list[asyncio.Task[Any]]:
    return both(hub.next_assignment, generation, lane)


def reporting(
    hub: LaneHub, epoch: int, assignment: TrialAssignment = A, generation: int = 1
) -> list[asyncio.Task[Any]]:
    return both(lambda rank: hub.report(rank, assignment, Report(epoch, {"x": rank.rank + epoch})), generation)


def finishing(
    hub: LaneHub, *outcomes: TrialOutcome, assignment: TrialAssignment = A, generation: int = 1
) -> list[asyncio.Task[Any]]:
    return both(lambda rank: hub.finish(rank, assignment, outcomes[rank.rank]), generation)


async def started(hub: LaneHub, assignment: TrialAssignment = A, generation: int = 1) -> None:
    """Start a trial on both ranks of lane 0."""
    ranks = waiting(hub, generation)
    assert await hub.lease(assignment) == 0
    assert await asyncio.gather(*ranks) == [assignment, assignment]
    await asyncio.gather(*both(lambda rank: hub.begin(rank, assignment), generation))
