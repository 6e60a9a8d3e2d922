"""The hub's table: what every lane is doing, and how the trials ended."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import replace

from orchestrator.lanes.hub.lane import Lane
from orchestrator.lanes.messages import Ending, Fate, Member, Order, Report

GROUP_LOST = Ending(Fate.FAILED, "its worker group was lost (killed, out of memory, or host gone)")
MOST_HOSTS_LOST = 10  # under one trial, before that counts as its failure


class LaneTable:
    """Lanes by their index, and the results of trials by their id.

    Looking something up takes as long with a thousand lanes as with ten: which lane holds a trial, and which are ready,
    is noted when it changes. Trials therefore come to a lane, leave it and end through the methods of this class;
    who changes anything else of a lane calls `touch`.

    Args:
        max_failures: Failures after which a trial goes on from its checkpoint; one more ends it.

    Attributes:
        lanes: Those that have said hello, or hold a trial.
        given_up: Lanes that the driver starts no more.
        results: How trials ended.
    """

    def __init__(self, max_failures: int = 0) -> None:
        self._max_failures = max_failures
        self._failures: Counter[str] = Counter()
        self._hosts_lost: Counter[str] = Counter()
        self._held: dict[str, Lane] = {}  # by the trial they hold
        self._free: list[int] = []  # a heap of lanes that were ready when last touched
        self._changed: set[int | str] = set()
        self.lanes: dict[int, Lane] = {}
        self.given_up: set[int] = set()
        self.results: dict[str, Ending] = {}

    # Rows

    def row(self, index: int) -> Lane:
        """A lane's row, new where there is none."""
        return self.lanes.setdefault(index, Lane(index))

    def lane_of(self, member: Member) -> Lane:
        """The row of a rank's lane; its first word from a new worker group begins a generation."""
        if member.lane in self.given_up:
            return Lane()
        lane = self.row(member.lane)
        if member.generation > lane.generation:
            if lane.generation >= 0:
                self.judge_loss(lane)
            lane.begin_generation(member)
            self.touch(lane)
        return lane

    def touch(self, lane: Lane) -> None:
        """Notes that something of a lane, and so of the trial on it, has changed."""
        if lane.index is not None:
            self._changed.add(lane.index)
        if lane.order is not None:
            self._changed.add(lane.order.trial_id)

    def take_changes(self) -> set[int | str]:
        """The lanes and trials of which something has changed since this was last asked."""
        changed, self._changed = self._changed, set()
        for index in changed:
            if isinstance(index, int) and index in self.lanes and self.lanes[index].ready:
                heapq.heappush(self._free, index)
        return changed

    def give_up(self, index: int) -> None:
        """Takes a lane off the table for good; a trial on it has no lane now."""
        self.given_up.add(index)
        lane = self.lanes.pop(index, None)
        if lane is not None:
            self.judge_loss(lane)
            self.free(lane)

    # Trials on lanes

    def assign(self, lane: Lane, order: Order, *, claimed: bool, acknowledged: int = 0) -> None:
        """Leases a lane to a trial."""
        lane.assign(order, claimed=claimed, acknowledged=acknowledged)
        self._held[order.trial_id] = lane
        self.touch(lane)

    def free(self, lane: Lane) -> None:
        """The lane holds no trial any more."""
        self.touch(lane)
        if lane.order is not None:
            del self._held[lane.order.trial_id]
        lane.clear()

    def settle(self, trial_id: str, ending: Ending) -> None:
        """How a trial ended; of several ends the first counts."""
        self.results.setdefault(trial_id, ending)
        self._changed.add(trial_id)

    def judge_loss(self, lane: Lane) -> None:
        """A worker group is gone: a failure of the trial it was training, unless that is settled or excused."""
        if lane.order is not None:
            if lane.begun and not lane.judged and not lane.excused:
                self._count_failure(lane, lane.order, GROUP_LOST)
            elif lane.released or lane.order.trial_id in self.results:
                self.free(lane)
        lane.judged = True
        self.touch(lane)

    def excuse_loss_of_host(self, lane: Lane) -> None:
        """Hosts are lost for reasons of their own; but one trial after another host, and it may be its doing."""
        if lane.order is not None and not lane.excused:
            self._hosts_lost[lane.order.trial_id] += 1
            lane.excused = self._hosts_lost[lane.order.trial_id] <= MOST_HOSTS_LOST

    def _count_failure(self, lane: Lane, order: Order, failure: Ending) -> None:
        """The trial keeps its lane for another attempt, or has failed."""
        self._failures[order.trial_id] += 1
        attempts = self._failures[order.trial_id]
        if failure.final or attempts > self._max_failures:
            reason = failure.reason if attempts == 1 else f"attempt {attempts}: {failure.reason}"
            self.settle(order.trial_id, replace(failure, reason=reason))
        if lane.released or order.trial_id in self.results:
            self.free(lane)

    def is_history(self, member: Member) -> bool:
        """Whether a rank belongs to a worker group that has been replaced."""
        lane = self.lanes.get(member.lane)
        return lane is None or member.generation < lane.generation

    def learn(self, lane: Lane, order: Order) -> bool:
        """Whether the lane serves the order; a restarted hub learns from its ranks what a lane is doing."""
        if lane.order is None and order.trial_id not in self.results and self.serving(order.trial_id) is None:
            self.assign(lane, order, claimed=False)
            lane.begun = True
        return lane.serves(order)

    def serving(self, trial_id: str) -> Lane | None:
        """The lane that holds a trial."""
        return self._held.get(trial_id)

    def ready_lane(self) -> Lane | None:
        """The first lane on which a trial can start at once."""
        while self._free:
            lane = self.lanes.get(self._free[0])
            if lane is not None and lane.ready:
                return lane
            heapq.heappop(self._free)
        return None

    def lane_for(self, order: Order) -> Lane | None:
        """The lane that holds a trial, else one that is ready for it."""
        return self.serving(order.trial_id) or self.ready_lane()

    def is_homeless(self, order: Order) -> bool:
        """Whether a trial has no lane, or one without a worker group."""
        serving = self.serving(order.trial_id)
        return serving is None or serving.down

    def move(self, order: Order, refuge: Lane, after: int) -> None:
        """Gives a trial another lane; it goes on past epoch `after`."""
        serving = self.serving(order.trial_id)
        if serving is not None:
            self.free(serving)
        self.assign(refuge, order, claimed=True, acknowledged=after)

    def fresh_report(self, order: Order, after: int) -> Report | None:
        """What a trial has reported past epoch `after`."""
        lane = self.serving(order.trial_id)
        report = lane.newest_report if lane is not None else None
        if lane is None or report is None or report.epoch <= after:
            return None
        return replace(report, lane=lane.index)

    def conclude(self, lane: Lane, order: Order) -> None:
        """Derives the end of an attempt from its ranks' ends."""
        endings = list(lane.endings.values())
        lane.broken = lane.broken or len(lane.departed(order)) < lane.world_size
        failures = [end for end in endings if end.fate is Fate.FAILED]
        if failures:
            lane.judged = lane.broken
            self._count_failure(lane, order, failures[0])
            if not lane.broken and lane.serves(order):
                lane.begin_again()
        elif not lane.broken:
            self.settle(order.trial_id, endings[0])
            self.free(lane)
        elif lane.released:
            self.free(lane)
        # A trial that only lost its group stays with the lane and goes on in its next generation.
        self.touch(lane)
