"""Simulation of a sweep around a real hub: ranks, trial clients and a driver as coroutines, with random failures.

Ray's behaviour is kept: a call continues in the hub when its caller dies, and a call that a dying hub did not answer is
retried at the next one. So is that of a collective: it hangs until every rank has entered it, and fails when a rank of
its group is gone.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.lanes.hub.hub import LaneHub
from orchestrator.lanes.hub.lane_table import GROUP_LOST
from orchestrator.lanes.messages import Decision, Next, Outcome, RankId, Report, TrialAssignment, TrialOutcome

COLLECTIVE_TIMEOUT_S = 0.5


class LeftLaneError(Exception):
    """End of a rank's process after the answer LEAVE."""


class PeerLostError(Exception):
    """Collective whose peer is lost."""


@dataclass
class Plan:
    """Events planned for one trial."""

    epochs: int
    stop_after: int | None = None
    fails_at: int | None = None
    fails_times: int = 0
    fails_alone: bool = False
    client_dies_at: int | None = None
    client_returns: bool = False

    def possible_ends(self, max_failures: int, losses: int) -> set[str]:
        """Return the outcomes that its client may receive.

        Args:
            max_failures: Number of failures that are retried.
            losses: Number of worker groups lost, of all trials.
        """
        failed = self.fails_times if self.fails_at is not None else 0
        ends = set()
        if failed + losses > max_failures:  # which of them the trial met is random
            ends |= {f"attempt {max_failures + 1}: {why}" if max_failures else why for why in (PLANNED, LOST)}
        if failed <= max_failures or losses:
            early = self.stop_after is not None and self.stop_after < self.epochs
            ends.add("stopped early" if early else "trained")
        if self.client_dies_at is not None and self.client_dies_at < self.epochs and not self.client_returns:
            ends.add("client died")
        return ends


PLANNED = "as planned"
LOST = GROUP_LOST.reason


@dataclass
class Group:
    """One worker group of a lane; collectives of its ranks are matched in the order in which they are entered."""

    lane: int
    generation: int
    world_size: int
    gone: bool = False
    entered: dict[int, int] = field(default_factory=lambda: defaultdict(int))

    async def collective(self, rank: int) -> None:
        self.entered[rank] += 1
        mine = self.entered[rank]
        clock = asyncio.get_running_loop()
        deadline = clock.time() + COLLECTIVE_TIMEOUT_S
        while any(self.entered[other] < mine for other in range(self.world_size)):
            if self.gone or clock.time() > deadline:
                raise PeerLostError
            await asyncio.sleep(0.001)


