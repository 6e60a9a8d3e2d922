"""The hub's table: what every lane is doing, and how the trials ended."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from orchestrator.lanes.lane import Lane
from orchestrator.lanes.messages import Ending, Fate, Member, Order, Report

GROUP_LOST = Ending(Fate.FAILED, "its worker group was lost (killed, out of memory, or host gone)")


class LaneTable:
    """Lanes by their index, and the results of trials by their id.

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
        self.lanes: dict[int, Lane] = {}
        self.given_up: set[int] = set()
        self.results: dict[str, Ending] = {}

    def lane_of(self, member: Member) -> Lane:
        """The row of a rank's lane; its first word from a new worker group begins a generation."""
        if member.lane in self.given_up:
            return Lane()
        lane = self.lanes.setdefault(member.lane, Lane())
        if member.generation > lane.generation:
            if lane.generation >= 0:
                self.judge_loss(lane)
            lane.begin_generation(member)
        return lane

    def judge_loss(self, lane: Lane) -> None:
        """A worker group is gone: a failure of the trial it was training, unless that is settled or excused."""
        if lane.order is not None:
            if lane.begun and not lane.judged and not lane.excused:
                self._count_failure(lane, lane.order, GROUP_LOST)
            elif lane.released or lane.order.trial_id in self.results:
                lane.clear()
        lane.judged = True

    def _count_failure(self, lane: Lane, order: Order, failure: Ending) -> None:
        """The trial keeps its lane for another attempt, or has failed."""
        self._failures[order.trial_id] += 1
        attempts = self._failures[order.trial_id]
        if failure.final or attempts > self._max_failures:
            reason = failure.reason if attempts == 1 else f"attempt {attempts}: {failure.reason}"
            self.results.setdefault(order.trial_id, replace(failure, reason=reason))
        if lane.released or order.trial_id in self.results:
            lane.clear()

    def is_history(self, member: Member) -> bool:
        """Whether a rank belongs to a worker group that has been replaced."""
        lane = self.lanes.get(member.lane)
        return lane is None or member.generation < lane.generation

    def learn(self, lane: Lane, order: Order) -> bool:
        """Whether the lane serves the order; a restarted hub learns from its ranks what a lane is doing."""
        if lane.order is None and order.trial_id not in self.results and self.serving(order) is None:
            lane.assign(order, claimed=False)
            lane.begun = True
        return lane.serves(order)

    def serving(self, order: Order) -> Lane | None:
        """The lane that holds a trial."""
        return next((lane for lane in self.lanes.values() if lane.serves(order)), None)

    def _ready_lane(self) -> int | None:
        return next((index for index, lane in sorted(self.lanes.items()) if lane.ready), None)

    def lane_for(self, order: Order) -> int | None:
        """The lane that holds a trial, else one that is ready for it."""
        serving = next((index for index, lane in self.lanes.items() if lane.serves(order)), None)
        return serving if serving is not None else self._ready_lane()

    def is_homeless(self, order: Order) -> bool:
        """Whether a trial has no lane, or one without a worker group."""
        serving = self.serving(order)
        return serving is None or serving.down

    def refuge(self, order: Order) -> int | None:
        """A ready lane for a trial that has none, or none with a worker group."""
        return self._ready_lane() if self.is_homeless(order) else None

    def move(self, order: Order, refuge: int, after: int) -> None:
        """Gives a trial another lane; it goes on past epoch `after`."""
        serving = self.serving(order)
        if serving is not None:
            serving.clear()
        self.lanes[refuge].assign(order, claimed=True, acknowledged=after)

    def fresh_report(self, order: Order, after: int) -> Report | None:
        """What a trial has reported past epoch `after`."""
        for index, lane in self.lanes.items():
            report = lane.newest_report if lane.serves(order) else None
            if report is not None and report.epoch > after:
                return replace(report, lane=index)
        return None

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
            self.results.setdefault(order.trial_id, endings[0])
            lane.clear()
        elif lane.released:
            lane.clear()
        # A trial that only lost its group stays with the lane and goes on in its next generation.
