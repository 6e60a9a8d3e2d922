"""The hub: a mailbox between Tune's trial actors and the lanes, with a table of leases.

One asynchronous actor per sweep. Every call states its caller's whole situation and waits until the hub's tables
answer it; a repeated call gets the same answer. After a restart the tables are therefore rebuilt from the calls that
Ray repeats by itself. The class knows neither Ray nor torch and is tested as plain asyncio.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from orchestrator.lanes.messages import Ending, Fate, Member, Next, Order, Report, Verdict

PEER_GRACE_S = 10.0
MAX_LOSSES = 3


@dataclass
class _Lane:
    """One lane's row in the table.

    A lane is `ready` when every rank of its newest generation waits for an order. A trial that a lane lost with its
    worker group stays in `order` and is handed to the next generation.
    """

    generation: int = -1
    world_size: int = 0
    waiting: set[int] = field(default_factory=set)
    order: Order | None = None
    losses: int = 0
    reports: dict[int, Report] = field(default_factory=dict)
    acknowledged: int = 0
    released: bool = False
    endings: dict[int, Ending] = field(default_factory=dict)
    broken: bool = False

    @property
    def ready(self) -> bool:
        return self.order is None and not self.broken and 0 < self.world_size == len(self.waiting)

    @property
    def newest_report(self) -> Report | None:
        """The newest report every rank has delivered, with rank 0's metrics."""
        if not self.reports or len(self.reports) < self.world_size:
            return None
        first = self.reports[0]
        return first if all(report.epoch >= first.epoch for report in self.reports.values()) else None

    def begin_generation(self, member: Member) -> None:
        self.generation, self.world_size = member.generation, member.world_size
        self.waiting, self.reports, self.endings = set(), {}, {}
        self.broken = False

    def assign(self, order: Order) -> None:
        self.order, self.released, self.acknowledged, self.losses = order, False, 0, 0
        self.reports, self.endings = {}, {}

    def clear(self) -> None:
        self.order, self.released = None, False
        self.reports, self.endings = {}, {}


