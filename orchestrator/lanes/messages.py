"""What the hub, the lanes and the trial clients say to each other.

Every message carries who speaks, so that a hub that was restarted rebuilds its tables from the calls its callers
repeat. No torch here: Tune's trial actors import this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


@dataclass(frozen=True)
class RankId:
    """One rank of one life of a lane.

    Args:
        lane: Index of the lane.
        generation: From `LaneHub.new_generation`; messages of older generations are ignored.
        rank: Of this worker.
        world_size: Workers in the group.
    """

    lane: int
    generation: int
    rank: int
    world_size: int


@dataclass(frozen=True)
class TrialAssignment:
    """A trial to train.

    Args:
        trial_id: Tune's id of the trial.
        config: A `TrialConfig` as plain data.
        folder: Where the trial's checkpoints are kept; training continues from what stands there.
    """

    trial_id: str
    config: Mapping[str, Any]
    folder: str


@dataclass(frozen=True)
class Report:
    """What one epoch brought.

    Args:
        epoch: From 1.
        metrics: Of rank 0, already reduced over all ranks; of the first rank of every node, its load as well.
        lane: Where the trial is now, which the hub adds for the trial's client.
        nodes: Of a rank, its node; of the whole group, that of every rank, in order.
    """

    epoch: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    lane: int | None = field(default=None, compare=False)
    nodes: tuple[str, ...] = field(default=(), compare=False)


class Outcome(StrEnum):
    """How a rank, and in the end a trial, left a lane; a trial outlives `PEER_LOST` and `MOVED`."""

    COMPLETED = "completed"
    STOPPED = "stopped"
    FAILED = "failed"
    DIVERGED = "diverged"
    PEER_LOST = "peer lost"
    MOVED = "moved"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class HubState:
    """What a hub knows that the driver keeps as well, since a hub can be lost.

    Args:
        alive: Lanes that have a worker group.
        controllers: The actors that control the lanes' worker groups, by lane.
    """

    alive: frozenset[int]
    controllers: Mapping[int, Any]


@dataclass(frozen=True)
class TrialOutcome:
    """The end of a trial on a rank or on its lane.

    Args:
        kind: Kind of end.
        reason: For failures, one line that a user understands, then the traceback; where a trial diverged.
        poisoned: The process cannot train another trial, as after a CUDA error.
        final: The failure would happen again, as with too little memory; the trial gets no further attempt.
    """

    kind: Outcome
    reason: str = ""
    poisoned: bool = False
    final: bool = False


class Decision(StrEnum):
    """What a rank is told after a report."""

    GO = "go"
    STOP = "stop"


class Next(StrEnum):
    """What a rank is told after it left a trial."""

    STAY = "stay"
    LEAVE = "leave"
