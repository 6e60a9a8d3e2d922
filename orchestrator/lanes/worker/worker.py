"""Loop of every worker of a lane: the one module that connects the training loop with Ray Train.

A lane is one long-lived Train run. Its workers set up their process group once, join the lane at the hub, and then
train one trial after another. Reports go to the hub directly, not through Train's own queue, which is polled every 2 s.
"""

from __future__ import annotations

import gc
import logging
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist

import models
from orchestrator.config.trial import TrialConfig
from orchestrator.data import open_any_dataset
from orchestrator.errors import SpatialSweepError, StorageFullError, TrialDivergedError, TrialFailedError, first_line
from orchestrator.lanes.lane_setting import LaneSetting
from orchestrator.lanes.messages import Decision, Next, Outcome, RankId, Report, TrialAssignment, TrialOutcome
from orchestrator.lanes.worker.node_load import NodeLoad, node_name
from orchestrator.lanes.worker.trial_log import format_metrics, trial_log
from orchestrator.lanes.worker.trial_progress import TrialProgress
from orchestrator.masked_output import masked_output
from orchestrator.quick_imports import end_imports
from orchestrator.runtime.gpu_share import limit_memory
from orchestrator.runtime.ray_private.train_worker import is_node_preempted
from orchestrator.training.checkpoints.checkpoints import TrialCheckpoints
from orchestrator.training.images.device_images import DeviceImages
from orchestrator.training.reset_torch import reset_torch
from orchestrator.training.tasks.registry import find_task
from orchestrator.training.trial import LeaveTrial, StopTrial, Trial
from orchestrator.training.workers import Workers
from orchestrator.uris import remember_secrets, without_secrets

_PEER_ERRORS = (
    "Connection closed by peer",
    "Connection reset by peer",
    "connection was aborted",
    "Broken pipe",
    "Timed out waiting",  # gloo: the peer is alive and elsewhere
)


class LaneBrokenError(RuntimeError):
    """Raised on purpose to make Ray Train rebuild the worker group."""


class LeaveLane(BaseException):
    """Raised in the training loop when a node of the group is preempted: the trial moves, from the epoch just saved."""


@masked_output()
def lane_loop(setting: Mapping[str, Any]) -> None:
    """Train trials until the sweep is over; the main function of each worker of a lane, blocks.

    It also returns when one of its nodes is preempted; the driver then restarts the lane.

    Args:
        setting: `{"lane": LaneSetting}`; Train passes mappings only.

    Raises:
        LaneBrokenError: Peers of this rank hang or are lost; Train starts a new worker group.
    """
    end_imports()  # begun when this process joined its group
    lane: LaneSetting = setting["lane"]
    remember_secrets([lane.inputs.dataset_path])
    rank_id, workers = _join_lane(lane)
    load = NodeLoad() if ray.train.get_context().get_local_rank() == 0 else None
    source = open_any_dataset(lane.inputs.dataset_path)
    data = find_task(lane.inputs.task).place_dataset(source, workers.device, lane.inputs.dataset)
    gc.freeze()  # what was imported stays; each trial would look through it twice, for 0.4 s
    left: TrialAssignment | None = None
    last_report: Report | None = None
    while True:
        assignment: TrialAssignment | None = ray.get(lane.hub.next_assignment.remote(rank_id, left, last_report))
        if assignment is None:
            return
        lane.hub.begin.remote(rank_id, assignment)  # the calls after it arrive later: nothing waits for its answer
        outcome = _train(lane, rank_id, workers, data, assignment, load=load)
        last_report = outcome.last_report
        if last_report is None and ray.get(lane.hub.finish.remote(rank_id, assignment, outcome)) is Next.LEAVE:
            if outcome.kind is Outcome.MOVED:
                return  # all ranks return, and Train counts no failure
            raise LaneBrokenError(f"lane {lane.lane}: {outcome.kind}; the worker group is rebuilt")
        reset_torch()
        if left is None:
            gc.freeze()  # objects that outlive a trial belong to the process; to scan them takes 0.25 s each time
        left = assignment


def _join_lane(lane: LaneSetting) -> tuple[RankId, Workers]:
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    device = torch.device("cpu")
    if torch.cuda.is_available() and ray.get_gpu_ids():
        device = torch.device("cuda", torch.cuda.current_device())
    limit_memory(device, lane.gpus_per_worker)
    workers = Workers(rank, world_size, device)
    generation: int = workers.broadcast_from_first(
        ray.get(lane.hub.new_generation.remote(lane.lane)) if rank == 0 else 0
    )
    rank_id = RankId(lane.lane, generation, rank, world_size)
    ray.get(lane.hub.join.remote(rank_id))
    return rank_id, workers


