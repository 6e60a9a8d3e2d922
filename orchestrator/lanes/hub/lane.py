"""State of one lane in the hub's table."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from orchestrator.lanes.messages import RankId, Report, TrialAssignment, TrialOutcome
from orchestrator.records.folder.live_progress import EpochProgress


@dataclass
class Lane:
    """State of one lane.

    A lane is `ready` when every rank of its newest generation waits for an assignment. A trial whose worker group was
    lost stays in `assignment` and is given to the next generation, unless another lane is ready before.

    Args:
        index: Index of the lane; None for a row that is in no table.
        generation: Newest generation that has joined; -1 before the first.
        ready_generation: Newest generation of which every rank has asked for an assignment; -1 before the first.
        asked: Ranks of the newest generation that have asked for an assignment.
        world_size: Number of workers of that generation.
        waiting: Ranks that wait for an assignment, with the id of the trial each has left last.
        assignment: Trial leased to the lane; None when the lane is free.
        claimed: Whether the trial's client has called; a restarted hub may get the ranks' calls first.
        begun: Whether a rank has received the assignment; before, a loss of the group is no failure of the trial.
        attempt: Number of retries of the trial on the same worker group.
        reports: Newest report of each rank.
        progress: Newest progress within an epoch; None before the first.
        acknowledged: Newest epoch that the client has received; the ranks continue after it.
        released: Whether the trial is to stop at its next report.
        outcomes: Outcome of each rank that has left the trial.
        broken: Whether the worker group is to be rebuilt.
        loss_settled: Whether the loss of this generation has been counted, or need not be.
        loss_exempt: Whether the loss of this generation is no failure of the trial: preempted, resized, node failure.
        down: Whether the group is gone and the next has not joined.
    """

    index: int | None = None
    generation: int = -1
    ready_generation: int = -1
    asked: set[int] = field(default_factory=set)
    world_size: int = 0
    waiting: dict[int, str | None] = field(default_factory=dict)
    assignment: TrialAssignment | None = None
    claimed: bool = False
    begun: bool = False
    attempt: int = 0
    reports: dict[int, Report] = field(default_factory=dict)
    progress: EpochProgress | None = None
    acknowledged: int = 0
    released: bool = False
    outcomes: dict[int, TrialOutcome] = field(default_factory=dict)
    broken: bool = False
    loss_settled: bool = False
    loss_exempt: bool = False
    down: bool = False

    @property
    def ready(self) -> bool:
        """True when a trial can start here at once."""
        return self.assignment is None and self.alive and self.all_wait

    @property
    def alive(self) -> bool:
        """True when there is a worker group to train on."""
        return self.generation >= 0 and not self.broken and not self.down

    @property
    def is_held(self) -> bool:
        """True when a trial holds the lane, and its group is there and has started; also in a lease just recovered."""
        return self.assignment is not None and not self.down and self.ready_generation == self.generation

    @property
    def all_wait(self) -> bool:
        """True when no rank is inside a trial."""
        return 0 < self.world_size == len(self.waiting)

    @property
    def is_completing(self) -> bool:
        """True when a rank has delivered the last report of the trial, which is then not assigned again."""
        return any(report.is_last for report in self.reports.values())

    @property
    def is_complete(self) -> bool:
        """True when every rank has delivered the last report of the trial."""
        return len(self.reports) == self.world_size and all(report.is_last for report in self.reports.values())

    def offers_trial(self, rank: int) -> bool:
        """Return whether a waiting rank is to train the trial that is leased to the lane."""
        if self.assignment is None or self.is_completing:
            return False
        return self.waiting.get(rank) != self.assignment.trial_id

    @property
    def newest_report(self) -> Report | None:
        """Newest report that every rank has delivered: rank 0's metrics, and the load of all nodes."""
        if not self.reports or len(self.reports) < self.world_size:
            return None
        first = self.reports[0]
        if any(report.epoch < first.epoch for report in self.reports.values()):
            return None
        by_rank = [report for _, report in sorted(self.reports.items())]
        merged = {key: value for report in reversed(by_rank) for key, value in report.metrics.items()}
        return replace(first, metrics=merged, nodes=tuple(node for report in by_rank for node in report.nodes))

    def begin_generation(self, rank_id: RankId) -> None:
        """Reset the lane for a new worker group."""
        self.generation, self.world_size = rank_id.generation, rank_id.world_size
        self.asked, self.waiting, self.reports, self.outcomes, self.progress = set(), {}, {}, {}, None
        self.broken = self.loss_settled = self.loss_exempt = self.down = self.begun = False

    def serves(self, assignment: TrialAssignment) -> bool:
        """Return whether a trial is leased to this lane."""
        return self.assignment is not None and self.assignment.trial_id == assignment.trial_id

    def ranks_gone(self, assignment: TrialAssignment) -> set[int]:
        """Return the ranks that have left a trial, including those that were answered before a restart of the hub."""
        return {*self.outcomes, *(rank for rank, left in self.waiting.items() if left == assignment.trial_id)}

    def note_started(self, rank: int) -> bool:
        """Note that a rank asks for an assignment, or has one; return whether the whole group has started thereby."""
        self.asked.add(rank)
        has_started = len(self.asked) == self.world_size and self.ready_generation != self.generation
        if has_started:
            self.ready_generation = self.generation
        return has_started

    def wait(self, rank: int, left: str | None) -> None:
        """Record that a rank waits for an assignment."""
        self.note_started(rank)
        self.waiting[rank] = left
        if self.all_wait:
            self.waiting = dict.fromkeys(self.waiting)  # no rank is inside a trial: the next assignment is for all

    def assign(self, assignment: TrialAssignment, *, claimed: bool, acknowledged: int = 0) -> None:
        """Lease the lane to a trial."""
        self.assignment, self.claimed, self.acknowledged = assignment, claimed, acknowledged
        self.released = self.begun = False
        self.reports, self.outcomes, self.progress = {}, {}, None

    def restart_attempt(self) -> None:
        """Prepare a retry of the trial on the same worker group, after all ranks have left it."""
        self.attempt += 1
        self.begun = False
        self.reports, self.outcomes, self.progress = {}, {}, None

    def clear(self) -> None:
        """Mark the lane as free."""
        self.assignment, self.released, self.begun = None, False, False
        self.reports, self.outcomes, self.progress = {}, {}, None
