"""The Ray instance a sweep runs on: an existing cluster, or a private one on this machine."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.services import canonicalize_bootstrap_address_or_die
from ray._private.state import state as cluster_state

from orchestrator.config.sections.resources import BYTES_PER_GB, ResourcesConfig
from orchestrator.errors import ClusterError
from orchestrator.runtime.cluster_token import settings_to_join, token_settings
from orchestrator.runtime.loopback_proxies import keep_loopback_direct
from orchestrator.runtime.private_ray import private_ray
from orchestrator.runtime.raylet import LocalRaylet

_ANSWER_S = 10.0
_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # the lanes' own begins later
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "inf",  # nobody resumes from Tune's own snapshots
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
_lost_sessions: list[LocalRaylet] = []


@contextmanager
def ray_session(address: str | None = None, *, verbose: bool = False) -> Iterator[None]:
    """Connects to Ray for the duration of a sweep.

    A session that is already open is used and left open. With an address, or `RAY_ADDRESS` set as it is inside a Ray
    job, that cluster is joined, with the user's token where it asks for one; otherwise a private instance is started
    here and ended afterwards. A session whose raylet has ended is closed by the next one, or by the end of the process:
    threads of Tune and Train still wait for an answer in it, and Ray ends a process at once, without a word, in which a
    thread asks a session that is closed.

    Args:
        address: Of a running cluster; `auto` finds one on this machine.
        verbose: Lets Ray say what it says, the output of its workers too.

    Raises:
        ClusterError: The cluster does not answer, or refuses the token; the private instance does not start.
    """
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)
    level = logging.INFO if verbose else logging.ERROR
    for name in ("ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(level)
    if _lost_sessions:
        ray.shutdown()
        _lost_sessions.clear()
    if ray.is_initialized():
        yield
        return
    keep_loopback_direct(os.environ)
    target = address or os.environ.get("RAY_ADDRESS") or "local"
    handler = signal.getsignal(signal.SIGTERM)
    with private_ray(verbose=verbose, level=level) if target == "local" else _joined(target, verbose, level):
        _set_sigterm_handler(handler)
        raylet = LocalRaylet()
        try:
            yield
        finally:
            if raylet.gone:
                _lost_sessions.append(raylet)
            else:
                ray.shutdown()


@contextmanager
def _joined(target: str, verbose: bool, level: int) -> Iterator[None]:
    """Connects to a cluster, with its token where it asks for one."""
    address = _bootstrap_address(target)
    _require_answer(target, address or target)
    with token_settings({} if address is None else settings_to_join(address, os.environ)):
        try:
            ray.init(address=target, log_to_driver=verbose, logging_level=level)
        except (ConnectionError, OSError, ValueError, RuntimeError) as error:
            raise ClusterError(f"no Ray cluster answers at '{target}': {error}") from None
        yield


def _bootstrap_address(target: str) -> str | None:
    """Host and port of a cluster's control service; None for Ray's client, which has a server of its own."""
    if target.startswith("ray://"):
        return None
    try:
        return str(canonicalize_bootstrap_address_or_die(target))
    except (ConnectionError, ValueError) as error:
        raise ClusterError(f"no Ray cluster answers at '{target}': {error}") from None


def _set_sigterm_handler(handler: Any) -> None:
    """Whoever hears a SIGTERM goes on hearing it: `ray.init` takes it over, to print a stack and exit at once."""
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _require_answer(target: str, address: str) -> None:
    """Fails within seconds where Ray itself would go on asking for minutes."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
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
        lanes: Trials at the same time, to begin with.
        workers: Ranks of each; of elastic ones the most.
        gpus_per_worker: Zero on CPU.
        at_most: Lanes the sweep may grow to.
    """

    lanes: int
    workers: int
    gpus_per_worker: float
    at_most: int = 1


def plan_lanes(resources: ResourcesConfig, trials: int, nodes: Sequence[Mapping[str, float]] | None = None) -> LanePlan:
    """Fits as many lanes as a cluster holds.

    A cluster with an autoscaler is taken for as large as it may become: the lanes' own requests bring the nodes.

    Args:
        resources: Of one trial.
        trials: No more lanes than trials.
        nodes: Resources of each node, in Ray's words; None asks the connected cluster.

    Raises:
        ClusterError: Not even one lane fits; the message shows the arithmetic.
    """
    there = _nodes() if nodes is None else nodes
    most = (_resources_with_autoscaling() if nodes is None else None) or {}
    gpus = max(sum(node.get("GPU", 0.0) for node in there), most.get("GPU", 0.0))
    wanted = resources.gpus_per_worker
    gpus_per_worker = wanted if wanted is not None else (1.0 if gpus >= resources.min_workers else 0.0)
    fitting = lanes_that_fit(resources, gpus_per_worker, nodes)
    if fitting < 1:
        raise ClusterError(_arithmetic(resources, gpus_per_worker, there))
    at_most = min(resources.lanes or trials, trials)
    return LanePlan(min(fitting, at_most), resources.max_workers, gpus_per_worker, at_most)


def lanes_that_fit(
    resources: ResourcesConfig, gpus_per_worker: float, nodes: Sequence[Mapping[str, float]] | None = None
) -> int:
    """Lanes that a cluster could hold if nothing else ran on it.

    An elastic lane counts as large as it may become, so that a lane grows before there are more of them.

    Args:
        resources: Of one trial.
        gpus_per_worker: Zero on CPU.
        nodes: Resources of each node; None asks the connected cluster, and what it may grow to.
    """
    per_worker = resources.per_worker(gpus_per_worker)
    slots = sum(_slots(node, per_worker) for node in (_nodes() if nodes is None else nodes))
    most = _resources_with_autoscaling() if nodes is None else None
    if most is not None:
        slots = max(slots, _slots(most, per_worker))
    return slots // resources.max_workers or int(slots >= resources.min_workers)


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _resources_with_autoscaling() -> dict[str, float] | None:
    """All that a cluster may grow to; None where nobody adds nodes, or where it is not told."""
    most = cluster_state.get_max_resources_from_cluster_config()
    return None if most is None else {name: float(amount) for name, amount in most.items()}


def _slots(node: Mapping[str, float], per_worker: dict[str, float]) -> int:
    return int(min(node.get(name, 0.0) / amount for name, amount in per_worker.items()) + 1e-9)


def _arithmetic(resources: ResourcesConfig, gpus_per_worker: float, nodes: Sequence[Mapping[str, float]]) -> str:
    """Why no lane fits: what a trial needs, what there is."""
    per_worker = resources.per_worker(gpus_per_worker)
    slots = sum(_slots(node, per_worker) for node in nodes)
    memory = f" and {resources.memory_gb_per_worker:g} GB" if resources.memory_gb_per_worker else ""
    there = [f"{sum(node.get(name, 0.0) for node in nodes):g} {name}" for name in ("CPU", "GPU")]
    if memory:
        there.append(f"{sum(node.get('memory', 0.0) for node in nodes) / BYTES_PER_GB:.1f} GB")
    lower = ["resources.workers", "resources.cpus_per_worker", *(["resources.memory_gb_per_worker"] if memory else [])]
    return (
        f"a trial needs {resources.min_workers} workers of {resources.cpus_per_worker:g} CPU and "
        f"{gpus_per_worker:g} GPU{memory} each; this cluster has {' and '.join(there)} on {len(nodes)} node(s), "
        f"room for {slots} such worker(s). Lower {' or '.join(lower)}."
    )
