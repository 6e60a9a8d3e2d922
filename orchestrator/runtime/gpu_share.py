"""Share of a GPU that a trial reserves: the memory that goes with it, and its measurement.

A lane that reserves a share may take that share of the memory and no more, CUDA's own context included. With
`resources.gpus_per_worker: auto` the share follows from steps of the largest network of the sweep on a GPU. This
module imports no Ray, which a dry run does without.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.config.sections.resources import MOST_LANES_PER_GPU
from orchestrator.config.trial import TrialConfig
from orchestrator.errors import ClusterError, first_line

if TYPE_CHECKING:
    import torch

    from orchestrator.data import DatasetFacts

__all__ = ["CONTEXT_BYTES", "GpuMemory", "limit_memory", "measured_share", "memory_fraction", "share_for"]

CONTEXT_BYTES = 768 * 2**20
"""Memory of a GPU that a process takes beside torch's allocator: CUDA's context and the code of the kernels."""

_USABLE = 0.9  # of the memory of a GPU; the rest is for fragmentation, and for evaluations
_STEPS_OF_SHARE = 10_000  # Ray counts shares in ten-thousandths
_MEASUREMENT_S = 600.0


class GpuMemory(NamedTuple):
    """Memory of a GPU.

    Args:
        needed: Bytes that a trial takes, without CUDA's context.
        total: Bytes of the device.
    """

    needed: int
    total: int


def share_for(memories: Iterable[GpuMemory], lanes: int) -> float:
    """Return the share of a GPU with which as many trials as possible run on each, at most `MOST_LANES_PER_GPU`.

    Args:
        memories: Memory that a trial needs on each kind of GPU; the one with room for fewest decides.
        lanes: Largest number of trials at the same time.
    """
    each = min((_fitting(memory) for memory in memories), default=1)
    each = max(1, min(each, lanes, MOST_LANES_PER_GPU))
    return math.floor(_STEPS_OF_SHARE / each) / _STEPS_OF_SHARE


def memory_fraction(share: float, total: int) -> float:
    """Return the share of a GPU's memory that torch may take in a lane that reserves a share of the GPU.

    Args:
        share: Share that the lane reserves, below 1.
        total: Bytes of the device.

    Raises:
        ClusterError: CUDA's context alone takes the share.
    """
    fraction = share - CONTEXT_BYTES / total
    if fraction <= 0:
        raise ClusterError(
            f"resources.gpus_per_worker: got {share:g}; of a GPU with {total / 2**30:.1f} GB that is no more than "
            f"CUDA's own context takes ({CONTEXT_BYTES / 2**30:g} GB). Use a larger share"
        )
    return fraction


def limit_memory(device: torch.device, share: float) -> None:
    """Bound the memory that this process takes on a GPU by the share that its lane reserves.

    Args:
        device: Device of this process; on a CPU nothing is bounded.
        share: GPUs that each worker of the lane reserves.

    Raises:
        ClusterError: CUDA's context alone takes the share.
    """
    if device.type != "cuda" or not 0 < share < 1:
        return
    import torch

    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(memory_fraction(share, total), device)


def measured_share(trial: TrialConfig, facts: DatasetFacts, network_files: Mapping[str, str], lanes: int) -> float:
    """Measure a trial on one GPU of each kind in the connected cluster, and return the share that it reserves; blocks.

    Args:
        trial: Configuration that needs most memory.
        facts: Facts of the dataset.
        network_files: Source code of the networks' files, by name.
        lanes: Largest number of trials at the same time.

    Raises:
        ClusterError: No GPU became free, or the measurement failed.
    """
    import ray
    from ray.exceptions import GetTimeoutError, RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=1, num_gpus=1)(measure)
    found = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            trial.model_dump(mode="json"), facts, dict(network_files)
        )
        for node in _one_of_each_kind(ray.nodes())
    ]
    try:
        memories = [GpuMemory(*pair) for pair in ray.get(found, timeout=_MEASUREMENT_S)]
    except GetTimeoutError:
        raise ClusterError(
            f"resources.gpus_per_worker: got auto; no GPU was free for a measurement within {_MEASUREMENT_S:g} s. "
            "Use a number, such as 0.25"
        ) from None
    except RayError as error:
        cause = error.cause if isinstance(error, RayTaskError) else error
        raise ClusterError(
            f"resources.gpus_per_worker: got auto; the measurement failed: {first_line(cause)}. Use a number, such as "
            "0.25"
        ) from error
    return share_for(memories, lanes)


def measure(trial: Mapping[str, Any], facts: DatasetFacts, network_files: Mapping[str, str]) -> tuple[int, int]:
    """Take a few steps of a trial on the GPU of this process; return the bytes needed, and those of the device.

    Args:
        trial: `TrialConfig` as plain data.
        facts: Facts of the dataset.
        network_files: Source code of the networks' files, by name.
    """
    import torch

    import models
    from orchestrator.training.checkpoints.checkpoints import describe_network
    from orchestrator.training.memory.memory_estimate import estimate_memory
    from orchestrator.training.memory.out_of_memory import is_out_of_memory
    from orchestrator.training.memory.steps import StepShape, take_steps

    for name, text in network_files.items():
        models.register_network_file(name, text)
    config = TrialConfig(**trial)
    description = describe_network(
        config.model,
        num_classes=facts.num_classes,
        in_chans=facts.in_chans,
        image_size=facts.image_size,
        task=config.task,
    )
    device = torch.device("cuda", torch.cuda.current_device())
    total = torch.cuda.get_device_properties(device).total_memory
    training = config.training
    try:
        take_steps(StepShape.of(description, training), training, training.batch_size, device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return total, total
    return torch.cuda.max_memory_reserved(device) + estimate_memory(config, facts, 1).images, total


def _fitting(memory: GpuMemory) -> int:
    """Return how many trials fit into the memory of a GPU together."""
    return int(_USABLE * memory.total // (memory.needed + CONTEXT_BYTES))


def _one_of_each_kind(nodes: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the identifier of one node for each kind of GPU, as Ray names it."""
    kinds: dict[tuple[str, ...], str] = {}
    for node in nodes:
        if node["Alive"] and node["Resources"].get("GPU", 0) >= 1:
            kind = tuple(sorted(name for name in node["Resources"] if name.startswith("accelerator_type:")))
            kinds.setdefault(kind, node["NodeID"])
    return list(kinds.values())
