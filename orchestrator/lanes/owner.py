"""The driver's side of the lanes: starts them, keeps them alive, and leaves nothing behind."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.util import placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup

from orchestrator.config.schema import ResourcesConfig, SweepConfig
from orchestrator.lanes.hub import LaneHub

logger = logging.getLogger(__name__)

_MAX_GROUP_LOSSES = 3
_MAX_FRUITLESS_STARTS = 3
_JOIN_TIMEOUT_S = 20.0
_ABORT_TIMEOUT_S = 10.0
_COLLECTIVE_TIMEOUT_S = 600


class Lanes:
    """The lanes of one sweep; a context manager that closes them.

    The driver owns them, one thread each, rather than Tune's actors: a trial that fails takes no lane with it.

    Args:
        config: Of the sweep.
        count: Lanes to open.
        gpus_per_worker: Resolved against the cluster.
        dataset_path: The dataset, as `open_dataset` takes it.
        folder: Scratch space of Ray Train, reachable by all nodes.
    """

    def __init__(
        self, config: SweepConfig, *, count: int, gpus_per_worker: float, dataset_path: str, folder: Path
    ) -> None:
        self._config = config
        self._gpus_per_worker = gpus_per_worker
        self._dataset_path = dataset_path
        self._folder = folder
        self._closing = threading.Event()
        self.failure: BaseException | None = None
        hub_actor: Any = ray.remote(LaneHub)
        self.hub = hub_actor.options(num_cpus=0, max_restarts=-1, max_task_retries=-1, max_concurrency=10_000).remote()
        self._threads = [
            threading.Thread(target=self._keep_lane, args=(index,), name=f"lane-{index}", daemon=True)
            for index in range(count)
        ]

    def __enter__(self) -> Lanes:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        ray.kill(self.hub)

    def wind_down(self) -> None:
        """Lets no trial begin another epoch; may be called again, should the hub have forgotten."""
        self.hub.wind_down.remote()

    def close(self, patience_s: float | None = None) -> None:
        """Ends every lane: by asking, then by aborting its controller, then by removing its placement group.

        Args:
            patience_s: How long it asks before it aborts; None is long enough for a worker to leave in peace.
        """
        if self._closing.is_set():
            return
        self._closing.set()
        try:
            ray.get(self.hub.close.remote(), timeout=_ABORT_TIMEOUT_S)
            self._join(_JOIN_TIMEOUT_S if patience_s is None else patience_s)
            controllers, groups = ray.get(self.hub.leftovers.remote(), timeout=_ABORT_TIMEOUT_S)
            for index, controller in controllers.items():
                if self._threads[index].is_alive():
                    _abort(controller)
            self._join(_ABORT_TIMEOUT_S)
            _remove_placement_groups(groups)
        except RayError:
            logger.warning("The cluster did not answer while the lanes were closed.", exc_info=True)

    def _join(self, timeout_s: float) -> None:
        for thread in self._threads:
            thread.join(timeout_s)

    def _keep_lane(self, index: int) -> None:
        """Runs one lane until the sweep closes; starts it anew when it ends unasked.

        A lane that waits for resources may wait for ever. One whose workers cannot start is given up after a few
        starts in a row without a single hello.
        """
        fruitless, generation = 0, -1
        while not self._closing.is_set():
            try:
                self._run_lane(index)
            except Exception as error:  # the lane's thread is the last to see it
                if self._closing.is_set():
                    return
                newest = ray.get(self.hub.generation.remote(index))
                fruitless, generation = (fruitless + 1 if newest == generation else 1), newest
                fruitless = 0 if _waits_for_resources(error) else fruitless
                logger.warning("Lane %d ended and is started again: %s", index, first_line(error))
                if fruitless >= _MAX_FRUITLESS_STARTS:
                    self.failure = error
                    ray.get(self.hub.abandon.remote(index, f"its lane was given up: {first_line(error)}"))
                    return

    def _run_lane(self, index: int) -> None:
        from ray.train.torch import TorchConfig, TorchTrainer
        from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig

        from orchestrator.lanes.worker import AnnounceController, LaneSetting, lane_loop

        setting = LaneSetting(
            lane=index,
            hub=self.hub,
            dataset=self._config.dataset,
            dataset_path=self._dataset_path,
            objective=self._config.objective,
            costs=self._config.measured_costs,
        )
        TorchTrainer(
            lane_loop,
            train_loop_config={"lane": setting},
            torch_config=TorchConfig(timeout_s=_COLLECTIVE_TIMEOUT_S),
            scaling_config=ScalingConfig(
                num_workers=self._config.resources.workers,
                use_gpu=self._gpus_per_worker > 0,
                resources_per_worker=worker_resources(self._config.resources, self._gpus_per_worker),
            ),
            run_config=RunConfig(  # type: ignore[arg-type]  # annotated with the class of Train's first version
                # Train restores the snapshot of a name it has seen, hence a new one each time.
                name=f"lane-{index}-{uuid.uuid4().hex[:8]}",
                storage_path=str(self._folder),
                failure_config=FailureConfig(
                    max_failures=_MAX_GROUP_LOSSES,
                    controller_failure_limit=_MAX_GROUP_LOSSES,
                    max_preemption_failures=-1,
                ),
                callbacks=[AnnounceController(setting)],  # type: ignore[list-item]  # internal callbacks pass too
            ),
        ).fit()

    @property
    def count(self) -> int:
        """Lanes of the sweep."""
        return len(self._threads)

    @property
    def alive(self) -> bool:
        """Whether any lane still runs, waits for resources or is being started again."""
        return any(thread.is_alive() for thread in self._threads)


def first_line(error: BaseException) -> str:
    """What an error says in one line: that of its root cause, which Ray wraps in several others."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip()}" if lines else type(error).__name__


def _waits_for_resources(error: Exception) -> bool:
    return isinstance(getattr(error, "controller_failure", None), WorkerGroupStartupTimeoutError)


def worker_resources(resources: ResourcesConfig, gpus_per_worker: float) -> dict[str, float]:
    """Ray's words for what one worker reserves."""
    reserved = {"CPU": resources.cpus_per_worker}
    return reserved | {"GPU": gpus_per_worker} if gpus_per_worker else reserved


def _abort(controller: Any) -> None:
    try:
        ray.get(controller.abort.remote(), timeout=_ABORT_TIMEOUT_S)
    except RayError:
        ray.kill(controller)


def _remove_placement_groups(hex_ids: Sequence[str] | set[str]) -> None:
    """A killed controller does not remove its own group; removing one that is gone does nothing."""
    table = placement_group_table()
    for hex_id in hex_ids:
        if table.get(hex_id, {}).get("state") not in (None, "REMOVED"):
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(hex_id))))
