"""Largest batch that fits into memory, found by trying before the first step of a trial (`global_batch_size: auto`).

Candidates are powers of two times the number of workers, so that all shares are equal. They are tried in rising order,
with a network of their own that is thrown away; the trial then begins as if it had been configured with the number.
The number is stored in the folder of the trial: a trial that resumes, wherever it does, uses it again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

from orchestrator.config.sections.training import AUTO, TrainingConfig
from orchestrator.config.tasks.facts import TaskFacts
from orchestrator.config.tasks.registry import task_facts
from orchestrator.config.trial import TrialConfig
from orchestrator.data.datasets import DatasetFacts
from orchestrator.errors import CheckpointError, TrialFailedError
from orchestrator.files.atomic_files import atomic_file
from orchestrator.training.images.decoded_images import DecodedSplit
from orchestrator.training.images.device_images import DeviceImages
from orchestrator.training.memory.memory_estimate import estimate_memory
from orchestrator.training.memory.out_of_memory import free_memory, is_out_of_memory
from orchestrator.training.memory.steps import StepShape, take_steps
from orchestrator.training.reset_torch import reset_torch
from orchestrator.training.workers import Workers

__all__ = ["FILE", "candidates", "with_found_batch_size"]

_LOG = logging.getLogger(__name__)

FILE = "batch_size.json"
"""Name of the file with the number, in the folder of a trial."""

_USABLE = 0.9  # of the memory of a device; the rest is for what the steps did not need, such as an evaluation
_USABLE_ON_CPU = 0.75  # of the free memory, which other processes use as well
_CGROUP = Path("/sys/fs/cgroup")


def with_found_batch_size(
    config: TrialConfig, shape: StepShape, data: DeviceImages, workers: Workers, folder: Path
) -> TrialConfig:
    """Return a configuration with the batch size that `auto` stands for; other configurations as they are.

    A collective operation: every rank must call, and all return the same.

    Args:
        config: Configuration of the trial.
        shape: Network and images of the trial.
        data: Splits on this rank's device.
        workers: This rank and its process group.
        folder: Folder of the trial.

    Raises:
        CheckpointError: The stored number cannot be read.
        TrialFailedError: Not even the smallest batch fits.
    """
    training = config.training
    if training.global_batch_size != AUTO:
        return config
    found = _stored(folder / FILE, workers)
    if found is None:
        found = _find(config, shape, data, workers)
        if workers.is_first:
            _LOG.info("global_batch_size: auto found %d images on %d workers", found, workers.world_size)
            _store(folder / FILE, found, workers.world_size)
    return config.model_copy(update={"training": training.model_copy(update={"global_batch_size": found})})


def candidates(training: TrainingConfig, task: TaskFacts, world_size: int, train_images: int) -> Iterator[int]:
    """Yield the batch sizes that are tried, in rising order.

    Args:
        training: Training settings.
        task: Task of the trial.
        world_size: Number of workers.
        train_images: Number of training images, which bounds a batch as well.
    """
    least = task.smallest_batch(world_size, training.accumulation_steps, drop_last=training.drop_last)
    most = min(training.max_global_batch_size, train_images)
    size = world_size
    while size <= most:
        if size >= least:
            yield size
        size *= 2


def _find(config: TrialConfig, shape: StepShape, data: DeviceImages, workers: Workers) -> int:
    """Return the largest candidate that fits on all ranks."""
    training, train_images = config.training, len(data.train)
    tried = 0
    found = 0
    for tried in candidates(training, task_facts(config.task), workers.world_size, train_images):
        reset_torch()
        fits = _fits(config, shape, data, workers, tried)
        missing = workers.sum(torch.tensor(float(not fits), device=workers.device))
        if missing:
            break
        found = tried
    if found:
        return found
    if tried:
        raise TrialFailedError(
            f"training.global_batch_size: got auto; not even {tried} images on {workers.world_size} workers fit into "
            "memory. Use a smaller network, more training.accumulation_steps, or training.gradient_checkpointing"
        )
    raise TrialFailedError(
        f"training.global_batch_size: got auto; a batch of at most {training.max_global_batch_size} of "
        f"{train_images} training images is too small for {workers.world_size} workers with "
        f"{training.accumulation_steps} accumulation_steps. Use a larger training.max_global_batch_size, or fewer "
        "workers"
    )


def _fits(config: TrialConfig, shape: StepShape, data: DeviceImages, workers: Workers, size: int) -> bool:
    """Return whether steps of a batch size fit into the memory of this rank's device."""
    device = workers.device
    if device.type == "cpu" and not _is_room(config, data, workers, size):
        return False
    limit = _device_bytes(device)
    complete = True
    try:
        take_steps(shape, config.training, size // workers.world_size, device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        complete = False
    needed = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    free_memory(device)
    return complete and (limit is None or needed <= _USABLE * limit)


def _device_bytes(device: torch.device) -> int | None:
    """Return the memory that torch may use on a GPU, and reset its peak; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    free, total = torch.cuda.mem_get_info(device)
    allowed = int(total * torch.cuda.get_per_process_memory_fraction(device))
    return min(allowed, free + torch.cuda.memory_reserved(device))


def _is_room(config: TrialConfig, data: DeviceImages, workers: Workers, size: int) -> bool:
    """Return whether main memory has room for a batch by its estimate: an allocation beyond it ends the process."""
    facts = DatasetFacts(
        image_size=data.image_size,
        in_chans=data.in_chans,
        num_classes=len(data.class_names),
        train_images=len(data.train),
        files=isinstance(data.train, DecodedSplit),
    )
    sized = config.training.model_copy(update={"global_batch_size": size})
    needs = estimate_memory(config.model_copy(update={"training": sized}), facts, workers.world_size)
    return needs.total - needs.images <= _USABLE_ON_CPU * available_memory() / workers.world_size


def available_memory() -> int:
    """Return the bytes of main memory that this process may still take, within its control group."""
    available = int(psutil.virtual_memory().available)
    try:
        limit, used = ((_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return available if limit == "max" else min(available, int(limit) - int(used))
    except (OSError, ValueError):  # no control group of the second version
        return available


def _stored(file: Path, workers: Workers) -> int | None:
    """Return the stored number on all ranks; None where there is none."""
    found: int | None = None
    fault = ""
    if workers.is_first and file.exists():
        try:
            found = json.loads(file.read_text())["global_batch_size"]
            if type(found) is not int or found < 1:
                raise ValueError(found)
        except (OSError, ValueError, KeyError, TypeError):
            fault = f"{file}: does not hold the batch size of this trial. Delete its folder, and it starts again"
    found, fault = workers.broadcast_from_first([found, fault])  # type: ignore[assignment]
    if fault:
        raise CheckpointError(fault)
    return found


def _store(file: Path, size: int, world_size: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as partial:
        partial.write_text(json.dumps({"global_batch_size": size, "workers": world_size}) + "\n")
