"""A split of large images, which are decoded whenever they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from orchestrator.data import Indices, worker_share
from orchestrator.data.encoded_images import EncodedImages
from orchestrator.training.images.image_loader import ImageLoader, ImageTransforms, SampleKey
from orchestrator.training.workers import Workers

_EVALUATION_BATCH = 128


@dataclass(frozen=True)
class DecodedSplit:
    """Some of the images of a set of files.

    Args:
        files: Of the whole split as it was prepared.
        positions: Which of them belong here, (N,).
        transforms: How they are cropped to be evaluated.
        mean: Per channel, (1, 3, 1, 1), of pixels in 0..255.
        std: Likewise.
        processes: That decode, for each rank.
    """

    files: EncodedImages
    positions: Indices
    transforms: ImageTransforms
    mean: Tensor
    std: Tensor
    processes: int

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def image_size(self) -> int:
        """Side of the square that images are cropped to, in pixels."""
        return self.transforms.image_size

    @property
    def in_chans(self) -> int:
        """Channels: all images are made RGB."""
        return 3

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> float, in one new tensor."""
        return pixels.float().sub_(self.mean).div_(self.std)

    def share(self, workers: Workers) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's part of the split, in batches; over all ranks every image comes once."""
        mine = worker_share(self.positions, workers.rank, workers.world_size)
        cuts = np.arange(_EVALUATION_BATCH, len(mine), _EVALUATION_BATCH)
        keys = [[SampleKey(int(place)) for place in batch] for batch in np.split(mine, cuts) if len(batch)]
        for pixels, labels in self._loader.batches(keys):
            yield self.normalise(pixels.to(workers.device)), labels.to(workers.device)

    @cached_property
    def _loader(self) -> ImageLoader:
        """Its processes are started once."""
        return ImageLoader(self.files, self.transforms.for_evaluation(), processes=self.processes)
