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
"""So many, or the least and the most."""


class ResourcesConfig(Section):
    """What one trial trains on.

    Args:
        workers: DDP ranks of a trial; of `[least, most]` as many as there is room for, also when that changes.
        cpus_per_worker: CPU cores reserved for each.
        gpus_per_worker: GPUs reserved for each; None takes one where the cluster has any.
        memory_gb_per_worker: Memory reserved for each, in units of 2^30 bytes; None reserves none.
        lanes: Trials that train at the same time, at most; None takes as many as the cluster holds.
        max_failures: Crashes after which a trial goes on from its last checkpoint; preemptions do not count.
    """

    workers: WorkerCount = 2
    cpus_per_worker: PositiveFloat = 1.0
    gpus_per_worker: NonNegativeFloat | None = None
    memory_gb_per_worker: PositiveFloat | None = None
    lanes: PositiveInt | None = None
    max_failures: NonNegativeInt = 1

    @property
    def elastic(self) -> bool:
        """Whether the number of workers follows the cluster."""
        return self.min_workers < self.max_workers

    @property
    def min_workers(self) -> int:
        """Fewest ranks a trial trains on."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def max_workers(self) -> int:
        """Most ranks a trial trains on."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    def per_worker(self, gpus: float) -> dict[str, float]:
        """Ray's words for what one worker reserves.

        Args:
            gpus: `gpus_per_worker`, resolved against the cluster.
        """
        reserved = {"CPU": self.cpus_per_worker}
        if gpus:
            reserved["GPU"] = gpus
        if self.memory_gb_per_worker:
            reserved["memory"] = self.memory_gb_per_worker * BYTES_PER_GB
        return reserved