class LaneHub:
    """Mailbox and lease table of one sweep; all methods are coroutines of one actor."""

    def __init__(self) -> None:
        self._lanes: dict[int, _Lane] = {}
        self._results: dict[str, Ending] = {}
        self._closing = False
        self._placement_groups: set[str] = set()
        self._controllers: dict[int, Any] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Condition()

    # Lanes: worker ranks

    async def join(self, member: Member, placement_group: str | None) -> None:
        """A rank of a new worker group says hello; its placement group is remembered for the final sweep."""
        self._lane_of(member)
        if placement_group:
            self._placement_groups.add(placement_group)
        await self._tell()

    async def next_order(self, member: Member) -> Order | None:
        """Waits for a trial to train; None when the sweep is over or the caller's generation is history."""
        lane = self._lane_of(member)
        lane.waiting.add(member.rank)
        await self._tell()
        await self._until(lambda: self._over(member) or lane.order is not None)
        if self._over(member):
            return None
        lane.waiting.discard(member.rank)
        return lane.order

    async def report(self, member: Member, order: Order, report: Report) -> Verdict:
        """Delivers an epoch and waits for the sweep's decision; all ranks are told the same."""
        lane = self._lane_of(member)
        if lane.order is None and order.trial_id not in self._results:
            lane.order = order  # a restarted hub learns here what the lane is doing
        if not self._serves(lane, order):
            return Verdict.STOP
        lane.reports[member.rank] = report
        await self._tell()
        await self._until(
            lambda: (
                self._over(member)
                or not self._serves(lane, order)
                or lane.released
                or lane.acknowledged >= report.epoch
            )
        )
        going = self._serves(lane, order) and not lane.released and not self._over(member)
        return Verdict.GO if going else Verdict.STOP

    async def finish(self, member: Member, order: Order, ending: Ending) -> Next:
        """A rank has left a trial; LEAVE asks it to end its process so that the worker group is rebuilt.

        A rank that fails alone leaves its peers hanging in a collective. They get a grace period; then the trial is
        over and the group is given up. A rank that only lost its peer costs the trial nothing.
        """
        lane = self._lane_of(member)
        if self._over(member) or not self._serves(lane, order):
            return Next.LEAVE if lane.broken else Next.STAY
        lane.endings[member.rank] = ending
        await self._tell()
        await self._until(
            lambda: not self._serves(lane, order) or len(lane.endings) == lane.world_size,
            timeout_s=PEER_GRACE_S if ending.fate in (Fate.FAILED, Fate.PEER_LOST) else None,
        )
        if self._serves(lane, order):
            self._conclude(lane, order)
            await self._tell()
        return Next.LEAVE if lane.broken else Next.STAY

    # Trial clients: Tune's actors

    async def lease(self, order: Order, client: Any = None) -> int | None:
        """Waits for a ready lane and starts the trial on it; a trial that already runs keeps its lane.

        Args:
            order: The trial.
            client: Handle of the calling actor, watched from here on; when it dies the lane is released.

        Returns:
            The lane, or None when the sweep is being ended.
        """
        await self._until(lambda: self._closing or self._lane_for(order) is not None)
        lane = self._lane_for(order)
        if self._closing or lane is None:
            return None
        if self._lanes[lane].order is None:
            self._lanes[lane].assign(order)
        self._watch(order, client)
        await self._tell()
        return lane

    async def next_event(self, order: Order, lane: int, after: int) -> Report | Ending:
        """Lets the trial go on past epoch `after` and waits for what comes next."""
        row = self._lanes.setdefault(lane, _Lane())
        if row.order is None and order.trial_id not in self._results:
            row.assign(order)  # a restarted hub learns here what was leased
        row.acknowledged = max(row.acknowledged, after)
        await self._tell()
        await self._until(
            lambda: self._closing or order.trial_id in self._results or self._fresh_report(row, after) is not None
        )
        if self._closing:
            return Ending(Fate.INTERRUPTED)
        return self._results.get(order.trial_id) or self._fresh_report(row, after) or Ending(Fate.INTERRUPTED)

    async def release(self, trial_id: str) -> None:
        """The trial needs its lane no more: its ranks are stopped at their next report."""
        watcher = self._watchers.pop(trial_id, None)
        if watcher is not None and watcher is not asyncio.current_task():
            watcher.cancel()
        for lane in self._lanes.values():
            if lane.order is not None and lane.order.trial_id == trial_id:
                lane.released = True
                if len(lane.waiting) == lane.world_size:
                    lane.clear()  # no rank has begun
        await self._tell()

    # Owner: the driver

    async def adopt_controller(self, lane: int, controller: Any) -> None:
        """Remembers the actor that controls a lane's worker group, to abort it if it does not end by itself."""
        self._controllers[lane] = controller

    async def close(self) -> None:
        """Ends the sweep: clients are told at once, ranks at their next report or while they wait for an order."""
        self._closing = True
        await self._tell()

    async def leftovers(self) -> tuple[dict[int, Any], set[str]]:
        """Controllers and placement groups (hex ids) ever seen, for the final sweep."""
        return self._controllers, self._placement_groups

    async def ready_lanes(self) -> list[int]:
        """Lanes that wait for a trial."""
        return sorted(index for index, lane in self._lanes.items() if lane.ready)

    # Tables

    def _lane_of(self, member: Member) -> _Lane:
        lane = self._lanes.setdefault(member.lane, _Lane())
        if member.generation > lane.generation:
            if lane.order is not None and lane.generation >= 0:
                self._count_loss(lane, lane.order)
            lane.begin_generation(member)
        return lane

    def _count_loss(self, lane: _Lane, order: Order) -> None:
        """A worker group died under a trial: the next one continues it, unless it looks like the trial's fault."""
        lane.losses += 1
        if lane.losses >= MAX_LOSSES:
            reason = f"its worker group was lost {lane.losses} times (killed, out of memory, or host gone)"
            self._results[order.trial_id] = Ending(Fate.FAILED, reason)
        if lane.released or order.trial_id in self._results:
            lane.clear()

    def _over(self, member: Member) -> bool:
        return self._closing or member.generation < self._lanes[member.lane].generation

    def _serves(self, lane: _Lane, order: Order) -> bool:
        return lane.order is not None and lane.order.trial_id == order.trial_id

    def _lane_for(self, order: Order) -> int | None:
        for index, lane in self._lanes.items():
            if self._serves(lane, order):
                return index
        return next((index for index, lane in sorted(self._lanes.items()) if lane.ready), None)

    def _fresh_report(self, lane: _Lane, after: int) -> Report | None:
        report = lane.newest_report
        return report if report is not None and report.epoch > after else None

    def _conclude(self, lane: _Lane, order: Order) -> None:
        """Derives the trial's end from its ranks' ends."""
        endings = list(lane.endings.values())
        lane.broken = len(endings) < lane.world_size or any(end.fate is Fate.PEER_LOST for end in endings)
        failures = [end for end in endings if end.fate is Fate.FAILED]
        if failures:
            self._results[order.trial_id] = failures[0]
        elif not lane.broken:
            self._results[order.trial_id] = endings[0]
        elif not lane.released:
            return  # the trial stays with the lane and continues in its next generation
        lane.clear()

    def _watch(self, order: Order, client: Any) -> None:
        if client is not None and order.trial_id not in self._watchers:
            self._watchers[order.trial_id] = asyncio.create_task(self._release_when_dead(order.trial_id, client))

    async def _release_when_dead(self, trial_id: str, client: Any) -> None:
        try:
            while True:
                await client.__ray_ready__.remote()
                await asyncio.sleep(1.0)
        except asyncio.CancelledError:
            raise
        except Exception:  # any failure to answer means that the client is gone
            await self.release(trial_id)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _until(self, condition: Callable[[], bool], timeout_s: float | None = None) -> None:
        """Waits for a condition of the tables; on time-out returns as well, and the caller looks again."""
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(condition), timeout_s)
            except TimeoutError:
                return
