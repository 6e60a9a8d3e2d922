"""Out-of-memory errors: recognised, reported with the settings that determine the use of memory, or answered.

With `training.on_out_of_memory` other than `fail`, a step that runs out of memory is computed again in twice as many
parts: same images, same learning rate, same draws of dropout as with `training.accumulation_steps` of that number.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from orchestrator.config.sections.training import TrainingConfig
from orchestrator.errors import TrialFailedError
from orchestrator.training.randomness import random_states, restore_random_states
from orchestrator.training.workers import Workers

_LOG = logging.getLogger(__name__)
# Of plain errors: of torch on CPUs, and of CUDA's libraries, which allocate memory of their own.
_ALLOCATOR = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is a failed allocation, on an accelerator or in main memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _ALLOCATOR)


def free_memory(device: torch.device) -> None:
    """Free the memory that the process no longer uses, such as that of a failed step."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def translate_out_of_memory(training: TrainingConfig, world_size: int) -> Iterator[None]:
    """Raise a failed allocation inside the context as an error that names the batch size.

    Args:
        training: Training settings of the trial.
        world_size: Number of workers of the trial.

    Raises:
        TrialFailedError: An allocation failed.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory_error(training, world_size, training.accumulation_steps) from error


def out_of_memory_error(training: TrainingConfig, world_size: int, parts: int, reason: str = "") -> TrialFailedError:
    """Return the error of a trial that needs more memory than there is.

    Args:
        training: Training settings of the trial.
        world_size: Number of workers of the trial.
        parts: Number of parts in which a worker's share of a batch was computed.
        reason: Reason why it was not computed in more parts.
    """
    share = -(-training.batch_size // world_size)
    at_once = f", {-(-share // parts)} at a time in {parts} parts" if parts > 1 else ""
    return TrialFailedError(
        f"out of memory with global_batch_size {training.batch_size}: {share} images on each of "
        f"{world_size} workers{at_once}{f'; {reason}' if reason else ''}. Use a smaller training.global_batch_size, "
        "more training.accumulation_steps, or a smaller network"
    )


class Accumulation:
    """Number of parts in which each worker computes its share of a batch; doubled when memory runs out, where allowed.

    The number is equal on all ranks. It never falls within a trial, and a checkpoint holds it.

    Args:
        network: Network in training.
        training: Training settings.
        workers: This rank and its process group.

    Attributes:
        parts: Number of parts.
    """

    def __init__(self, network: nn.Module, training: TrainingConfig, workers: Workers) -> None:
        self.parts = training.accumulation_steps
        self._network = network
        self._training = training
        self._workers = workers
        self._has_batch_norms = any(isinstance(module, _BatchNorm) for module in network.modules())

    @property
    def retries(self) -> bool:
        """True where a step that runs out of memory is computed again in more parts."""
        return self._training.on_out_of_memory != "fail"

    def compute(self, gradients: Callable[[int], Tensor], global_images: int) -> Tensor:
        """Compute the gradients of a step, again in more parts where memory runs out; return the loss.

        With `retries` a collective operation: the ranks agree that the gradients of all of them are complete.

        Args:
            gradients: Callable that takes the number of parts, clears and sets all gradients, and returns the loss;
                with `retries` it takes part in no collective operation.
            global_images: Number of images of the step over all ranks.

        Raises:
            TrialFailedError: Memory ran out on some rank, and more parts do not help or are not allowed.
        """
        if not self.retries:
            return gradients(self.parts)
        buffers = [buffer.detach().clone() for buffer in self._network.buffers()]
        states = random_states(self._workers.device)
        while True:
            loss = self._attempt(gradients)
            if self._complete_on_all(loss is not None):
                assert loss is not None
                return loss
            del loss
            self._network.zero_grad()
            free_memory(self._workers.device)
            self._split(global_images)
            with torch.no_grad():
                for buffer, before in zip(self._network.buffers(), buffers, strict=True):
                    buffer.copy_(before)
            restore_random_states(states, self._workers.device)

    def _attempt(self, gradients: Callable[[int], Tensor]) -> Tensor | None:
        """Return the loss; None where memory ran out."""
        try:
            return gradients(self.parts)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None  # leaving the handler frees what the traceback refers to

    def _complete_on_all(self, complete: bool) -> bool:
        if self._workers.world_size == 1:
            return complete  # without waiting for the device
        missing = torch.tensor(float(not complete), device=self._workers.device)
        return not bool(self._workers.sum(missing))

    def _split(self, global_images: int) -> None:
        """Double the number of parts; the rule depends on nothing in which ranks differ.

        Raises:
            TrialFailedError: A part would be too small, or batch norms would see fewer images.
        """
        world_size = self._workers.world_size
        least_share = (global_images - 1) // world_size  # another batch may be one image short
        if self._has_batch_norms and self._training.on_out_of_memory != "accumulate_always":
            reason = (
                "its batch norms would normalise smaller parts, which training.on_out_of_memory: accumulate_always "
                "allows"
            )
            raise out_of_memory_error(self._training, world_size, self.parts, reason)
        if 2 * self.parts * (2 if self._has_batch_norms else 1) > least_share:
            raise out_of_memory_error(self._training, world_size, self.parts, "its parts cannot be smaller")
        self.parts *= 2
        _LOG.warning(
            "Out of memory with %d images: each worker computes its share in %d parts from here on",
            global_images,
            self.parts,
        )
