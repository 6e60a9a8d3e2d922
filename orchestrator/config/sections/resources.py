"""Workers of a trial, what each reserves, and lanes."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import NonNegativeFloat, NonNegativeInt, PlainSerializer, PlainValidator, PositiveFloat, PositiveInt

from orchestrator.config.sections.section import Section

BYTES_PER_GB = 2**30


def _workers(given: Any) -> int | tuple[int, int]:
    ends = list(given) if isinstance(given, list | tuple) else [given, given]
    if len(ends) != 2 or any(type(end) is not int or end < 1 for end in ends) or ends[0] > ends[1]:
        raise ValueError("must be a number of workers, or the least and the most of them. Use 2, or [2, 8]")
    return (ends[0], ends[1]) if isinstance(given, list | tuple) else ends[0]


WorkerCount = Annotated[int | tuple[int, int], PlainValidator(_workers), PlainSerializer(lambda given: given, Any)]
"""Number of workers, or the least and the most of them."""


class ResourcesConfig(Section):
    """Resources of one trial, and the number of trials that train at the same time.

    Args:
        workers: Number of DDP ranks of a trial; with `[least, most]` as many as the cluster has room for, adapted when
            that changes.
        cpus_per_worker: CPU cores reserved for each worker.
        gpus_per_worker: GPUs reserved for each worker; None takes one where the cluster has any.
        memory_gb_per_worker: Memory reserved for each worker, in units of 2^30 bytes; None reserves none.
        lanes: Largest number of trials that train at the same time; None takes as many as the cluster holds.
        max_failures: Number of crashes after which a trial is still retried from its last checkpoint; preemptions do
            not count.
    """

    workers: WorkerCount = 2
    cpus_per_worker: PositiveFloat = 1.0
    gpus_per_worker: NonNegativeFloat | None = None
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
