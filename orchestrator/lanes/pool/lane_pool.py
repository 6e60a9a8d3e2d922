"""The driver's side of the lanes: opens them, keeps them running, and removes everything they have reserved.

Threads of the driver: `lane-<index>` runs one lane, `lanes` polls the hub once a second and opens further lanes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from orchestrator.config.sections.resources import ResourcesConfig
from orchestrator.lanes.hub.hub import LaneHub
from orchestrator.lanes.lane_setting import LaneInputs, LaneSetting
from orchestrator.lanes.pool.placement_groups import remove_placement_groups_of
from orchestrator.records.folder.live_progress import EpochProgress
from orchestrator.runtime.lane_plan import LanePlan, lanes_that_fit
from orchestrator.runtime.ray_private.core import actor_id, on_this_node

logger = logging.getLogger(__name__)

_MAX_FAILED_STARTS = 3
_JOIN_TIMEOUT_S = 20.0
_ABORT_TIMEOUT_S = 10.0
_CLOSE_INTERVAL_S = 2.0
_POLL_INTERVAL_S = 1.0
# A lane that has not joined by then waits for resources: no trial is proposed for it.
_START_S = 60.0


@dataclass(frozen=True)
class HeldLanes:
    """Lanes that trials hold, as the hub knew them at one time.

    Args:
        asked_s: Unix time at which the hub was asked.
        lanes: Lane of each trial that holds one, by Tune's id of the trial.
    """

    asked_s: float = 0.0
    lanes: Mapping[str, int] = field(default_factory=dict)


class LanePool:
    """The lanes of one sweep, in the driver; a context manager that opens and closes them.

    The driver owns the lanes, one thread each, rather than Tune's actors: a trial that fails ends no lane. Further
    lanes are opened when trials wait and the cluster has room. A lane that has lost its node waits for another one; its
    trial is moved to another lane.

    Args:
        plan: Number of lanes to open at first and in the end, and GPUs of a worker.
        resources: Resources of one trial.
        inputs: Dataset, objective and costs of all trials.
        scratch: Folder for Ray Train, reachable by all nodes.

    Attributes:
        hub: Handle of the hub actor.
        failure: Error of the last lane that was retired because its workers do not start; None before.
        progress: Newest progress of the epochs that train, by number of the trial; replaced about once a second.
        held: Lanes that trials hold; likewise.
    """

    def __init__(self, plan: LanePlan, resources: ResourcesConfig, inputs: LaneInputs, *, scratch: Path) -> None:
        self._plan = plan
        self._resources = resources
        self._inputs = inputs
        self._scratch = scratch
        self._closing = threading.Event()
        self._abandoned = False
        self.failure: BaseException | None = None
        self.progress: Mapping[int, EpochProgress] = {}
        self.held = HeldLanes()
        hub_actor: Any = ray.remote(LaneHub)
        always: dict[str, Any] = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
        # Every rank and every trial has a call that waits there; with one call above the limit none would be answered.
        always["max_concurrency"] = 10_000 + 2 * plan.at_most * (resources.max_workers + 1)
        # On the node of the driver, without which it has no use: another one may fail, and with it what the hub knows
        # of losses. A soft affinity is not enough: Ray has placed the hub elsewhere in spite of it.
        always["label_selector"] = on_this_node()
        self.hub = hub_actor.options(**always).remote(resources.max_failures)
        self._threads: dict[int, threading.Thread] = {}
        self._opened_s: dict[int, float] = {}
        # The present controllers, and the lane of each that there ever was.
        self._controllers: dict[int, Any] = {}
        self._creators: dict[str, int] = {}
        self._usable = plan.lanes
        self._another_wanted = False
        self._last_alive_s, self._has_warned = time.monotonic(), False
        self._supervisor = threading.Thread(target=self._supervise, name="lanes", daemon=True)

    def __enter__(self) -> LanePool:
        for _ in range(self._plan.lanes):
            self._open()
        self._supervisor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._abandoned:
            self.close(None if error is None else 0.0)
            ray.kill(self.hub)

    @property
    def count(self) -> int:
        """Number of open lanes."""
        return sum(thread.is_alive() for thread in self._threads.values())

    @property
    def alive(self) -> bool:
        """True while any lane runs, waits for resources or is being restarted."""
        return self.count > 0

    def has_room(self, running: int) -> bool:
        """Return whether another trial would get a lane soon; if not, have a lane opened where the cluster has room.

        Args:
            running: Number of trials that have a lane, or wait for one.
        """
        if running < self._usable:
            return True
        self._another_wanted = True
        return False

    def wind_down(self, leave_in_s: float) -> None:
        """Let no trial begin another epoch; called repeatedly, because a restarted hub has no record of it.

        Args:
            leave_in_s: Seconds after which running epochs are left within.
        """
        self.hub.wind_down.remote(leave_in_s)

    def close(self, timeout_s: float | None = None) -> None:
        """End every lane: close the hub, then abort controllers, then remove placement groups; blocks.

        Args:
            timeout_s: Seconds until controllers are aborted; None is enough for workers to finish their epoch's report.
        """
        if self._closing.is_set():
            return
        self._closing.set()
        self._supervisor.join(_ABORT_TIMEOUT_S)
        _log_ray_errors("ended", lambda: self._close_hub(_JOIN_TIMEOUT_S if timeout_s is None else timeout_s))
        _log_ray_errors("aborted", self._abort_controllers)
        _log_ray_errors("removed", lambda: remove_placement_groups_of(self._creators))
        self._controllers.clear()  # an actor lives as long as a handle of it exists

    def abandon(self) -> None:
        """Leave the lanes without closing them: the cluster is gone, and every call to it would wait in vain."""
        self._abandoned = True
        self._closing.set()

    def _close_hub(self, timeout_s: float) -> None:
        """Close the hub repeatedly until the lanes have ended: one restarted meanwhile has no record of it."""
        deadline = time.monotonic() + timeout_s
        while True:
            ray.get(self.hub.close.remote(), timeout=_ABORT_TIMEOUT_S)
            alive = self._refresh_state()
            self._join(min(_CLOSE_INTERVAL_S, timeout_s))
            for lane in set(self._controllers) - alive:
                if self._threads[lane].is_alive():
                    ray.kill(self._controllers[lane])  # it waits for resources and handles no abort meanwhile
            if not self.alive or time.monotonic() > deadline:
                return

    def _abort_controllers(self) -> None:
        for lane, controller in tuple(self._controllers.items()):
            if self._threads[lane].is_alive():
                _abort(controller)
        self._join(_ABORT_TIMEOUT_S)

    def _join(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        for thread in self._threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))

    # Supervision

    def _supervise(self) -> None:
        """Poll the hub, and open lanes where trials wait and the cluster has room; body of the thread `lanes`."""
        while not self._closing.wait(_POLL_INTERVAL_S):
            _log_ray_errors("polled", self._poll_hub, level=logging.DEBUG)  # a restarting hub answers later

    def _poll_hub(self) -> None:
        alive = self._refresh_state()
        now = time.monotonic()
        young = {lane for lane, opened_s in self._opened_s.items() if now - opened_s < _START_S}
        self._usable = max(1, len(alive | young))
        self._warn_of_waiting(now, any_usable=bool(alive | young))
        if self._another_wanted and self.count < self._plan.at_most:
            self._another_wanted = False
            fitting = lanes_that_fit(self._resources, self._plan.gpus_per_worker)
            for _ in range(self.count, min(fitting, self._plan.at_most)):
                logger.info("The cluster has room for another lane.")
                self._open()

    def _warn_of_waiting(self, now: float, *, any_usable: bool) -> None:
        """Warn that the whole sweep waits for resources, once each time."""
        if any_usable:
            self._last_alive_s, self._has_warned = now, False
        elif now - self._last_alive_s > _START_S and not self._has_warned:
            self._has_warned = True
            logger.warning("No lane has found room: the cluster is busy, or has lost nodes. The sweep waits.")

    def _refresh_state(self) -> frozenset[int]:
        """Copy the hub's record of progress and of leases; return the lanes that have a worker group."""
        asked_s = time.time()
        hub_state = ray.get(self.hub.hub_state.remote(), timeout=_ABORT_TIMEOUT_S)
        self.progress, self.held = hub_state.progress, HeldLanes(asked_s, hub_state.held)
        return frozenset(hub_state.alive)

    def _open(self) -> None:
        index = len(self._threads)
        self._opened_s[index] = time.monotonic()
        self._threads[index] = threading.Thread(
            target=self._run_until_closed, args=(index,), name=f"lane-{index}", daemon=True
        )
        self._threads[index].start()

    # One lane

    def _run_until_closed(self, index: int) -> None:
        """Run one lane, and end it where the hub is lost for good; body of the thread `lane-<index>`."""
        try:
            self._keep_running(index)
        except RayError as error:
            if not self._closing.is_set():
                self.failure = error

    def _keep_running(self, index: int) -> None:
        """Run one lane until the sweep closes, and restart it when it ends before.

        A lane that waits for resources waits without a timeout. A lane whose workers cannot start is retired after
        `_MAX_FAILED_STARTS` starts in a row after which it was never ready: a rank may join and then fail, as where its
        node lacks the dataset.
        """
        from orchestrator.lanes.pool.lane_trainer import LanePlacement, run_lane
        from orchestrator.runtime.ray_private.train_driver import is_startup_timeout

        placement = LanePlacement(self._resources, self._plan.gpus_per_worker, self._scratch)
        failed_starts, generation = 0, -1
        while not self._closing.is_set():
            error: Exception | None = None
            try:
                setting = LaneSetting(index, self.hub, self._inputs, self._plan.gpus_per_worker)
                run_lane(setting, placement, partial(self._add_controller, index))
            except Exception as failure:  # no caller of a thread would see it
                error = failure
            if self._closing.is_set():
                return
            self._report_loss(index, error)
            if error is None:
                continue  # it ended because a node of it is being preempted
            newest = ray.get(self.hub.ready_generation.remote(index))
            failed_starts, generation = (failed_starts + 1 if newest == generation else 0), newest
            failed_starts = 0 if is_startup_timeout(error) else failed_starts
            logger.warning("Lane %d ended and is started again: %s", index, root_cause(error))
            if failed_starts >= _MAX_FAILED_STARTS:
                self.failure = error
                ray.get(self.hub.retire_lane.remote(index))
                return

    def _add_controller(self, index: int, controller: Any) -> None:
        self._controllers[index] = controller
        self._creators[actor_id(controller)] = index
        if self._closing.is_set():  # `close` may have looked through the controllers before
            ray.kill(controller)

    def _report_loss(self, index: int, error: Exception | None) -> None:
        """Free the lane's trial for another lane; the death of a controller is no failure of the trial."""
        if isinstance(error, RayActorError):
            ray.get(self.hub.exempt_loss.remote(index))
        ray.get(self.hub.group_lost.remote(index))
        remove_placement_groups_of([actor for actor, lane in tuple(self._creators.items()) if lane == index])


def root_cause(error: BaseException) -> str:
    """Return an error's root cause in one line; Ray wraps it in several others."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip()}" if lines else type(error).__name__


def _abort(controller: Any) -> None:
    try:
        ray.get(controller.abort.remote(), timeout=_ABORT_TIMEOUT_S)
    except RayError:
        ray.kill(controller)


def _log_ray_errors(what: str, action: Callable[[], None], level: int = logging.WARNING) -> None:
    """Run one of several independent actions; log that the cluster did not answer in place of raising it."""
    try:
        action()
    except RayError:
        logger.log(level, "The cluster did not answer while the lanes were %s.", what, exc_info=True)
