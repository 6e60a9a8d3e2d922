"""Calls to a hub as the two ranks of a lane make them, and the means to see who waits."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from orchestrator.lanes.hub import hub as hub_module
from orchestrator.lanes.hub.hub import LaneHub
from orchestrator.lanes.messages import Ending, Fate, Member, Order, Report

A, B = Order("a", {}, ""), Order("b", {}, "")
FAILED, STOPPED, COMPLETED = Ending(Fate.FAILED, "no luck"), Ending(Fate.STOPPED), Ending(Fate.COMPLETED)
PEER_LOST = Ending(Fate.PEER_LOST)


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs a coroutine as a test that cannot hang."""

    @functools.wraps(test)
    def run(*arguments: Any, **keywords: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*arguments, **keywords), 5))

    return run


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "PEER_GRACE_S", 0.02)
    monkeypatch.setattr(hub_module, "ORPHAN_GRACE_S", 0.3)


def member(rank: int, generation: int = 1, lane: int = 0, world_size: int = 2) -> Member:
    return Member(lane, generation, rank, world_size)


async def settled(*tasks: asyncio.Task[Any]) -> list[bool]:
    """Which tasks have ended once nothing moves any more."""
    for _ in range(100):
        await asyncio.sleep(0)
    return [task.done() for task in tasks]


def both(call: Callable[[Member], Awaitable[Any]], generation: int = 1, lane: int = 0) -> list[asyncio.Task[Any]]:
    """The same call from both ranks of a lane."""
    return [asyncio.ensure_future(call(member(rank, generation, lane))) for rank in (0, 1)]


def waiting(hub: LaneHub, generation: int = 1, lane: int = 0) -> list[asyncio.Task[Any]]:
    return both(hub.next_order, generation, lane)


def reporting(hub: LaneHub, epoch: int, order: Order = A, generation: int = 1) -> list[asyncio.Task[Any]]:
    return both(lambda rank: hub.report(rank, order, Report(epoch, {"x": rank.rank + epoch})), generation)


def finishing(hub: LaneHub, *endings: Ending, order: Order = A, generation: int = 1) -> list[asyncio.Task[Any]]:
    return both(lambda rank: hub.finish(rank, order, endings[rank.rank]), generation)


async def started(hub: LaneHub, order: Order = A, generation: int = 1) -> None:
    """A trial that both ranks of lane 0 have begun."""
    ranks = waiting(hub, generation)
    assert await hub.lease(order) == 0
    assert await asyncio.gather(*ranks) == [order, order]
    await asyncio.gather(*both(lambda rank: hub.begin(rank, order), generation))
