"""Split of large images, which are decoded every time they are used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from orchestrator.config.sections.dataset import TestTimeAugmentation
from orchestrator.data import Indices, worker_share
from orchestrator.data.encoded_images import EncodedImages
from orchestrator.training.images.image_files import ImageFiles
from orchestrator.training.images.image_loader import ImageLoader, ImageTransforms, SampleKey
from orchestrator.training.workers import Workers

_EVALUATION_BATCH = 128


@dataclass(frozen=True)
class DecodedSplit:
    """Some of the image files of a prepared split.

    Args:
        files: Image files, of the whole prepared split or of the user.
        positions: Positions of this split's images among them, (N,).
        transforms: Crop and interpolation of the evaluation.
        mean: Mean per channel of pixels in 0..255, (1, C, 1, 1).
        std: Deviation per channel of pixels in 0..255, (1, C, 1, 1).
        processes: Number of decoding processes of each rank.
        tta: Test-time augmentation of evaluations, a value of `dataset.tta`.
    """

    files: EncodedImages | ImageFiles
    positions: Indices
    transforms: ImageTransforms
    mean: Tensor
    std: Tensor
    processes: int
    tta: TestTimeAugmentation = "none"

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def image_size(self) -> int:
        """Side of the square that images are cropped to, in pixels."""
        return self.transforms.image_size

    @property
    def in_chans(self) -> int:
        """Number of channels: 3, as images are converted to RGB, or 1 for grey ones."""
        return self.mean.shape[1]

    def normalise(self, pixels: Tensor) -> Tensor:
        """Normalise uint8 pixels (B, C, H, W) into one new float tensor."""
        return pixels.float().sub_(self.mean).div_(self.std)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalised float images (B, C, H, W) and their labels (B,), decoded in this process."""
        keys = [[SampleKey(int(self.positions[place])) for place in index.tolist()]]
        loader = ImageLoader(self.files, self.transforms.for_evaluation(), processes=0)
        ((pixels, labels),) = loader.batches(keys)
        return self.normalise(pixels.to(self.mean.device)), labels.to(self.mean.device)

    def share(self, workers: Workers) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this rank's share of the split in batches; over all ranks every image comes once."""
        mine = worker_share(self.positions, workers.rank, workers.world_size)
        cuts = np.arange(_EVALUATION_BATCH, len(mine), _EVALUATION_BATCH)
        keys = [[SampleKey(int(place)) for place in batch] for batch in np.split(mine, cuts) if len(batch)]
        for pixels, labels in self._loader.batches(keys):
            yield self.normalise(pixels.to(workers.device)), labels.to(workers.device)

    @cached_property
    def _loader(self) -> ImageLoader:
        """Loader, whose processes are started once."""
        return ImageLoader(self.files, self.transforms.for_evaluation(), processes=self.processes)
