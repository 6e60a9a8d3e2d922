"""Table of the hub: state of every lane, and outcomes of trials."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import replace

from orchestrator.lanes.hub.held_times import HeldTimes
from orchestrator.lanes.hub.lane import Lane
from orchestrator.lanes.messages import Outcome, RankId, Report, TrialAssignment, TrialOutcome

GROUP_LOST = TrialOutcome(Outcome.FAILED, "its worker group was lost (killed, out of memory, or node failure)")
MAX_NODE_LOSSES = 10  # under one trial, before one more counts as its failure


class LaneTable:
    """Lanes by their index, and outcomes of trials by their id.

    A lookup takes constant time in the number of lanes: the lane of a trial and the ready lanes are indexed when they
    change. Trials are therefore assigned, freed and ended through the methods of this class only; code that changes
    anything else of a lane calls `touch`.

    Args:
        max_failures: Number of failures after which a trial is retried from its checkpoint; one more ends it.

    Attributes:
        lanes: Lanes that have joined, or hold a trial, by their index.
        retired: Indices of lanes that the driver does not restart.
        trial_outcomes: Outcomes by the id of the trial.
        held_times: Time in which each trial has held a lane.
    """

    def __init__(self, max_failures: int = 0) -> None:
        self._max_failures = max_failures
        self._failures: Counter[str] = Counter()
        self._node_losses: Counter[str] = Counter()
        self._held: dict[str, Lane] = {}  # by the id of the trial they hold
        self._free: list[int] = []  # a heap of lanes that were ready when last touched
        self._changed: set[int | str] = set()
        self.lanes: dict[int, Lane] = {}
        self.retired: set[int] = set()
        self.trial_outcomes: dict[str, TrialOutcome] = {}
        self.held_times = HeldTimes()

    # Rows

    def row(self, index: int) -> Lane:
        """Return the row of a lane, a new one where there is none."""
        return self.lanes.setdefault(index, Lane(index))

    def lane_of(self, rank_id: RankId) -> Lane:
        """Return the row of a rank's lane; the first call of a new worker group begins a generation."""
        if rank_id.lane in self.retired:
            return Lane()
        lane = self.row(rank_id.lane)
        if rank_id.generation > lane.generation:
            if lane.generation >= 0:
                self.record_group_loss(lane)
            lane.begin_generation(rank_id)
            self.touch(lane)
        return lane

    def touch(self, lane: Lane) -> None:
        """Note that the state of a lane, and so of the trial on it, has changed."""
        if lane.index is not None:
            self._changed.add(lane.index)
        if lane.assignment is not None:
            self._changed.add(lane.assignment.trial_id)

    def take_changes(self) -> set[int | str]:
        """Return the lanes and trials that have changed since the last call."""
        changed, self._changed = self._changed, set()
        for change in changed:
            if isinstance(change, str):
                serving = self.serving(change)
                self.held_times.update(change, holds=serving is not None and serving.is_held)
            elif change in self.lanes and self.lanes[change].ready:
                heapq.heappush(self._free, change)
        return changed

    def retire(self, index: int) -> None:
        """Remove a lane for good; its trial has no lane afterwards."""
        self.retired.add(index)
        lane = self.lanes.pop(index, None)
        if lane is not None:
            self.record_group_loss(lane)
            self.free(lane)

    # Trials on lanes

    def assign(self, lane: Lane, assignment: TrialAssignment, *, claimed: bool, acknowledged: int = 0) -> None:
        """Lease a lane to a trial."""
        lane.assign(assignment, claimed=claimed, acknowledged=acknowledged)
        self._held[assignment.trial_id] = lane
        self.touch(lane)

    def free(self, lane: Lane) -> None:
        """Take the trial off a lane."""
        self.touch(lane)
        if lane.assignment is not None:
            del self._held[lane.assignment.trial_id]
        lane.clear()

    def release(self, lane: Lane) -> None:
        """Stop the trial on a lane at its next report; the lane is free at once where no rank trains it."""
        lane.released = True
        self.touch(lane)
        if lane.all_wait or lane.down:
            self.free(lane)

    def wait(self, lane: Lane, rank: int, left: TrialAssignment | None, last_report: Report | None) -> None:
        """Record that a rank waits for an assignment, and the last report of a trial that it has completed."""
        if left is not None and last_report is not None and self.recover_assignment(lane, rank, left):
            lane.reports[rank] = last_report
        lane.wait(rank, None if left is None else left.trial_id)
        if lane.all_wait and lane.released:
            self.free(lane)
        elif lane.all_wait and lane.is_completing and not lane.is_complete:
            lane.restart_attempt()  # a peer has failed, which a hub has taken along

    def record_outcome(self, trial_id: str, outcome: TrialOutcome) -> None:
        """Record the outcome of a trial; the first of several counts."""
        self.trial_outcomes.setdefault(trial_id, outcome)
        self._changed.add(trial_id)

    def record_group_loss(self, lane: Lane) -> None:
        """Count the loss of a worker group as a failure of its trial, unless it is exempt or counted already."""
        if lane.assignment is not None:
            if lane.begun and not lane.loss_settled and not lane.loss_exempt:
                self._count_failure(lane, lane.assignment, GROUP_LOST)
            elif lane.released or lane.assignment.trial_id in self.trial_outcomes:
                self.free(lane)
        lane.loss_settled = True
        self.touch(lane)

    def exempt_node_loss(self, lane: Lane) -> None:
        """Exempt a node failure from the failures of the trial, unless the trial has met too many of them."""
        if lane.assignment is not None and not lane.loss_exempt:
            self._node_losses[lane.assignment.trial_id] += 1
            lane.loss_exempt = self._node_losses[lane.assignment.trial_id] <= MAX_NODE_LOSSES

    def _count_failure(self, lane: Lane, assignment: TrialAssignment, failure: TrialOutcome) -> None:
        """Count a failure: the trial keeps its lane for a retry, or has failed."""
        self._failures[assignment.trial_id] += 1
        attempts = self._failures_of(assignment)
        if failure.final or attempts > self._max_failures:
            reason = failure.reason if attempts == 1 else f"attempt {attempts}: {failure.reason}"
            self.record_outcome(assignment.trial_id, replace(failure, reason=reason))
        if lane.released or assignment.trial_id in self.trial_outcomes:
            self.free(lane)

    def _failures_of(self, assignment: TrialAssignment) -> int:
        """Return the number of failures of a trial: Tune's id, by which they are counted, changes with each pause."""
        return assignment.failures + self._failures[assignment.trial_id]

    def is_outdated(self, rank_id: RankId) -> bool:
        """Return whether a rank belongs to a worker group that has been replaced."""
        lane = self.lanes.get(rank_id.lane)
        return lane is None or rank_id.generation < lane.generation

    def note_started(self, lane: Lane, rank: int) -> None:
        """Note that a rank of a lane has started: it asks for an assignment, or has one."""
        if lane.note_started(rank):
            self.touch(lane)

    def recover_assignment(self, lane: Lane, rank: int, assignment: TrialAssignment) -> bool:
        """Return whether a lane serves a trial; a restarted hub recovers the assignment from the call of a rank."""
        self.note_started(lane, rank)
        if (
            lane.assignment is None
            and assignment.trial_id not in self.trial_outcomes
            and self.serving(assignment.trial_id) is None
        ):
            self.assign(lane, assignment, claimed=False)
            lane.begun = True
        return lane.serves(assignment)

    def recover_lease(self, index: int, assignment: TrialAssignment) -> bool:
        """Record a lease that a restarted hub has no record of; False where the lane is retired or another trial's."""
        if index in self.retired:
            return False
        lane = self.row(index)
        if lane.assignment is None:
            self.assign(lane, assignment, claimed=True)
        return lane.serves(assignment)

    def serving(self, trial_id: str) -> Lane | None:
        """Return the lane that holds a trial; None when no lane does."""
        return self._held.get(trial_id)

    def held_lanes(self) -> dict[str, int]:
        """Return the lane of each trial that holds one, by the id of the trial; the others wait."""
        held = {trial_id: lane.index for trial_id, lane in self._held.items() if lane.is_held}
        return {trial_id: index for trial_id, index in held.items() if index is not None}

    def ready_lane(self) -> Lane | None:
        """Return the first lane on which a trial can start at once; None when there is none."""
        while self._free:
            lane = self.lanes.get(self._free[0])
            if lane is not None and lane.ready:
                return lane
            heapq.heappop(self._free)
        return None

    def lane_for(self, assignment: TrialAssignment) -> Lane | None:
        """Return the lane that holds a trial, else a ready one; None when there is neither."""
        return self.serving(assignment.trial_id) or self.ready_lane()

    def needs_lane(self, assignment: TrialAssignment) -> bool:
        """Return whether a trial has no lane, or one without a worker group."""
        serving = self.serving(assignment.trial_id)
        return serving is None or serving.down

    def move(self, assignment: TrialAssignment, target: Lane, after: int) -> None:
        """Move a trial to another lane; epoch `after` counts as acknowledged there."""
        serving = self.serving(assignment.trial_id)
        if serving is not None:
            self.free(serving)
        self.assign(target, assignment, claimed=True, acknowledged=after)

    def report_after(self, assignment: TrialAssignment, after: int) -> Report | None:
        """Return the newest report of a trial, if it is past epoch `after`."""
        lane = self.serving(assignment.trial_id)
        report = lane.newest_report if lane is not None else None
        if lane is None or report is None or report.epoch <= after:
            return None
        held_s = self.held_times.seconds(assignment.trial_id)
        return replace(report, lane=lane.index, failures=self._failures_of(assignment), held_s=held_s)

    def end_attempt(self, lane: Lane, assignment: TrialAssignment) -> None:
        """Derive the outcome of an attempt from the outcomes of its ranks."""
        outcomes = list(lane.outcomes.values())
        lane.broken = lane.broken or len(lane.ranks_gone(assignment)) < lane.world_size
        failures = [end for end in outcomes if end.kind is Outcome.FAILED]
        if failures:
            lane.loss_settled = lane.broken
            self._count_failure(lane, assignment, failures[0])
            if not lane.broken and lane.serves(assignment):
                lane.restart_attempt()
        elif not lane.broken and outcomes[0].kind is Outcome.STOPPED and not lane.released:
            lane.restart_attempt()  # stopped for the failure of a peer, which a hub has taken along
        elif not lane.broken:
            self.record_outcome(assignment.trial_id, outcomes[0])
            self.free(lane)
        elif lane.released:
            self.free(lane)
        # A trial that only lost its group stays with the lane and resumes in its next generation.
        self.touch(lane)
