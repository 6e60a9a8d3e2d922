"""The hub: a mailbox between Tune's trial actors and the lanes, with a table of leases.

One asynchronous actor per sweep. Every call states its caller's whole situation and waits until the hub's tables
answer it; a repeated call gets the same answer. After a restart the tables are therefore rebuilt from the calls that
Ray repeats by itself. The class knows neither Ray nor torch and is tested as plain asyncio.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from orchestrator.lanes.messages import Ending, Fate, Member, Next, Order, Report, Verdict

PEER_GRACE_S = 10.0
ORPHAN_GRACE_S = 60.0
PULSE_S = 1.0
MAX_LOSSES = 3


@dataclass
class _Lane:
    """One lane's row in the table.

    A lane is `ready` when every rank of its newest generation waits for an order. A trial that a lane lost with its
    worker group stays in `order` and is handed to the next generation. `waiting` maps a rank to the trial it left
    last. An order is `claimed` once its client has spoken; a restarted hub may hear of it from the ranks first.
    """

    generation: int = -1
    world_size: int = 0
    waiting: dict[int, str | None] = field(default_factory=dict)
    order: Order | None = None
    claimed: bool = False
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
        self.waiting, self.reports, self.endings = {}, {}, {}
        self.broken = False

    def serves(self, order: Order) -> bool:
        return self.order is not None and self.order.trial_id == order.trial_id

    def departed(self, order: Order) -> set[int]:
        """Ranks that have left the trial, including those a hub since lost has answered already."""
        return {*self.endings, *(rank for rank, left in self.waiting.items() if left == order.trial_id)}

    def wait(self, rank: int, left: str | None) -> None:
        self.waiting[rank] = left
        if len(self.waiting) == self.world_size:
            self.waiting = dict.fromkeys(self.waiting)  # no rank is inside a trial: what is ordered now is for all

    def assign(self, order: Order, *, claimed: bool) -> None:
        self.order, self.claimed, self.released, self.acknowledged, self.losses = order, claimed, False, 0, 0
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
        self._winding_down = False
        self._placement_groups: set[str] = set()
        self._controllers: dict[int, Any] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Condition()

    # Lanes: worker ranks

    async def new_generation(self, lane: int) -> int:
        """A number above all this lane has had. It follows this host's clock, so a restarted hub goes on upwards."""
        return max(time.time_ns(), self._lanes[lane].generation + 1 if lane in self._lanes else 0)

    async def join(self, member: Member, placement_group: str | None) -> None:
        """A rank of a new worker group says hello; its placement group is remembered for the final sweep."""
        self._lane_of(member)
        if placement_group:
            self._placement_groups.add(placement_group)
        await self._tell()

    async def next_order(self, member: Member, left: str | None = None) -> Order | None:
        """Waits for a trial to train; None when the sweep is over or the caller's generation is history.

        Args:
            member: The calling rank.
            left: Trial the rank has left last; it is not handed out again while a peer is still leaving it.
        """
        lane = self._lane_of(member)
        if not self._over(member):
            lane.wait(member.rank, left)
        await self._tell()
        await self._until(
            lambda: (
                self._over(member) or (lane.order is not None and lane.waiting.get(member.rank) != lane.order.trial_id)
            )
        )
        if self._over(member):
            return None
        lane.waiting.pop(member.rank, None)
        return lane.order

    async def report(self, member: Member, order: Order, report: Report) -> Verdict:
        """Delivers an epoch and waits for the sweep's decision; all ranks are told the same.

        An epoch once acknowledged means GO, whatever follows, and none is acknowledged after a release: ranks that
        wake one after another could else disagree, and one would hang in a collective. Only where a peer has left
        the trial is there nothing to go on with.
        """
        lane = self._lane_of(member)
        if self._is_history(member) or not self._learn(lane, order):
            return Verdict.STOP
        lane.reports[member.rank] = report
        await self._tell()

        def gone() -> bool:
            return self._is_history(member) or not lane.serves(order) or bool(lane.departed(order))

        def decided() -> bool:
            return gone() or self._closing or lane.released or lane.acknowledged >= report.epoch

        if not lane.claimed:
            await self._until(lambda: lane.claimed or decided(), timeout_s=ORPHAN_GRACE_S)
            if not lane.claimed and lane.serves(order):
                lane.released = True  # its client is gone: the release was told to a hub since lost
                await self._tell()
        await self._until(decided)
        return Verdict.GO if not gone() and lane.acknowledged >= report.epoch else Verdict.STOP

    async def finish(self, member: Member, order: Order, ending: Ending) -> Next:
        """A rank has left a trial; LEAVE asks it to end its process so that the worker group is rebuilt.

        A rank that fails alone leaves its peers hanging in a collective. They get a grace period; then the trial is
        over and the group is given up. A rank that only lost its peer costs the trial nothing.
        """
        lane = self._lane_of(member)
        if (ending.fate is Fate.PEER_LOST or ending.poisoned) and not self._is_history(member):
            lane.broken = True
        if not self._over(member) and self._learn(lane, order):
            lane.endings[member.rank] = ending
            await self._tell()
            await self._until(
                lambda: self._over(member) or not lane.serves(order) or len(lane.departed(order)) == lane.world_size,
                timeout_s=PEER_GRACE_S if ending.fate in (Fate.FAILED, Fate.PEER_LOST) else None,
            )
            # The group may have been replaced meanwhile, and the trial be in the hands of the next one.
            if not self._over(member) and lane.serves(order):
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
        await self._until(
            lambda: (
                self._closing
                or self._winding_down
                or order.trial_id in self._results
                or self._lane_for(order) is not None
            )
        )
        if order.trial_id in self._results:
            return 0  # ended while it waited: `next_event` tells how, whatever the lane
        if self._winding_down and self._serving(order) is None:
            return None
        lane = self._lane_for(order)
        if self._closing or lane is None:
            return None
        if self._lanes[lane].order is None:
            self._lanes[lane].assign(order, claimed=True)
        self._lanes[lane].claimed = True
        self._watch(order, client)
        await self._tell()
        return lane

    async def next_event(self, order: Order, lane: int, after: int) -> Report | Ending:
        """Lets the trial go on past epoch `after` and waits for what comes next."""
        if not self._closing and order.trial_id not in self._results and self._serving(order) is None:
            row = self._lanes.setdefault(lane, _Lane())
            if row.order is None:
                row.assign(order, claimed=True)  # a restarted hub learns here what was leased
            else:
                await self.lease(order)  # a restarted hub has given the lane away before it learnt that
        serving = self._serving(order)
        if self._winding_down and (serving is None or serving.acknowledged < max(after, 1)):
            return self._results.get(order.trial_id) or Ending(Fate.INTERRUPTED)
        if serving is not None and not serving.released and not self._closing:
            serving.claimed, serving.acknowledged = True, max(serving.acknowledged, after)
        await self._tell()
        await self._until(
            lambda: self._closing or order.trial_id in self._results or self._fresh_report(order, after) is not None
        )
        if self._closing:
            return Ending(Fate.INTERRUPTED)
        return self._results.get(order.trial_id) or self._fresh_report(order, after) or Ending(Fate.INTERRUPTED)

    async def release(self, trial_id: str) -> None:
        """The trial needs its lane no more: its ranks are stopped at their next report."""
        watcher = self._watchers.pop(trial_id, None)
        if watcher is not None and watcher is not asyncio.current_task():
            watcher.cancel()
        self._results.setdefault(trial_id, Ending(Fate.STOPPED))  # so that no late call revives it
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

    async def abandon(self, lane: int, reason: str) -> None:
        """The driver has given a lane up; a trial on it has failed."""
        row = self._lanes.pop(lane, None)
        if row is not None and row.order is not None:
            self._results.setdefault(row.order.trial_id, Ending(Fate.FAILED, reason))
        await self._tell()

    async def ending(self, trial_id: str) -> Ending | None:
        """How a trial left its lane; None while it runs, or when it never had one."""
        return self._results.get(trial_id)

    async def wind_down(self) -> None:
        """No trial begins another epoch; what is in the middle of one finishes it."""
        self._winding_down = True
        await self._tell()

    async def close(self) -> None:
        """Ends the sweep: clients are told at once, ranks at their next report or while they wait for an order."""
        self._closing = True
        await self._tell()

    async def leftovers(self) -> tuple[dict[int, Any], set[str]]:
        """Controllers and placement groups (hex ids) ever seen, for the final sweep."""
        return self._controllers, self._placement_groups

    async def generation(self, lane: int) -> int:
        """The newest generation of a lane that said hello; -1 before the first."""
        return self._lanes[lane].generation if lane in self._lanes else -1

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

    def _is_history(self, member: Member) -> bool:
        lane = self._lanes.get(member.lane)
        return lane is None or member.generation < lane.generation

    def _over(self, member: Member) -> bool:
        return self._closing or self._is_history(member)

    def _learn(self, lane: _Lane, order: Order) -> bool:
        """Whether the lane serves the order; a restarted hub learns from its ranks what a lane is doing."""
        if lane.order is None and order.trial_id not in self._results and self._serving(order) is None:
            lane.assign(order, claimed=False)
        return lane.serves(order)

    def _serving(self, order: Order) -> _Lane | None:
        return next((lane for lane in self._lanes.values() if lane.serves(order)), None)

    def _lane_for(self, order: Order) -> int | None:
        for index, lane in self._lanes.items():
            if lane.serves(order):
                return index
        return next((index for index, lane in sorted(self._lanes.items()) if lane.ready), None)

    def _fresh_report(self, order: Order, after: int) -> Report | None:
        lane = self._serving(order)
        report = lane.newest_report if lane is not None else None
        return report if report is not None and report.epoch > after else None

    def _conclude(self, lane: _Lane, order: Order) -> None:
        """Derives the trial's end from its ranks' ends."""
        endings = list(lane.endings.values())
        lane.broken = lane.broken or len(lane.departed(order)) < lane.world_size
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
                await asyncio.sleep(PULSE_S)
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
