"""The driver's side of the lanes: opens them, keeps them alive, and leaves nothing behind."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.config.plans import TrainingPlan
from orchestrator.lanes.hub.hub import LaneHub
from orchestrator.lanes.lane_setting import LaneSetting
from orchestrator.lanes.pool.placement_groups import remove_placement_groups_of
from orchestrator.runtime.ray_session import lanes_that_fit

logger = logging.getLogger(__name__)

_MAX_FRUITLESS_STARTS = 3
_JOIN_TIMEOUT_S = 20.0
_ABORT_TIMEOUT_S = 10.0
_ASK_AGAIN_S = 2.0
_TEND_S = 1.0
# A lane that has not said hello by then is waiting for resources: no trial is proposed for it.
_START_S = 60.0


class Lanes:
    """The lanes of one sweep; a context manager that closes them.

    The driver owns them, one thread each, rather than Tune's actors: a trial that fails takes no lane with it. Lanes
    grow in number when trials wait and the cluster has room for more. A lane that has lost its node waits for
    another; its trial goes on elsewhere.

    Args:
        plan: Settings that all lanes share.
        count: Lanes to open at first.
        at_most: Lanes to open in the end.
        gpus_per_worker: Resolved against the cluster.
        dataset_path: The dataset, as `open_dataset` takes it.
        folder: Scratch space of Ray Train, reachable by all nodes.
    """

    def __init__(
        self, plan: TrainingPlan, *, count: int, at_most: int, gpus_per_worker: float, dataset_path: str, folder: Path
    ) -> None:
        self._plan = plan
        self._gpus_per_worker = gpus_per_worker
        self._dataset_path = dataset_path
        self._folder = folder
        self._first = count
        self._most = at_most
        self._closing = threading.Event()
        self._forsaken = False
        self.failure: BaseException | None = None
        hub_actor: Any = ray.remote(LaneHub)
        always: dict[str, Any] = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
        # Every rank and every trial has a call that waits there; were there one too many, none could be answered.
        always["max_concurrency"] = 10_000 + 2 * at_most * (plan.resources.max_workers + 1)
        # With the driver, without which it is of no use: Ray would put it anywhere, and that host may be lost.
        always["scheduling_strategy"] = NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=True
        )
        self.hub = hub_actor.options(**always).remote(plan.resources.max_failures)
        self._threads: dict[int, threading.Thread] = {}
        self._opened_s: dict[int, float] = {}
        # A hub that was restarted has forgotten these: the present controllers, and the ids of all ever seen.
        self._controllers: dict[int, Any] = {}
        self._creators: dict[str, int] = {}
        self._room = count
        self._wanted = False
        self._last_trained_s, self._told_of_waiting = time.monotonic(), False
        self._keeper = threading.Thread(target=self._tend, name="lanes", daemon=True)

    def __enter__(self) -> Lanes:
        for _ in range(self._first):
            self._open()
        self._keeper.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._forsaken:
            self.close(None if error is None else 0.0)
            ray.kill(self.hub)

    @property
    def count(self) -> int:
        """Lanes that are open."""
        return sum(thread.is_alive() for thread in self._threads.values())

    @property
    def alive(self) -> bool:
        """Whether any lane still runs, waits for resources or is being started again."""
        return self.count > 0

    def has_room(self, running: int) -> bool:
        """Whether another trial would find a lane soon; one that does not makes the lanes grow if they can.

        Args:
            running: Trials that have a lane, or wait for one.
        """
        if running < self._room:
            return True
        self._wanted = True
        return False

    def wind_down(self) -> None:
        """Lets no trial begin another epoch; may be called again, should the hub have forgotten."""
        self.hub.wind_down.remote()

    def close(self, patience_s: float | None = None) -> None:
        """Ends every lane: by asking, then by aborting its controller, then by removing what it had reserved.

        Args:
            patience_s: How long it asks before it aborts; None is long enough for a worker to leave in peace.
        """
        if self._closing.is_set():
            return
        self._closing.set()
        self._keeper.join(_ABORT_TIMEOUT_S)
        _despite_ray("asked to end", lambda: self._ask_to_end(_JOIN_TIMEOUT_S if patience_s is None else patience_s))
        _despite_ray("aborted", self._abort_controllers)
        _despite_ray("cleared", lambda: remove_placement_groups_of(self._creators))
        self._controllers.clear()  # an actor lives as long as somebody holds its handle

    def forsake(self) -> None:
        """Leaves the lanes to their end: the cluster is gone, and whoever asks it for anything waits for nothing."""
        self._forsaken = True
        self._closing.set()

    def _ask_to_end(self, patience_s: float) -> None:
        """Asks until the lanes have ended: a hub that is restarted meanwhile has forgotten that it was asked."""
        deadline = time.monotonic() + patience_s
        while True:
            ray.get(self.hub.close.remote(), timeout=_ABORT_TIMEOUT_S)
            trained_on = self._learn()
            self._join(min(_ASK_AGAIN_S, patience_s))
            for lane in set(self._controllers) - trained_on:
                if self._threads[lane].is_alive():
                    ray.kill(self._controllers[lane])  # it waits for resources, and hears nothing meanwhile
            if not self.alive or time.monotonic() > deadline:
                return

    def _abort_controllers(self) -> None:
        for lane, controller in self._controllers.items():
            if self._threads[lane].is_alive():
                _abort(controller)
        self._join(_ABORT_TIMEOUT_S)

    def _join(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        for thread in self._threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))

    # Growing

    def _tend(self) -> None:
        """Follows what the hub hears of the lanes, and opens more where trials wait and the cluster has room."""
        while not self._closing.wait(_TEND_S):
            _despite_ray("tended", self._look_around, level=logging.DEBUG)  # a hub that restarts answers later

    def _look_around(self) -> None:
        alive = self._learn()
        now = time.monotonic()
        young = {lane for lane, opened_s in self._opened_s.items() if now - opened_s < _START_S}
        self._room = max(1, len(alive | young))
        self._tell_of_waiting(now, any_trains=bool(alive | young))
        if self._wanted and self.count < self._most:
            self._wanted = False
            fitting = lanes_that_fit(self._plan.resources, self._gpus_per_worker)
            for _ in range(self.count, min(fitting, self._most)):
                logger.info("The cluster has room for another lane.")
                self._open()

    def _tell_of_waiting(self, now: float, *, any_trains: bool) -> None:
        """Says once that the whole sweep waits for the cluster, each time it comes to that."""
        if any_trains:
            self._last_trained_s, self._told_of_waiting = now, False
        elif now - self._last_trained_s > _START_S and not self._told_of_waiting:
            self._told_of_waiting = True
            logger.warning("No lane has found room: the cluster is busy, or has lost nodes. The sweep waits.")

    def _learn(self) -> frozenset[int]:
        """Keeps a copy of what the hub knows; returns the lanes that have a worker group."""
        hub_state = ray.get(self.hub.hub_state.remote(), timeout=_ABORT_TIMEOUT_S)
        for lane, controller in hub_state.controllers.items():
            self._controllers[lane] = controller
            self._creators[controller._actor_id.hex()] = lane
        return frozenset(hub_state.alive)

    def _open(self) -> None:
        index = len(self._threads)
        self._opened_s[index] = time.monotonic()
        self._threads[index] = threading.Thread(target=self._keep, args=(index,), name=f"lane-{index}", daemon=True)
        self._threads[index].start()

    # One lane

    def _keep(self, index: int) -> None:
        """Runs one lane until the sweep closes; starts it anew when it ends unasked.

        A lane that waits for resources may wait for ever. One whose workers cannot start is given up after a few
        starts in a row without a single hello.
        """
        from orchestrator.lanes.pool.lane_trainer import LanePlace, run_lane

        place = LanePlace(self._plan.resources, self._gpus_per_worker, self._folder)
        fruitless, generation = 0, -1
        while not self._closing.is_set():
            error: Exception | None = None
            try:
                run_lane(self._setting(index), place)
            except Exception as failure:  # the lane's thread is the last to see it
                error = failure
            if self._closing.is_set():
                return
            self._report_loss(index, error)
            if error is None:
                continue  # its node is about to be taken away
            newest = ray.get(self.hub.generation.remote(index))
            fruitless, generation = (fruitless + 1 if newest == generation else 1), newest
            fruitless = 0 if _waits_for_resources(error) else fruitless
            logger.warning("Lane %d ended and is started again: %s", index, first_line(error))
            if fruitless >= _MAX_FRUITLESS_STARTS:
                self.failure = error
                ray.get(self.hub.abandon.remote(index))
                return

    def _setting(self, index: int) -> LaneSetting:
        return LaneSetting(
            lane=index,
            hub=self.hub,
            dataset=self._plan.dataset,
            dataset_path=self._dataset_path,
            objective=self._plan.objective,
            costs=self._plan.costs,
        )

    def _report_loss(self, index: int, error: Exception | None) -> None:
        """The trial on the lane may go elsewhere; the death of a controller is not its failure."""
        if isinstance(error, RayActorError):
            ray.get(self.hub.excuse.remote(index))
        ray.get(self.hub.group_lost.remote(index))
        remove_placement_groups_of([actor for actor, lane in self._creators.items() if lane == index])


def first_line(error: BaseException) -> str:
    """What an error says in one line: that of its root cause, which Ray wraps in several others."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip()}" if lines else type(error).__name__


def _waits_for_resources(error: Exception) -> bool:
    return isinstance(getattr(error, "controller_failure", None), WorkerGroupStartupTimeoutError)


def _abort(controller: Any) -> None:
    try:
        ray.get(controller.abort.remote(), timeout=_ABORT_TIMEOUT_S)
    except RayError:
        ray.kill(controller)


def _despite_ray(what: str, action: Callable[[], None], level: int = logging.WARNING) -> None:
    """Does what can be done of a list of things when the cluster does not answer."""
    try:
        action()
    except RayError:
        logger.log(level, "The cluster did not answer while the lanes were %s.", what, exc_info=True)
