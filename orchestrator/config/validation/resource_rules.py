"""Rules that join the resources of a trial with each other and with its training."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.config.sections.resources import MOST_LANES_PER_GPU, ResourcesConfig
from orchestrator.config.sections.training import AUTO, TrainingConfig
from orchestrator.errors import Problem

__all__ = ["resource_problems"]


def resource_problems(resources: ResourcesConfig, training: TrainingConfig | None) -> Iterator[Problem]:
    """Yield resources that no lane can have, or with which a batch size cannot be found.

    Args:
        resources: Section `resources`.
        training: Section `training`, the fixed values; None where it has problems of its own.
    """
    gpus = resources.gpus_per_worker
    where = "resources.gpus_per_worker"
    if gpus == AUTO and resources.max_workers > 1:
        yield Problem(
            where,
            "got auto; it lets trials share a GPU, and workers of one trial cannot (NCCL refuses it). Use a whole "
            "number, or workers: 1",
        )
    elif isinstance(gpus, float) and gpus % 1 and resources.max_workers > 1:
        yield Problem(
            where,
            f"got {gpus}; workers of one trial cannot share a GPU (NCCL refuses it). Use a whole number, or workers: 1",
        )
    elif isinstance(gpus, float) and gpus > 1 and gpus % 1:
        yield Problem(where, f"got {gpus}; above 1 Ray reserves whole GPUs. Use {int(gpus)} or {int(gpus) + 1}")
    elif isinstance(gpus, float) and 0 < gpus < 1 / MOST_LANES_PER_GPU:
        least = 1 / MOST_LANES_PER_GPU
        yield Problem(
            where, f"got {gpus}; at most {MOST_LANES_PER_GPU} trials share a GPU. Use {least:g} or more, or 0"
        )
    if training and training.global_batch_size == AUTO and gpus == AUTO:
        yield Problem(
            where,
            "got auto; it depends on the batch size, and training.global_batch_size is auto as well. Use a number for "
            "one of them, such as 0.25 here",
        )
    if training and training.global_batch_size == AUTO and resources.elastic:
        yield Problem(
            "training.global_batch_size",
            f"got auto; it depends on the number of workers, and resources.workers is [{resources.min_workers}, "
            f"{resources.max_workers}]. Use a number of images, or one number of workers",
        )
