"""Images of every step of a training: pass after pass over the training images, whatever the length of an epoch.

Pass p draws its own order from (seed, p). With `training.epoch_steps` an epoch ends within a pass and the next one
begins there, or an epoch holds several passes; without it an epoch is a pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.config.sections.training import TrainingConfig
from orchestrator.data import Indices, epoch_batches
from orchestrator.training.images.split import Batch
from orchestrator.training.images.training_batches import TrainingBatches

__all__ = ["PassPart", "StepOrder", "read_steps"]


@dataclass(frozen=True)
class PassPart:
    """Consecutive steps of one pass over the training images.

    Args:
        number: Number of the pass, from 1.
        batches: Positions of the images of the steps of the pass, from its first one to the last of these.
        first: Number of steps of the pass ahead of these.
    """

    number: int
    batches: Sequence[Indices]
    first: int

    @property
    def steps(self) -> Sequence[Indices]:
        """Positions of the images of these steps."""
        return self.batches[self.first :]


class StepOrder:
    """Images of the steps of each epoch, the same for every number of ranks.

    Args:
        images: Number of training images.
        training: Training settings.
        seed: Seed of the trial.
    """

    def __init__(self, images: int, training: TrainingConfig, *, seed: int) -> None:
        self._images = images
        self._training = training
        self._seed = seed
        self._pass_steps = len(self._pass(1))
        self.steps_per_epoch = training.epoch_steps or self._pass_steps

    def epoch(self, epoch: int) -> list[PassPart]:
        """Return the steps of an epoch, by pass.

        Args:
            epoch: Number of the epoch, from 1.
        """
        parts = []
        begin, left = (epoch - 1) * self.steps_per_epoch, self.steps_per_epoch
        while left:
            passes, first = divmod(begin, self._pass_steps)
            last = min(self._pass_steps, first + left)
            parts.append(PassPart(passes + 1, self._pass(passes + 1)[:last], first))
            begin, left = begin + last - first, left - (last - first)
        return parts

    def _pass(self, number: int) -> list[Indices]:
        training = self._training
        return epoch_batches(
            self._images, training.batch_size, seed=self._seed, epoch=number, drop_last=training.drop_last
        )


def read_steps(images: TrainingBatches, parts: Sequence[PassPart], *, first: int) -> Iterator[Batch]:
    """Yield this rank's share of every step of an epoch.

    Args:
        images: Source of the images of a pass.
        parts: Steps of the epoch.
        first: Number of steps to skip at the beginning, when an epoch is resumed.
    """
    for part in parts:
        skipped = min(first, len(part.steps))
        first -= skipped
        if skipped < len(part.steps):
            yield from images.epoch(part.number, part.batches, first=part.first + skipped)
