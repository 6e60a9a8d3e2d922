"""Interface of a split of a dataset to the training loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor

from orchestrator.config.sections.dataset import TestTimeAugmentation
from orchestrator.training.workers import Workers

__all__ = ["Batch", "Split"]

Batch = tuple[Any, Any]
"""Images and targets of some samples: tensors whose first dimension is the samples, lists with an item for each sample,
or dictionaries and tuples of these."""


class Split(Protocol):
    """Images and targets of one split, as the task of a trial has placed them."""

    @property
    def mean(self) -> Tensor:
        """Mean per channel of pixels in 0..255, (1, C, 1, 1)."""

    @property
    def std(self) -> Tensor:
        """Deviation per channel of pixels in 0..255, (1, C, 1, 1)."""

    @property
    def tta(self) -> TestTimeAugmentation:
        """Test-time augmentation of evaluations, a value of `dataset.tta`."""

    @property
    def image_size(self) -> int:
        """Height of the images, or of those that a network is built for, in pixels."""

    @property
    def in_chans(self) -> int:
        """Number of channels."""

    def __len__(self) -> int: ...

    def batch(self, index: Tensor) -> Batch:
        """Return images and targets at some positions, (B,), as they are evaluated."""

    def share(self, workers: Workers) -> Iterator[Batch]:
        """Yield this rank's share of the split in batches; over all ranks every image comes once."""
