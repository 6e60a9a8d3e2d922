"""The hub: a mailbox between Tune's trial actors and the lanes, with a table of leases.

One asynchronous actor per sweep. Every call states its caller's whole situation and waits until the hub's tables
answer it; a repeated call gets the same answer. After a restart the tables are therefore rebuilt from the calls that
Ray repeats by itself. Whoever waits is woken when its own lane or trial changes, so that a call costs the same however
many lanes there are. The class knows neither Ray nor torch and is tested as plain asyncio.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from orchestrator.lanes.hub.lane import Lane
from orchestrator.lanes.hub.lane_table import LaneTable
from orchestrator.lanes.hub.wake_ups import WakeUps
from orchestrator.lanes.messages import Decision, HubState, Next, Outcome, RankId, Report, TrialAssignment, TrialOutcome

_READY_LANE = (
    "room",
)  # what those wait for who need a ready lane, besides lanes by their index and trials by their id
PEER_GRACE_S = 10.0
ORPHAN_GRACE_S = 60.0


class LaneHub:
    """Mailbox and lease table of one sweep; all methods are coroutines of one actor.

    Args:
        max_failures: Failures after which a trial goes on from its checkpoint; one more ends it.
    """

    def __init__(self, max_failures: int = 0) -> None:
        self._table = LaneTable(max_failures)
        self._closing = False
        self._winding_down = False
        self._controllers: dict[int, Any] = {}
        self._released: set[str] = set()  # trials that Tune has ended
        self._waiting_leases = 0  # trials that wait for a lane
        self._wake_ups = WakeUps()

    # Lanes: worker ranks

    async def new_generation(self, lane: int) -> int:
        """A number above all this lane has had. It follows this host's clock, so a restarted hub goes on upwards."""
        return max(time.time_ns(), self._table.lanes[lane].generation + 1 if lane in self._table.lanes else 0)

    async def join(self, rank_id: RankId) -> None:
        """A rank of a new worker group says hello."""
        self._notify(self._table.lane_of(rank_id))

    async def next_assignment(self, rank_id: RankId, left: str | None = None) -> TrialAssignment | None:
        """Waits for a trial to train; None when the sweep is over or the caller's generation is history.

        Args:
            rank_id: The calling rank.
            left: Trial the rank has left last; it is not handed out again while a peer is still leaving it.
        """
        lane = self._table.lane_of(rank_id)
        if not self._is_over_for(rank_id):
            lane.wait(rank_id.rank, left)
        self._notify(lane)
        await self._wake_ups.until(
            lambda: (
                self._is_over_for(rank_id)
                or (lane.assignment is not None and lane.waiting.get(rank_id.rank) != lane.assignment.trial_id)
            ),
            rank_id.lane,
        )
        if self._is_over_for(rank_id):
            return None
        lane.waiting.pop(rank_id.rank, None)
        return lane.assignment

    async def begin(self, rank_id: RankId, assignment: TrialAssignment) -> None:
        """A rank has an order in its hands; from now on the loss of its group is a failure of the trial."""
        lane = self._table.lane_of(rank_id)
        if not self._table.is_outdated(rank_id) and lane.serves(assignment):
            lane.begun = True

    async def report(self, rank_id: RankId, assignment: TrialAssignment, report: Report) -> Decision:
        """Delivers an epoch and waits for the sweep's decision; all ranks are told the same.

        An epoch once acknowledged means GO, whatever follows, and none is acknowledged after a release: ranks that
        wake one after another could else disagree, and one would hang in a collective. Only where a peer has left
        the trial is there nothing to go on with.
        """
        lane = self._table.lane_of(rank_id)
        if self._table.is_outdated(rank_id) or not self._table.recover_assignment(lane, assignment):
            return Decision.STOP
        lane.reports[rank_id.rank] = report
        self._notify()
        self._wake_ups.wake([assignment.trial_id])  # the other ranks do not wait for this one's report

        def gone() -> bool:
            return self._table.is_outdated(rank_id) or not lane.serves(assignment) or bool(lane.ranks_gone(assignment))

        def decided() -> bool:
            return gone() or self._closing or lane.released or lane.acknowledged >= report.epoch

        if not lane.claimed:
            await self._wake_ups.until(lambda: lane.claimed or decided(), rank_id.lane, timeout_s=ORPHAN_GRACE_S)
            if not lane.claimed and lane.serves(assignment):
                lane.released = True  # its client is gone: the release was told to a hub since lost
                self._notify(lane)
        await self._wake_ups.until(decided, rank_id.lane)
        return Decision.GO if not gone() and lane.acknowledged >= report.epoch else Decision.STOP

    async def finish(self, rank_id: RankId, assignment: TrialAssignment, outcome: TrialOutcome) -> Next:
        """A rank has left a trial; LEAVE asks it to end its process so that the worker group is rebuilt.

        A rank that fails alone leaves its peers hanging in a collective. They get a grace period; then the attempt is
        over and the group is given up. A rank that only lost its peer costs the trial nothing.
        """
        lane = self._table.lane_of(rank_id)
        if not self._table.is_outdated(rank_id) and (
            outcome.poisoned or outcome.kind in (Outcome.PEER_LOST, Outcome.MOVED)
        ):
            lane.broken = True
            lane.loss_exempt = lane.loss_exempt or outcome.kind is Outcome.MOVED
        if (
            not self._is_over_for(rank_id)
            and not lane.loss_settled
            and self._table.recover_assignment(lane, assignment)
        ):
            attempt = lane.attempt
            lane.outcomes[rank_id.rank] = outcome
            self._notify(lane)

            def settled() -> bool:
                elsewhere = self._is_over_for(rank_id) or not lane.serves(assignment)
                return elsewhere or lane.loss_settled or lane.attempt != attempt

            await self._wake_ups.until(
                lambda: settled() or len(lane.ranks_gone(assignment)) == lane.world_size,
                rank_id.lane,
                timeout_s=PEER_GRACE_S if outcome.kind in (Outcome.FAILED, Outcome.PEER_LOST) else None,
            )
            # The group may have been replaced meanwhile, and the trial be in the hands of the next one.
            if not settled():
                self._table.end_attempt(lane, assignment)
                self._notify()
        return Next.LEAVE if lane.broken else Next.STAY

    # Trial clients: Tune's actors

    async def lease(self, assignment: TrialAssignment) -> int | None:
        """Waits for a ready lane and starts the trial on it; a trial that already runs keeps its lane.

        Returns:
            The lane, or None when the sweep is being ended.
        """
        self._waiting_leases += 1
        try:
            await self._until_lane_ready(
                lambda: (
                    self._is_ended(assignment) or self._winding_down or self._table.lane_for(assignment) is not None
                ),
                assignment,
            )
        finally:
            self._waiting_leases -= 1
        if assignment.trial_id in self._table.trial_outcomes:
            return 0  # ended while it waited: `next_event` tells how, whatever the lane
        if self._winding_down and self._table.serving(assignment.trial_id) is None:
            return None
        lane = self._table.lane_for(assignment)
        if self._closing or lane is None:
            return None
        if lane.assignment is None:
            self._table.assign(lane, assignment, claimed=True)
        lane.claimed = True
        self._notify(lane)
        return lane.index

    async def next_event(self, assignment: TrialAssignment, lane: int, after: int) -> Report | TrialOutcome:
        """Lets the trial go on past epoch `after` and waits for what comes next.

        A trial whose lane has lost its worker group, or was given up, is moved to the first lane that is ready.
        """
        await self._recover_lane(assignment, lane)
        serving = self._table.serving(assignment.trial_id)
        if self._winding_down and (serving is None or serving.acknowledged < max(after, 1)):
            return self._table.trial_outcomes.get(assignment.trial_id) or TrialOutcome(Outcome.INTERRUPTED)
        if serving is not None and not serving.released and not self._closing:
            serving.claimed, serving.acknowledged = True, max(serving.acknowledged, after)
            self._notify(serving)
        await self._wait_for_event(assignment, after)
        if self._closing:
            return TrialOutcome(Outcome.INTERRUPTED)
        return (
            self._table.trial_outcomes.get(assignment.trial_id)
            or self._table.report_after(assignment, after)
            or TrialOutcome(Outcome.INTERRUPTED)
        )

    async def _recover_lane(self, assignment: TrialAssignment, lane: int) -> None:
        """A restarted hub learns here what was leased."""
        if (
            self._is_ended(assignment)
            or self._table.serving(assignment.trial_id) is not None
            or lane in self._table.retired
        ):
            return
        row = self._table.row(lane)
        if row.assignment is None:
            self._table.assign(row, assignment, claimed=True)
            self._notify()
        else:
            await self.lease(assignment)  # it has given the lane away before it learnt that

    async def _wait_for_event(self, assignment: TrialAssignment, after: int) -> None:
        """Waits until there is something to tell a trial's client; a trial without a lane is found one meanwhile."""

        def has_event() -> bool:
            over = self._is_ended(assignment) or (self._winding_down and self._table.needs_lane(assignment))
            return over or self._table.report_after(assignment, after) is not None

        def without_lane() -> bool:
            return self._table.needs_lane(assignment)

        while not has_event():
            if not without_lane():
                await self._wake_ups.until(lambda: has_event() or without_lane(), assignment.trial_id)
            elif (target := self._table.ready_lane()) is not None:
                self._table.move(assignment, target, after)
                self._notify()
            else:
                await self._until_lane_ready(
                    lambda: has_event() or not without_lane() or self._table.ready_lane() is not None, assignment
                )

    async def yield_lane(self, trial_id: str, *, forced: bool) -> bool:
        """Takes a trial off its lane, at a report, to be leased again; nothing happens where no other trial waits.

        Args:
            trial_id: Of the trial.
            forced: Leave in any case.

        Returns:
            Whether the trial has left.
        """
        if not forced and not self._waiting_leases:
            return False

        while not self._closing and (lane := self._table.serving(trial_id)) is not None:
            lane.released = True
            self._notify(lane)
            await self._wait_until_off(lane, trial_id)
        outcome = self._table.trial_outcomes.get(trial_id)
        if trial_id not in self._released and outcome is not None and outcome.kind is Outcome.STOPPED:
            del self._table.trial_outcomes[trial_id]
        return True

    async def _wait_until_off(self, lane: Lane, trial_id: str) -> None:
        await self._wake_ups.until(lambda: self._closing or self._table.serving(trial_id) is not lane, trial_id)

    async def release(self, trial_id: str) -> None:
        """The trial needs its lane no more: its ranks are stopped at their next report."""
        self._released.add(trial_id)
        self._table.record_outcome(trial_id, TrialOutcome(Outcome.STOPPED))  # so that no late call revives it
        lane = self._table.serving(trial_id)
        if lane is not None:
            lane.released = True
            self._table.touch(lane)
            if lane.all_wait or lane.down:
                self._table.free(lane)  # no rank has it in its hands
        self._notify()

    # Owner: the driver, and the controllers of its worker groups

    async def adopt_controller(self, lane: int, controller: Any) -> None:
        """Remembers the actor that controls a lane's worker group."""
        self._controllers[lane] = controller

    async def group_lost(self, lane: int) -> None:
        """A lane's worker group is gone, and its controller sees to the next."""
        row = self._table.lanes.get(lane)
        if row is not None:
            row.down = True
            self._table.record_group_loss(row)
            self._notify(row)

    async def exempt_loss(self, lane: int) -> None:
        """The loss of the lane's present worker group, now or soon, is no failure: preemption, or another size."""
        if lane in self._table.lanes:
            self._table.lanes[lane].loss_exempt = True

    async def node_lost(self, lane: int) -> None:
        """A host of the lane's worker group is gone; which is no failure of the trial, unless it is one of many."""
        if lane in self._table.lanes:
            self._table.exempt_node_loss(self._table.lanes[lane])

    async def retire_lane(self, lane: int) -> None:
        """The driver has given a lane up; a trial on it goes on elsewhere."""
        self._table.retire(lane)
        self._notify()

    async def outcome(self, trial_id: str) -> TrialOutcome | None:
        """How a trial left its lane; None while it runs, or when it never had one."""
        return self._table.trial_outcomes.get(trial_id)

    async def is_ending(self) -> bool:
        """Whether no trial is to begin another epoch."""
        return self._closing or self._winding_down

    async def wind_down(self) -> None:
        """No trial begins another epoch; what is in the middle of one finishes it."""
        self._winding_down = True
        self._wake_ups.wake_all()

    async def close(self) -> None:
        """Ends the sweep: clients are told at once, ranks at their next report or while they wait for an order."""
        self._closing = True
        self._wake_ups.wake_all()

    async def hub_state(self) -> HubState:
        """Which lanes have a worker group, and what the driver keeps a copy of."""
        alive = frozenset(index for index, lane in self._table.lanes.items() if lane.alive)
        return HubState(alive, dict(self._controllers))

    async def generation(self, lane: int) -> int:
        """The newest generation of a lane that said hello; -1 before the first."""
        return self._table.lanes[lane].generation if lane in self._table.lanes else -1

    # Waiting

    def _is_over_for(self, rank_id: RankId) -> bool:
        return self._closing or self._table.is_outdated(rank_id)

    def _is_ended(self, assignment: TrialAssignment) -> bool:
        return self._closing or assignment.trial_id in self._table.trial_outcomes

    def _notify(self, *lanes: Lane) -> None:
        """Wakes those who wait for these lanes, their trials, or whatever else has changed in the table."""
        for lane in lanes:
            self._table.touch(lane)
        self._wake_ups.wake(self._table.take_changes())
        self._wake_next_client()

    def _wake_next_client(self) -> None:
        if self._table.ready_lane() is not None:
            self._wake_ups.wake_first(_READY_LANE)

    async def _until_lane_ready(self, condition: Callable[[], bool], assignment: TrialAssignment) -> None:
        """Waits in line for a ready lane, or for something else to happen to the trial."""
        try:
            await self._wake_ups.until(condition, assignment.trial_id, _READY_LANE)
        finally:
            self._wake_next_client()  # one at a time is woken; should this one not want it, the next may