class World:
    """Lanes, trials and failures, all drawn from one seed."""

    def __init__(self, seed: int, *, hub_dies: bool) -> None:
        self.random = random.Random(seed)
        self.hub_dies = hub_dies
        self.world_size = self.random.choice((1, 2, 3))
        self.lanes = self.random.choice((1, 2, 3))
        self.plans = {f"t{number}": self._plan() for number in range(8)}
        self.max_failures = self.random.choice((0, 1, 2))
        self.failed: dict[str, int] = defaultdict(int)
        self.losses = 0
        self.hub_losses = 0
        self.saved: dict[str, int] = defaultdict(int)
        self.epochs: dict[str, list[int]] = defaultdict(list)
        self.ends: dict[str, list[str]] = defaultdict(list)
        self.hub = LaneHub(self.max_failures)
        self.hub_calls: dict[asyncio.Task[Any], None] = {}  # in order, so that a seed has one outcome
        self.sent: set[asyncio.Task[Any]] = set()
        self.groups: dict[int, tuple[Group, list[asyncio.Task[None]]]] = {}
        self.generation = 0
        self.closing = False

    def _plan(self) -> Plan:
        plan = Plan(epochs=self.random.randint(1, 4))
        match self.random.choice(("plain", "plain", "plain", "stop", "fail", "fail alone", "client dies")):
            case "stop":
                plan.stop_after = self.random.randint(1, plan.epochs)
            case "fail":
                plan.fails_at, plan.fails_times = self.random.randint(1, plan.epochs), self.random.randint(1, 4)
            case "fail alone":
                plan.fails_at, plan.fails_times = self.random.randint(1, plan.epochs), self.random.randint(1, 4)
                plan.fails_alone = True
            case "client dies":
                plan.client_dies_at = self.random.randint(0, plan.epochs)
                plan.client_returns = self.random.random() < 0.5
        return plan

    async def run(self) -> None:
        owners = [asyncio.create_task(self._keep_lane(index)) for index in range(self.lanes)]
        failures = asyncio.create_task(self._cause_failures())
        free = asyncio.Semaphore(self.lanes)
        await asyncio.gather(*(self._trial(trial_id, free) for trial_id in self.plans))
        failures.cancel()
        self.closing = True
        await self._call("close")
        if self.hub_dies:
            self._kill_hub()  # and the record of the call with it; the driver repeats it until all lanes have ended
        while any(not owner.done() for owner in owners):
            await self._call("close")
            await asyncio.wait(owners, timeout=0.01)
        await asyncio.gather(*owners)

    async def _call(self, method: str, *arguments: Any) -> Any:
        """Call the hub; the call outlives its caller, and is retried when the hub dies meanwhile."""
        while True:
            await self._pause()
            hub = self.hub
            task = asyncio.create_task(getattr(hub, method)(*arguments))
            self.hub_calls[task] = None
            task.add_done_callback(lambda done: self.hub_calls.pop(done, None))
            try:
                answer = await asyncio.shield(task)
            except asyncio.CancelledError:
                if task.cancelled():
                    continue
                raise
            await self._pause()
            if hub is self.hub:
                return answer

    def _send(self, method: str, *arguments: Any) -> None:
        """Call the hub without waiting for its answer."""
        call = asyncio.create_task(self._call(method, *arguments))
        self.sent.add(call)
        call.add_done_callback(self.sent.discard)

    async def _pause(self) -> None:
        await asyncio.sleep(self.random.choice((0, 0, 0.001, 0.003)))

    # Lanes

    async def _keep_lane(self, index: int) -> None:
        while not self.closing:
            self.generation += 1
            group = Group(index, self.generation, self.world_size)
            ranks = [asyncio.create_task(self._rank(group, rank)) for rank in range(self.world_size)]
            self.groups[index] = (group, ranks)
            await self._first_death(ranks)
            group.gone = True
            self.losses += 1
            await self._pause()
            if self.random.random() < 0.2:
                await self._call("exempt_loss", index)
            if self.random.random() < 0.5:
                await self._call("group_lost", index)
            for rank in ranks:
                rank.cancel()
            await asyncio.gather(*ranks, return_exceptions=True)
            await asyncio.sleep(self.random.choice((0, 0.001, 0.03)))

    async def _first_death(self, ranks: list[asyncio.Task[None]]) -> None:
        """Wait until a rank has died, or all have ended."""
        alive = set(ranks)
        while alive:
            done, alive = await asyncio.wait(alive, return_when=asyncio.FIRST_COMPLETED)
            if any(rank.cancelled() or rank.exception() for rank in done):
                return

    async def _rank(self, group: Group, rank: int) -> None:
        rank_id = RankId(group.lane, group.generation, rank, group.world_size)
        await group.collective(rank)
        await self._call("join", rank_id)
        left, last_report = None, None
        while True:
            assignment = await self._call("next_assignment", rank_id, left, last_report)
            if assignment is None:
                return
            self._send("begin", rank_id, assignment)
            outcome = await self._train(group, rank_id, assignment)
            last_report = outcome.last_report
            if last_report is None and await self._call("finish", rank_id, assignment, outcome) is Next.LEAVE:
                raise LeftLaneError
            left = assignment

    async def _train(self, group: Group, rank_id: RankId, assignment: TrialAssignment) -> TrialOutcome:
        plan = self.plans[assignment.trial_id]
        epoch, resumed = self.saved[assignment.trial_id], self.saved[assignment.trial_id] > 0
        fails = self.failed[assignment.trial_id] < plan.fails_times
        try:
            await group.collective(rank_id.rank)
            while resumed or epoch < plan.epochs:
                if not resumed:
                    epoch += 1
                    if fails and epoch == plan.fails_at and (rank_id.rank == 0 or not plan.fails_alone):
                        self.failed[assignment.trial_id] += rank_id.rank == 0
                        return TrialOutcome(Outcome.FAILED, PLANNED)
                    await group.collective(rank_id.rank)
                    if rank_id.rank == 0:
                        self.saved[assignment.trial_id] = epoch
                resumed = False
                metrics: Mapping[str, float] = {"trial": float(assignment.trial_id[1:])} if rank_id.rank == 0 else {}
                if epoch == plan.epochs:
                    return TrialOutcome(Outcome.COMPLETED, last_report=Report(epoch, metrics, is_last=True))
                if await self._call("report", rank_id, assignment, Report(epoch, metrics)) is Decision.STOP:
                    return TrialOutcome(Outcome.STOPPED)
        except PeerLostError:
            return TrialOutcome(Outcome.PEER_LOST)
        raise AssertionError("the last epoch was reported")

    # Tune and the driver

    async def _trial(self, trial_id: str, free: asyncio.Semaphore) -> None:
        plan = self.plans[trial_id]
        async with free:
            end = await self._client(trial_id, plan.client_dies_at)
            if end == "client died" and plan.client_returns:
                end = await self._client(trial_id, None)  # Tune has started another actor
            self.ends[trial_id].append(end)
            await self._call("release", trial_id)

    async def _client(self, trial_id: str, dies_at: int | None) -> str:
        plan, assignment, after = self.plans[trial_id], TrialAssignment(trial_id, {}, ""), 0
        lane = await self._call("lease", assignment)
        while True:
            if dies_at is not None and after >= dies_at:
                return "client died"
            event = await self._call("next_event", assignment, lane, after)
            if isinstance(event, TrialOutcome):
                assert event.kind is Outcome.FAILED, event
                return event.reason
            assert event.metrics == {"trial": float(trial_id[1:])}
            after, lane = event.epoch, event.lane
            if after not in self.epochs[trial_id][-1:]:
                self.epochs[trial_id].append(after)
            if after == plan.epochs:
                return "trained"
            if plan.stop_after is not None and after >= plan.stop_after:
                return "stopped early"
            if self.random.random() < 0.5:  # the driver acknowledges it as well, before or after its client
                self._send("acknowledge", trial_id, after)

    async def _cause_failures(self) -> None:
        for _ in range(self.random.randint(0, 5)):
            await asyncio.sleep(self.random.random() * 0.05)
            if self.hub_dies and self.random.random() < 0.5:
                self._kill_hub()
            else:
                _, ranks = self.groups[self.random.randrange(self.lanes)]
                self._kill(self.random.choice(ranks))

    def _kill(self, rank: asyncio.Task[None]) -> None:
        group = next(group for group, ranks in self.groups.values() if rank in ranks)
        group.gone = True
        rank.cancel()

    def _kill_hub(self) -> None:
        self.hub = LaneHub(self.max_failures)
        self.hub_losses += 1
        for call in tuple(self.hub_calls):
            call.cancel()