def _train(
    lane: LaneSetting,
    rank_id: RankId,
    workers: Workers,
    data: DeviceImages,
    assignment: TrialAssignment,
    *,
    load: NodeLoad | None = None,
) -> TrialOutcome:
    """Train one trial; log and return its outcome on this rank."""
    with trial_log(Path(assignment.folder), rank_id.rank) as log:
        where = f"{node_name()}, {workers.device}, rank {rank_id.rank} of {rank_id.world_size}"
        log.info("lane %d: %s", lane.lane, where)
        outcome = _attempt(lane, rank_id, workers, data, assignment, load=load, log=log)
        level = logging.ERROR if outcome.kind is Outcome.FAILED else logging.INFO
        log.log(level, "%s%s", outcome.kind, f": {outcome.reason}" if outcome.reason else "")
    return outcome


def _attempt(
    lane: LaneSetting,
    rank_id: RankId,
    workers: Workers,
    data: DeviceImages,
    assignment: TrialAssignment,
    *,
    load: NodeLoad | None,
    log: logging.Logger,
) -> TrialOutcome:
    """Train one trial and map its exceptions to an outcome; only what must end the process is raised."""
    here = (node_name(),)
    epochs: int = assignment.config["training"]["epochs"]
    last_report: Report | None = None
    progress = TrialProgress(lane.hub, rank_id, assignment.trial_id, is_preempted=is_node_preempted)

    def report(epoch: int, metrics: Mapping[str, float]) -> None:
        nonlocal last_report
        own = dict(metrics) if workers.is_first else {}
        if own:
            log.info("epoch %d: %s", epoch, format_metrics(own))
        message = Report(epoch, own | (load.read() if load else {}), is_last=epoch >= epochs, nodes=here)
        if message.is_last:
            last_report = message  # delivered with the request for the next trial: there is nothing to decide
            return
        if ray.get(lane.hub.report.remote(rank_id, assignment, message)) is Decision.STOP:
            raise StopTrial
        if _is_preempted(workers):
            raise LeaveLane
        progress.note_report()

    try:
        _register_networks(lane.inputs.network_files)
        checkpoints = TrialCheckpoints(Path(assignment.folder))
        trial = Trial(
            TrialConfig(**assignment.config),
            lane.inputs.objective,
            data,
            workers,
            checkpoints,
            costs=lane.inputs.costs,
            observer=progress,
        )
        return replace(_run(trial, report, workers, log), last_report=last_report)
    except StopTrial:
        return TrialOutcome(Outcome.STOPPED)
    except LeaveLane:
        return TrialOutcome(Outcome.MOVED)
    except TrialDivergedError as error:
        return TrialOutcome(Outcome.DIVERGED, str(error))
    except Exception as error:
        if workers.world_size > 1 and _is_lost_peer(error):
            return TrialOutcome(Outcome.PEER_LOST, str(error))
        return TrialOutcome(
            Outcome.FAILED,
            without_secrets(f"{_reason(error)}\n{traceback.format_exc()}"),
            poisoned=isinstance(error, torch.AcceleratorError),
            final=isinstance(error, SpatialSweepError),  # an error of our own, which a retry would meet again
            disk_full=isinstance(error, StorageFullError),
        )


def _run(
    trial: Trial, report: Callable[[int, Mapping[str, float]], None], workers: Workers, log: logging.Logger
) -> TrialOutcome:
    """Train to the end, or until all ranks leave within an epoch for a preemption or the end of the sweep."""
    try:
        trial.run(report)
    except LeaveTrial:
        log.info("left within epoch %d, after %d of %d steps", trial.epoch + 1, trial.step, trial.steps_per_epoch)
        return TrialOutcome(Outcome.MOVED if _is_preempted(workers) else Outcome.INTERRUPTED)
    return TrialOutcome(Outcome.COMPLETED)


def _register_networks(files: Mapping[str, str]) -> None:
    """Run the files of the sweep's networks in this process, the first time.

    Raises:
        TrialFailedError: A file cannot be run on this node.
    """
    for name, text in files.items():
        try:
            models.register_network_file(name, text)
        except models.NetworkFileError as error:
            raise TrialFailedError(f"on {node_name()}, {error}") from error


def _is_preempted(workers: Workers) -> bool:
    """Return whether any rank has been notified of a preemption; a collective call, so that all ranks agree."""
    return bool(workers.sum(torch.tensor(float(is_node_preempted()), device=workers.device)))


def _is_lost_peer(error: Exception) -> bool:
    """Return whether a collective failed because a peer was lost."""
    return isinstance(error, dist.DistError) or any(text in str(error) for text in _PEER_ERRORS)


def _reason(error: Exception) -> str:
    """Return an error's class and first line; a `TrialFailedError` needs no class to be understood."""
    kind = "" if isinstance(error, TrialFailedError) or not str(error).strip() else f"{type(error).__name__}: "
    return f"{kind}{first_line(error)}"
