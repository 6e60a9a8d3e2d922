"""The hub: a mailbox between Tune's trial actors and the lanes, with a table of leases.

One asynchronous actor per sweep. Every call carries its caller's complete state and waits until the hub's tables answer
it; a repeated call gets the same answer. After a restart of the actor the tables are therefore rebuilt from the calls
that Ray retries. A waiting call is woken when its own lane or trial changes, so that the cost of a call does not grow
with the number of lanes. The class imports neither Ray nor torch and is tested as plain asyncio.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from orchestrator.lanes.hub.lane import Lane
from orchestrator.lanes.hub.lane_table import LaneTable
from orchestrator.lanes.hub.running_epochs import RunningEpochs, progress_by_trial
from orchestrator.lanes.hub.wake_ups import WakeUps
from orchestrator.lanes.messages import (
    Decision,
    HubState,
    Next,
    Outcome,
    ProgressAnswer,
    RankId,
    Report,
    TrialAssignment,
    TrialOutcome,
)
from orchestrator.records.folder.live_progress import EpochProgress

# Subject of `WakeUps` for calls that need a ready lane; the other subjects are indices of lanes and ids of trials.
_READY_LANE = ("ready lane",)
PEER_GRACE_S = 10.0
ORPHAN_GRACE_S = 60.0


class LaneHub:
    """Mailbox and lease table of one sweep, in the hub actor; its methods are coroutines of one event loop.

    Args:
        max_failures: Number of failures after which a trial is retried from its checkpoint; one more ends it.
    """

    def __init__(self, max_failures: int = 0) -> None:
        self._table = LaneTable(max_failures)
        self._closing = False
        self._winding_down = False
        self._epochs = RunningEpochs()
        self._released: set[str] = set()  # trials that Tune has ended
        self._waiting_leases = 0
        self._wake_ups = WakeUps()

    # Called by the workers of lanes

    async def new_generation(self, lane: int) -> int:
        """Return a number above all earlier generations of a lane; by the clock, so that a restart keeps the order."""
        return max(time.time_ns(), self._table.lanes[lane].generation + 1 if lane in self._table.lanes else 0)

    async def join(self, rank_id: RankId) -> None:
        """Register a rank of a new worker group; the first rank to do so begins a generation."""
        self._notify(self._table.lane_of(rank_id))

    async def next_assignment(
        self, rank_id: RankId, left: TrialAssignment | None = None, last_report: Report | None = None
    ) -> TrialAssignment | None:
        """Deliver the last report of a trial, and wait for the next trial to train, without a timeout.

        Args:
            rank_id: Calling rank.
            left: Trial that the rank left last; not assigned again while a peer is still leaving it.
            last_report: Report of that trial's last epoch, where the rank has completed it: no decision follows, and
                the lane is free once Tune has ended the trial.

        Returns:
            The trial; None when the sweep is over or the caller's generation is outdated.
        """
        lane = self._table.lane_of(rank_id)
        if not self._is_over_for(rank_id):
            self._table.wait(lane, rank_id.rank, left, last_report)
        self._notify(lane)
        if left is not None and lane.serves(left) and lane.is_completing:
            await self._until_claimed(lane, left, lambda: self._is_over_for(rank_id) or not lane.serves(left))
        await self._wake_ups.until(lambda: self._is_over_for(rank_id) or lane.offers_trial(rank_id.rank), rank_id.lane)
        if self._is_over_for(rank_id):
            return None
        lane.waiting.pop(rank_id.rank, None)
        return lane.assignment

    async def begin(self, rank_id: RankId, assignment: TrialAssignment) -> None:
        """Note that a rank has received its assignment; from now on the loss of its group is a failure of the trial."""
        lane = self._table.lane_of(rank_id)
        if not self._table.is_outdated(rank_id) and lane.serves(assignment):
            lane.begun = True
            self._table.note_started(lane, rank_id.rank)

    async def report(self, rank_id: RankId, assignment: TrialAssignment, report: Report) -> Decision:
        """Deliver an epoch and wait for the decision, which is the same for all ranks.

        An acknowledged epoch always means GO, and none is acknowledged after a release: ranks that wake one after
        another could otherwise differ, and one would hang in a collective. Only when a peer has left the trial is the
        decision STOP in any case.
        """
        lane = self._table.lane_of(rank_id)
        if self._table.is_outdated(rank_id) or not self._table.recover_assignment(lane, rank_id.rank, assignment):
            return Decision.STOP
        lane.reports[rank_id.rank] = report
        self._notify()
        self._wake_ups.wake([assignment.trial_id])  # the calls of the other ranks do not depend on this report

        def gone() -> bool:
            return self._table.is_outdated(rank_id) or not lane.serves(assignment) or bool(lane.ranks_gone(assignment))

        def decided() -> bool:
            return gone() or self._closing or lane.released or lane.acknowledged >= report.epoch

        await self._until_claimed(lane, assignment, decided)
        await self._wake_ups.until(decided, rank_id.lane)
        return Decision.GO if not gone() and lane.acknowledged >= report.epoch else Decision.STOP

    async def _until_claimed(self, lane: Lane, assignment: TrialAssignment, decided: Callable[[], bool]) -> None:
        """Wait for the first call of a trial's client to this hub, which a restarted one may get later.

        Args:
            lane: Lane of the trial.
            assignment: The trial.
            decided: Returns whether the caller needs to wait no longer.
        """
        if lane.claimed or lane.index is None:
            return
        await self._wake_ups.until(lambda: lane.claimed or decided(), lane.index, timeout_s=ORPHAN_GRACE_S)
        if not lane.claimed and not decided() and lane.serves(assignment):
            self._table.release(lane)  # its client is gone: the release went to a hub that has been restarted since
            self._notify()

    async def progress(self, rank_id: RankId, trial_id: str, progress: EpochProgress) -> ProgressAnswer:
        """Store the newest progress that the first rank sends, and return at once whether to leave the epoch."""
        lane = self._table.serving(trial_id)
        if lane is not None and lane.index == rank_id.lane and not self._table.is_outdated(rank_id):
            lane.progress = progress
        return self._epochs.answer(len(self._table.lanes), closing=self._closing)

    async def finish(self, rank_id: RankId, assignment: TrialAssignment, outcome: TrialOutcome) -> Next:
        """Record the outcome of a rank and wait for those of its peers.

        When one rank fails alone, its peers hang in a collective: after a grace period the attempt is over and the
        worker group is rebuilt. A rank that has only lost its peer is no failure of the trial.

        Returns:
            LEAVE when the rank is to end its process, so that the worker group is rebuilt.
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
            and self._table.recover_assignment(lane, rank_id.rank, assignment)
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
            # The group may have been replaced meanwhile, and the trial be assigned to the next one.
            if not settled():
                self._table.end_attempt(lane, assignment)
                self._notify()
        return Next.LEAVE if lane.broken else Next.STAY

    # Called by Tune's trial actors

    async def lease(self, assignment: TrialAssignment) -> int | None:
        """Wait for a ready lane and start the trial on it; a trial that already runs keeps its lane.

        Returns:
            Index of the lane; None when the sweep is ending.
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
            return 0  # ended while it waited: `next_event` returns the outcome for any lane
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
        """Acknowledge epoch `after` of a trial and wait for its next report or its outcome, without a timeout.

        A trial whose lane has lost its worker group, or was retired, is moved to the first lane that is ready.

        Args:
            assignment: The trial.
            lane: Index of the lane that the caller has leased.
            after: Newest epoch that the caller has received; 0 before the first.
        """
        self._table.held_times.recover(assignment.trial_id, assignment.held_s)
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

    async def acknowledge(self, trial_id: str, epoch: int) -> None:
        """Let the ranks of a trial continue after an epoch, before its client acknowledges the epoch as well.

        Args:
            trial_id: Id of the trial.
            epoch: Newest epoch that Tune has received, and after which it continues.
        """
        serving = self._table.serving(trial_id)
        if serving is None or serving.released or self._winding_down or self._closing:
            return
        serving.acknowledged = max(serving.acknowledged, epoch)  # claimed by its client alone, which may be gone
        self._notify(serving)

    async def _recover_lane(self, assignment: TrialAssignment, lane: int) -> None:
        """Record a lease that a restarted hub has no record of."""
        if self._is_ended(assignment) or self._table.serving(assignment.trial_id) is not None:
            return
        if self._table.recover_lease(lane, assignment):
            self._notify()
        elif lane not in self._table.retired:
            await self.lease(assignment)  # the restarted hub has assigned the lane to another trial first

    async def _wait_for_event(self, assignment: TrialAssignment, after: int) -> None:
        """Wait for a report or the outcome of a trial; assign a lane to a trial that has lost its own."""

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
        """Take a trial off its lane at its next report; it may be leased again later.

        Args:
            trial_id: Id of the trial.
            forced: Take it off even when no other trial waits for a lane.

        Returns:
            Whether the trial has left its lane.
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
        """Free the lane of a trial that Tune has ended; its ranks are stopped at their next report."""
        self._released.add(trial_id)
        self._table.record_outcome(trial_id, TrialOutcome(Outcome.STOPPED))  # so that no late call starts it again
        lane = self._table.serving(trial_id)
        if lane is not None:
            self._table.release(lane)
        self._notify()

    # Called by the driver and by the controllers of worker groups

    async def group_lost(self, lane: int) -> None:
        """Record that a lane has lost its worker group; its controller starts the next one."""
        row = self._table.lanes.get(lane)
        if row is not None:
            row.down = True
            self._table.record_group_loss(row)
            self._notify(row)

    async def exempt_loss(self, lane: int) -> None:
        """Exempt the loss of a lane's worker group, now or soon, from its trial's failures: preemption or resizing."""
        if lane in self._table.lanes:
            self._table.lanes[lane].loss_exempt = True

    async def node_lost(self, lane: int) -> None:
        """Record a node failure under a lane's worker group; it counts as a failure of the trial after many of them."""
        if lane in self._table.lanes:
            self._table.exempt_node_loss(self._table.lanes[lane])

    async def retire_lane(self, lane: int) -> None:
        """Remove a lane that the driver does not restart; its trial is moved to another lane."""
        self._table.retire(lane)
        self._notify()

    async def outcome(self, trial_id: str) -> TrialOutcome | None:
        """Return the outcome of a trial; None while it runs, or when it never had a lane."""
        return self._table.trial_outcomes.get(trial_id)

    async def is_ending(self) -> bool:
        """Return whether no trial is to begin another epoch."""
        return self._closing or self._winding_down

    async def wind_down(self, leave_in_s: float | None = None) -> None:
        """Let no trial begin another epoch.

        Args:
            leave_in_s: Seconds after which running epochs are left within; None finishes them.
        """
        self._winding_down = True
        self._epochs.leave_in(leave_in_s)
        self._wake_ups.wake_all()

    async def close(self) -> None:
        """End the sweep: answer clients and idle ranks at once, training ranks at their next report."""
        self._closing = True
        self._wake_ups.wake_all()

    async def hub_state(self) -> HubState:
        """Return which lanes have a worker group, which trials hold one, and the progress of running epochs."""
        lanes = self._table.lanes
        alive = frozenset(index for index, lane in lanes.items() if lane.alive)
        return HubState(alive, progress_by_trial(lanes.values()), self._table.held_lanes())

    async def ready_generation(self, lane: int) -> int:
        """Return the newest generation of a lane of which every rank has started; -1 before the first."""
        return self._table.lanes[lane].ready_generation if lane in self._table.lanes else -1

    # Waiting

    def _is_over_for(self, rank_id: RankId) -> bool:
        return self._closing or self._table.is_outdated(rank_id)

    def _is_ended(self, assignment: TrialAssignment) -> bool:
        return self._closing or assignment.trial_id in self._table.trial_outcomes

    def _notify(self, *lanes: Lane) -> None:
        """Wake the calls that wait for these lanes, their trials, or other changes of the table."""
        for lane in lanes:
            self._table.touch(lane)
        self._wake_ups.wake(self._table.take_changes())
        self._wake_next_client()

    def _wake_next_client(self) -> None:
        if self._table.ready_lane() is not None:
            self._wake_ups.wake_first(_READY_LANE)

    async def _until_lane_ready(self, condition: Callable[[], bool], assignment: TrialAssignment) -> None:
        """Wait in line for a ready lane, or for a change of the trial."""
        try:
            await self._wake_ups.until(condition, assignment.trial_id, _READY_LANE)
        finally:
            self._wake_next_client()  # one call is woken at a time; if it does not take the lane, the next one may
