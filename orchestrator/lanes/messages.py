"""Messages between the hub, the lanes and the trial clients.

Every message identifies its sender, so that a restarted hub rebuilds its tables from the retried calls. This module
imports no torch: Tune's trial actors import it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from orchestrator.records.folder.live_progress import EpochProgress


@dataclass(frozen=True)
class RankId:
    """One rank of one worker group of a lane.

    Args:
        lane: Index of the lane.
        generation: Number of the worker group from `LaneHub.new_generation`; messages of older ones are ignored.
        rank: Rank of the worker.
        world_size: Number of workers in the group.
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
        config: `TrialConfig` of the trial as plain data.
        folder: Folder of the trial's checkpoints; training resumes from those that are there.
        failures: Number of its failures before a pause, or in earlier sessions of the sweep.
        held_s: Seconds it has held a lane by its newest report, from which a restarted hub counts on.
    """

    trial_id: str
    config: Mapping[str, Any]
    folder: str
    failures: int = 0
    held_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Report:
    """Report of one epoch, by a rank or, merged, by the whole worker group.

    Args:
        epoch: Number of the epoch, from 1.
        metrics: Metrics by name: of rank 0 those of the trial, of the first rank of each node the node's load.
        is_last: Whether the rank has left the trial, whose last epoch it is.
        lane: Index of the lane, which the hub adds for the trial's client.
        nodes: Names of the nodes of the ranks, in the order of ranks.
        failures: Number of the trial's failures so far, which the hub adds likewise.
        held_s: Seconds the trial has held a lane so far, without its waits for one, which the hub adds likewise.
    """

    epoch: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    is_last: bool = False
    lane: int | None = field(default=None, compare=False)
    nodes: tuple[str, ...] = field(default=(), compare=False)
    failures: int = field(default=0, compare=False)
    held_s: float = field(default=0.0, compare=False)


class Outcome(StrEnum):
    """Kind of end of a rank, and of a trial, on a lane; a trial resumes after `PEER_LOST` and `MOVED`."""

    COMPLETED = "completed"
    STOPPED = "stopped"
    FAILED = "failed"
    DIVERGED = "diverged"
    PEER_LOST = "peer lost"
    MOVED = "moved"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class HubState:
    """State of the hub that the driver polls.

    Args:
        alive: Indices of the lanes that have a worker group.
        progress: Newest progress of the epochs that train, by number of the trial.
        held: Lane of each trial that holds one, by the id of the trial.
    """

    alive: frozenset[int]
    progress: Mapping[int, EpochProgress] = field(default_factory=dict)
    held: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ProgressAnswer:
    """Answer to the progress of an epoch.

    Args:
        leave_in_s: Seconds until the trial is to have left its epoch, which may end before; None to train on.
        every_s: Seconds until the next message of this trial.
    """

    leave_in_s: float | None
    every_s: float


@dataclass(frozen=True)
class TrialOutcome:
    """Outcome of a trial on one rank or on its lane.

    Args:
        kind: Kind of end.
        reason: Reason of a failure, one line for users and then the traceback; place of a divergence.
        poisoned: Whether the process cannot train another trial, as after a CUDA error.
        final: Whether a retry would fail again, as when out of memory; the trial is not retried.
        disk_full: Whether the storage has no room for a checkpoint, which ends the session: other trials would fail
            likewise, and this one can be resumed.
        last_report: Report of the last epoch on a rank that has completed the trial.
    """

    kind: Outcome
    reason: str = ""
    poisoned: bool = False
    final: bool = False
    disk_full: bool = False
    last_report: Report | None = field(default=None, compare=False)


class Decision(StrEnum):
    """Answer to the report of a rank."""

    GO = "go"
    STOP = "stop"


class Next(StrEnum):
    """Answer to a rank that has left a trial: keep the process, or end it."""

    STAY = "stay"
    LEAVE = "leave"
