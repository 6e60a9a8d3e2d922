"""The Ray instance a sweep runs on: an existing cluster, or a private one on this machine."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray

from orchestrator.config.schema import ResourcesConfig
from orchestrator.errors import ClusterError

_ANSWER_S = 10.0
_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@contextmanager
def ray_session(address: str | None = None) -> Iterator[None]:
    """Connects to Ray for the duration of a sweep.

    A session that is already open is used and left open. With an address, or `RAY_ADDRESS` set as it is inside a Ray
    job, that cluster is joined; otherwise a private instance is started here and ended afterwards.

    Args:
        address: Of a running cluster; `auto` finds one on this machine.

    Raises:
        ClusterError: The cluster does not answer.
    """
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)
    for name in ("ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if ray.is_initialized():
        yield
        return
    target = address or os.environ.get("RAY_ADDRESS") or "local"
    _require_answer(target)
    try:
        if target == "local":
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(address=target, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, OSError, ValueError, RuntimeError) as error:
        raise ClusterError(f"no Ray cluster answers at '{target}': {error}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _require_answer(target: str) -> None:
    """Fails within seconds where Ray itself would go on asking for minutes."""
    host, separator, port = target.removeprefix("ray://").rpartition(":")
    if not separator or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except OSError as error:
        raise ClusterError(
            f"no Ray cluster answers at '{target}': {error}. Is the head running, the port open?"
        ) from None


@dataclass(frozen=True)
class LanePlan:
    """How a sweep uses the cluster.

    Args:
        lanes: Trials at the same time.
        workers: Ranks of each.
        gpus_per_worker: Zero on CPU.
    """

    lanes: int
    workers: int
    gpus_per_worker: float


def plan_lanes(resources: ResourcesConfig, trials: int) -> LanePlan:
    """Fits as many lanes as the connected cluster holds.

    Args:
        resources: Of one trial.
        trials: No more lanes than trials.

    Raises:
        ClusterError: Not even one lane fits; the message shows the arithmetic.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = sum(node.get("GPU", 0.0) for node in nodes)
    wanted = resources.gpus_per_worker
    gpus_per_worker = wanted if wanted is not None else (1.0 if gpus >= resources.workers else 0.0)
    slots = sum(_slots(node, resources.cpus_per_worker, gpus_per_worker) for node in nodes)
    fitting = slots // resources.workers
    if fitting < 1:
        cpus = sum(node.get("CPU", 0.0) for node in nodes)
        raise ClusterError(
            f"a trial needs {resources.workers} workers of {resources.cpus_per_worker:g} CPU and "
            f"{gpus_per_worker:g} GPU each; this cluster has {cpus:g} CPU and {gpus:g} GPU on {len(nodes)} node(s), "
            f"room for {slots} such worker(s). Lower resources.workers or resources.cpus_per_worker."
        )
    return LanePlan(min(fitting, resources.lanes or fitting, trials), resources.workers, gpus_per_worker)


def _slots(node: dict[str, float], cpus: float, gpus: float) -> int:
    by_cpu = node.get("CPU", 0.0) / cpus
    by_gpu = node.get("GPU", 0.0) / gpus if gpus else math.inf
    return int(min(by_cpu, by_gpu) + 1e-9)
