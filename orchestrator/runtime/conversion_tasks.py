"""Conversion of a dataset's shards as Ray tasks, one per shard, on all cores of a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import ray
from ray.exceptions import RayError, RayTaskError

from orchestrator.data.conversion.prepare import Runner
from orchestrator.data.conversion.shard_conversion import convert_shard
from orchestrator.data.conversion.shards import ShardRecord, ShardTask
from orchestrator.data.sources import Source
from orchestrator.errors import ClusterError, SpatialSweepError
from orchestrator.runtime.ray_session import ray_session

__all__ = ["ray_tasks"]

_QUEUED_PER_CPU = 2
_RETRIES = 3


@contextmanager
def ray_tasks(address: str | None = None) -> Iterator[Runner]:
    """Open a Ray session and return the runner with which `prepare` converts on it.

    The source and the target must be reachable from every node: a shared file system, or an object store as target.

    Args:
        address: Address of a running cluster; `local`, like None outside a Ray job, starts a private instance.

    Raises:
        ClusterError: The cluster does not answer.
    """
    with ray_session(address):
        yield _convert


def _convert(source: Source, tasks: Sequence[ShardTask]) -> Iterator[ShardRecord]:
    """Convert shards, at most `_QUEUED_PER_CPU` for each core at a time; a task whose worker dies is retried."""
    if not tasks:
        return
    convert = ray.remote(num_cpus=1, max_retries=_RETRIES)(convert_shard)
    shared = ray.put(source)
    room = max(1, int(_QUEUED_PER_CPU * ray.cluster_resources().get("CPU", 1)))
    waiting = list(reversed(tasks))
    running: list[ray.ObjectRef[ShardRecord]] = []
    try:
        while waiting or running:
            while waiting and len(running) < room:
                running.append(convert.remote(shared, waiting.pop()))
            done, running = ray.wait(running)
            yield from _results(done)
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _results(done: Sequence[ray.ObjectRef[ShardRecord]]) -> list[ShardRecord]:
    """Return the results of tasks; their errors are raised as in this process."""
    try:
        return list(ray.get(list(done)))
    except RayTaskError as error:
        if isinstance(error.cause, SpatialSweepError):
            raise error.cause from None
        raise
    except RayError as error:
        raise ClusterError(f"a shard could not be converted, {_RETRIES} retries included: {error}") from None
