"""Number of lanes that a cluster holds, and the resources of their workers; Ray is imported where one is connected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.config.sections.resources import BYTES_PER_GB, ResourcesConfig
from orchestrator.config.sections.training import AUTO
from orchestrator.errors import ClusterError


@dataclass(frozen=True)
class LanePlan:
    """Lanes of a sweep on a cluster.

    Args:
        lanes: Number of lanes at first, and so of trials at the same time.
        workers: Number of workers of a lane; the largest number of an elastic one.
        gpus_per_worker: GPUs of a worker; zero on CPU.
        at_most: Largest number of lanes.
    """

    lanes: int
    workers: int
    gpus_per_worker: float
    at_most: int = 1


def plan_lanes(
    resources: ResourcesConfig,
    trials: int,
    nodes: Sequence[Mapping[str, float]] | None = None,
    *,
    gpu_share: float = 1.0,
) -> LanePlan:
    """Plan as many lanes as a cluster holds.

    A cluster with an autoscaler counts with its largest size: the requests of the lanes make it add nodes.

    Args:
        resources: Resources of one trial.
        trials: Number of trials, and largest number of lanes.
        nodes: Resources of each node by Ray's names; None takes those of the connected cluster.
        gpu_share: Share of a GPU that `gpus_per_worker: auto` stands for where the cluster has GPUs.

    Raises:
        ClusterError: Not even one lane fits; the message shows the arithmetic.
    """
    there = _nodes() if nodes is None else nodes
    most = (_largest_size() if nodes is None else None) or {}
    gpus = max(sum(node.get("GPU", 0.0) for node in there), most.get("GPU", 0.0))
    wanted = resources.gpus_per_worker
    if isinstance(wanted, float):
        gpus_per_worker = wanted
    else:
        automatic = gpu_share if wanted == AUTO else 1.0
        gpus_per_worker = automatic if gpus >= resources.min_workers else 0.0
    fitting = lanes_that_fit(resources, gpus_per_worker, nodes)
    if fitting < 1:
        raise ClusterError(_arithmetic(resources, gpus_per_worker, there))
    at_most = min(resources.lanes or trials, trials)
    return LanePlan(min(fitting, at_most), resources.max_workers, gpus_per_worker, at_most)


def lanes_that_fit(
    resources: ResourcesConfig, gpus_per_worker: float, nodes: Sequence[Mapping[str, float]] | None = None
) -> int:
    """Return the number of lanes that a cluster could hold if nothing else ran on it.

    An elastic lane counts with its largest number of workers, so that lanes grow before further ones are opened.

    Args:
        resources: Resources of one trial.
        gpus_per_worker: GPUs of a worker; zero on CPU.
        nodes: Resources of each node; None takes those of the connected cluster, and its largest size.
    """
    per_worker = resources.per_worker(gpus_per_worker)
    slots = sum(_slots(node, per_worker) for node in (_nodes() if nodes is None else nodes))
    most = _largest_size() if nodes is None else None
    if most is not None:
        slots = max(slots, _slots(most, per_worker))
    return slots // resources.max_workers or int(slots >= resources.min_workers)


def _nodes() -> list[dict[str, float]]:
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _largest_size() -> dict[str, float] | None:
    from orchestrator.runtime.ray_private.core import autoscaled_resources

    return autoscaled_resources()


def _slots(node: Mapping[str, float], per_worker: dict[str, float]) -> int:
    return min(_fitting(node.get(name, 0.0), amount, whole=name == "GPU") for name, amount in per_worker.items())


def _fitting(there: float, amount: float, *, whole: bool) -> int:
    """Return how many workers a resource of a node suffices for; a share of a GPU is one of a single GPU."""
    if whole and amount < 1:
        return int(there + 1e-9) * int(1 / amount + 1e-9)
    return int(there / amount + 1e-9)


def _arithmetic(resources: ResourcesConfig, gpus_per_worker: float, nodes: Sequence[Mapping[str, float]]) -> str:
    """Return why no lane fits: the resources of a trial, and those of the cluster."""
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
