"""One lane's row in the hub's table."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from orchestrator.lanes.messages import RankId, Report, TrialAssignment, TrialOutcome


@dataclass
class Lane:
    """What the hub knows of a lane.

    A lane is `ready` when every rank of its newest generation waits for an order. A trial that a lane lost with its
    worker group stays in `order` and is handed to the next generation, unless another lane is ready before.

    Args:
        index: Of the lane; None of a row that is in no table.
        generation: Newest that has said hello; -1 before the first.
        world_size: Its workers.
        waiting: Ranks that wait for an order, with the trial each has left last.
        assignment: The trial leased to the lane.
        claimed: Its client has spoken; a restarted hub may hear of a trial from the ranks first.
        begun: A rank has the order in its hands; until then the loss of the group is not the trial's doing.
        attempt: Counts up when the trial is to begin again on the same group.
        reports: Newest report of each rank.
        acknowledged: Epoch past which the client wants the trial to go on.
        released: The trial is to stop at its next report.
        outcomes: How ranks left the trial.
        broken: The group is to be rebuilt.
        judged: Whose fault that is has been settled for this generation.
        excused: The loss of this generation is nobody's failure: preempted, or resized.
        down: The group is gone and the next has not said hello.
    """

    index: int | None = None
    generation: int = -1
    world_size: int = 0
    waiting: dict[int, str | None] = field(default_factory=dict)
    assignment: TrialAssignment | None = None
    claimed: bool = False
    begun: bool = False
    attempt: int = 0
    reports: dict[int, Report] = field(default_factory=dict)
    acknowledged: int = 0
    released: bool = False
    outcomes: dict[int, TrialOutcome] = field(default_factory=dict)
    broken: bool = False
    loss_settled: bool = False
    loss_exempt: bool = False
    down: bool = False

    @property
    def ready(self) -> bool:
        """Whether a trial can start here at once."""
        return self.assignment is None and self.alive and self.all_wait

    @property
    def alive(self) -> bool:
        """Whether there is a worker group to train on."""
        return self.generation >= 0 and not self.broken and not self.down

    @property
    def all_wait(self) -> bool:
        """Whether no rank is inside a trial."""
        return 0 < self.world_size == len(self.waiting)

    @property
    def newest_report(self) -> Report | None:
        """The newest report every rank has delivered: rank 0's metrics, and what other nodes say of themselves."""
        if not self.reports or len(self.reports) < self.world_size:
            return None
        first = self.reports[0]
        if any(report.epoch < first.epoch for report in self.reports.values()):
            return None
        by_rank = [report for _, report in sorted(self.reports.items())]
        told = {key: value for report in reversed(by_rank) for key, value in report.metrics.items()}
        return replace(first, metrics=told, nodes=tuple(node for report in by_rank for node in report.nodes))

    def begin_generation(self, rank_id: RankId) -> None:
        """A new worker group has said hello."""
        self.generation, self.world_size = rank_id.generation, rank_id.world_size
        self.waiting, self.reports, self.outcomes = {}, {}, {}
        self.broken = self.loss_settled = self.loss_exempt = self.down = self.begun = False

    def serves(self, assignment: TrialAssignment) -> bool:
        """Whether the trial is leased to this lane."""
        return self.assignment is not None and self.assignment.trial_id == assignment.trial_id

    def ranks_gone(self, assignment: TrialAssignment) -> set[int]:
        """Ranks that have left the trial, including those a hub since lost has answered already."""
        return {*self.outcomes, *(rank for rank, left in self.waiting.items() if left == assignment.trial_id)}

    def wait(self, rank: int, left: str | None) -> None:
        """A rank waits for an order."""
        self.waiting[rank] = left
        if self.all_wait:
            self.waiting = dict.fromkeys(self.waiting)  # no rank is inside a trial: what is ordered now is for all

    def assign(self, assignment: TrialAssignment, *, claimed: bool, acknowledged: int = 0) -> None:
        """Leases the lane to a trial."""
        self.assignment, self.claimed, self.acknowledged = assignment, claimed, acknowledged
        self.released = self.begun = False
        self.reports, self.outcomes = {}, {}

    def restart_attempt(self) -> None:
        """The trial has left the ranks and is to be handed to them once more."""
        self.attempt += 1
        self.begun = False
        self.reports, self.outcomes = {}, {}

    def clear(self) -> None:
        """The lane is free."""
        self.assignment, self.released, self.begun = None, False, False
        self.reports, self.outcomes = {}, {}
