"""Workers of a trial, what each reserves, and lanes."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import NonNegativeInt, PlainSerializer, PlainValidator, PositiveFloat, PositiveInt

from orchestrator.config.sections.section import Section
from orchestrator.config.sections.training import AUTO

BYTES_PER_GB = 2**30
MOST_LANES_PER_GPU = 16
"""Largest number of trials that share a GPU: each has a process, a context and a core of its own."""


def _workers(given: Any) -> int | tuple[int, int]:
    ends = list(given) if isinstance(given, list | tuple) else [given, given]
    if len(ends) != 2 or any(type(end) is not int or end < 1 for end in ends) or ends[0] > ends[1]:
        raise ValueError("must be a number of workers, or the least and the most of them. Use 2, or [2, 8]")
    return (ends[0], ends[1]) if isinstance(given, list | tuple) else ends[0]


WorkerCount = Annotated[int | tuple[int, int], PlainValidator(_workers), PlainSerializer(lambda given: given, Any)]
"""Number of workers, or the least and the most of them."""


def _gpus(given: Any) -> float | Literal["auto"] | None:
    if given is None or given == AUTO:
        text: Literal["auto"] | None = given
        return text
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < math.inf:
        raise ValueError("must be a number of GPUs, 0 or more, or auto. Use 1, or 0.25 for four trials on each GPU")
    return float(given)


GpuCount = Annotated[float | Literal["auto"] | None, PlainValidator(_gpus), PlainSerializer(lambda given: given, Any)]
"""Number of GPUs or share of one, `auto`, or None."""


class ResourcesConfig(Section):
    """Resources of one trial, and the number of trials that train at the same time.

    Args:
        workers: Number of DDP ranks of a trial; with `[least, most]` as many as the cluster has room for, adapted when
            that changes.
        cpus_per_worker: CPU cores reserved for each worker.
        gpus_per_worker: GPUs reserved for each worker, or a share of one, which bounds the memory of the worker; None
            takes one where the cluster has any, `auto` the share that the largest network of the sweep needs.
        memory_gb_per_worker: Memory reserved for each worker, in units of 2^30 bytes; None reserves none.
        lanes: Largest number of trials that train at the same time; None takes as many as the cluster holds.
        max_failures: Number of crashes after which a trial is still retried from its last checkpoint; preemptions do
            not count.
    """

    workers: WorkerCount = 2
    cpus_per_worker: PositiveFloat = 1.0
    gpus_per_worker: GpuCount = None
    memory_gb_per_worker: PositiveFloat | None = None
    lanes: PositiveInt | None = None
    max_failures: NonNegativeInt = 1

    @property
    def elastic(self) -> bool:
        """True if the number of workers adapts to the cluster."""
        return self.min_workers < self.max_workers

    @property
    def min_workers(self) -> int:
        """Smallest number of ranks of a trial."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def max_workers(self) -> int:
        """Largest number of ranks of a trial."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    def per_worker(self, gpus: float) -> dict[str, float]:
        """Return the resources of one worker in the form that Ray takes.

        Args:
            gpus: Value of `gpus_per_worker`, resolved against the cluster.
        """
        reserved = {"CPU": self.cpus_per_worker}
        if gpus:
            reserved["GPU"] = gpus
        if self.memory_gb_per_worker:
            reserved["memory"] = self.memory_gb_per_worker * BYTES_PER_GB
        return reserved
