"""Loader of large images: files are decoded and cropped in separate processes, one batch after another.

Every sample draws its own crop and colours from (seed, epoch, image, copy), so the batches do not depend on the number
of decoding processes nor on the number of ranks. Normalisation, erasing and mixing are left to the device.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision.transforms import Compose

from orchestrator.config.sections.dataset import Decoder
from orchestrator.data import Indices
from orchestrator.data.decoding import ImageError, decode_image
from orchestrator.data.encoded_images import EncodedImages
from orchestrator.errors import DataError
from orchestrator.training.images.image_files import ImageFiles
from orchestrator.training.images.socket_paths import keep_socket_paths_short
from orchestrator.training.images.training_crops import TrainingCrops
from orchestrator.training.randomness import kept_randomness, seed_sample

__all__ = ["Conversion", "GreyTransforms", "ImageLoader", "ImageTransforms", "SampleKey", "repeated_keys"]

_PREFETCH_BATCHES = 2  # per process

Conversion = Callable[[bytes], Any]
"""Conversion of an image file to uint8 pixels (C, H, W), or to what another `collate` takes.

It may draw from the random states of its process, and raises `ImageError` for a file that cannot be decoded."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageTransforms:
    """Conversion of an image file to a square of pixels.

    Args:
        image_size: Side of the square, in pixels.
        crop_scale: Smallest and largest share of the area that a training crop covers.
        hflip: Probability that a training image is mirrored.
        color_jitter: Strength of random brightness, contrast and saturation; unused with `auto_augment`.
        auto_augment: timm's name of a policy, such as `rand-m9-mstd0.5-inc1`; empty for none.
        interpolation: `bilinear`, `bicubic` or, for training, `random`.
        crop_pct: Share of the shorter side that an evaluation keeps.
        decoder: Library that decodes and resizes training images, see `dataset.decoder`.
        scaled_decoding: Decodes large JPEG files at a part of their size, see `dataset.scaled_decoding`.
    """

    image_size: int = 224
    crop_scale: tuple[float, float] = (0.08, 1.0)
    hflip: float = 0.5
    color_jitter: float = 0.0
    auto_augment: str = ""
    interpolation: str = "bicubic"
    crop_pct: float = 0.875
    decoder: Decoder = "torchvision"
    scaled_decoding: bool = False

    def for_training(self) -> Conversion:
        """Create the conversion with random crop, mirroring and colours: uint8 (3, image_size, image_size)."""
        crop, colours, last = create_transform(
            self.image_size,
            is_training=True,
            scale=self.crop_scale,
            hflip=self.hflip,
            color_jitter=self.color_jitter,
            auto_augment=self.auto_augment or None,
            interpolation=self.interpolation,
            normalize=False,
            separate=True,
        )
        if self.decoder == "pillow":
            return _WithPillow(Compose([crop, colours, last]))
        return TrainingCrops(crop, colours, scaled_decoding=self.scaled_decoding)

    @property
    def evaluation_interpolation(self) -> str:
        """Interpolation of evaluations, which draw nothing at random."""
        return "bicubic" if self.interpolation == "random" else self.interpolation

    def for_evaluation(self) -> Conversion:
        """Create the conversion with a centre crop, by Pillow: uint8 (3, image_size, image_size)."""
        return _WithPillow(self._centre_crop())

    def _centre_crop(self) -> Callable[[Image.Image], Tensor]:
        transform: Callable[[Image.Image], Tensor] = create_transform(
            self.image_size, interpolation=self.evaluation_interpolation, crop_pct=self.crop_pct, normalize=False
        )
        return transform


class GreyTransforms(ImageTransforms):
    """Conversion of an image file to a square of grey pixels, for networks of one channel."""

    def for_evaluation(self) -> Conversion:
        """Create the conversion with a centre crop: uint8 (1, image_size, image_size)."""
        transform = self._centre_crop()
        return _WithPillow(lambda image: transform(image.convert("L")))


class _WithPillow:
    """Conversion of an image file that decodes it with Pillow.

    Args:
        transform: Conversion of the decoded image.
    """

    def __init__(self, transform: Callable[[Image.Image], Tensor]) -> None:
        self._transform = transform

    def __call__(self, content: bytes) -> Tensor:
        return self._transform(decode_image(content))


class SampleKey(NamedTuple):
    """Key of one sample: position of the image in the split, and the numbers that seed its random draws."""

    place: int
    seed: int = 0
    epoch: int = 0
    copy: int = 0


def repeated_keys(batches: Sequence[Indices], *, seed: int, epoch: int, repeats: int = 1) -> list[list[SampleKey]]:
    """Return the samples of one epoch, batch by batch.

    Args:
        batches: Images of each step, for all ranks; with repeats, images beyond the first N / repeats are replaced by
            further samples of those, one after the other.
        seed: Seed of the trial.
        epoch: Epoch, from 1.
        repeats: Samples of an image within an epoch; with 1 every image comes once.

    Source: Hoffer et al. 2020 (arXiv 1901.09335) for repeated augmentation; the epoch keeps its length, as with timm's
    `RepeatAugSampler`.
    """
    order = np.concatenate(batches) if batches else np.empty(0, np.int64)
    keys = [SampleKey(int(order[place // repeats]), seed, epoch, place % repeats) for place in range(len(order))]
    ends = np.cumsum([0, *map(len, batches)])
    return [keys[start:end] for start, end in itertools.pairwise(ends)]


class ImageLoader:
    """Batches of decoded images, in a given order; the decoding processes are kept from epoch to epoch.

    Args:
        images: Image files.
        conversion: Conversion of an image file to pixels.
        processes: Number of decoding processes; with 0 this process decodes.
        pin_memory: Allocates batches in page-locked memory, which a GPU reads directly.
        collate: Function that joins the samples of a batch; None stacks pixels.
    """

    def __init__(
        self,
        images: EncodedImages | ImageFiles,
        conversion: Conversion,
        *,
        processes: int,
        pin_memory: bool = False,
        collate: Callable[[Sequence[Any]], tuple[Any, Tensor]] | None = None,
    ) -> None:
        self._order = _Order()
        if processes:
            keep_socket_paths_short()
        self._loader: DataLoader[Any] = DataLoader(
            _Decoder(images, conversion),
            batch_sampler=self._order,
            num_workers=processes,
            persistent_workers=processes > 0,
            prefetch_factor=_PREFETCH_BATCHES if processes else None,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # not the one that the training draws from
            collate_fn=collate or _collate,
        )

    def batches(self, keys: Sequence[Sequence[SampleKey]]) -> Iterator[tuple[Any, Tensor]]:
        """Yield uint8 images (B, 3, H, W), channels last in memory, and int64 labels (B,) for each batch of keys.

        Another `collate` has images of its own.

        Raises:
            DataError: An image cannot be decoded.
        """
        self._order.keys = keys
        yield from self._loader


class _Order:
    """Batch sampler of a loader, whose keys are replaced before every pass."""

    def __init__(self) -> None:
        self.keys: Sequence[Sequence[SampleKey]] = ()

    def __iter__(self) -> Iterator[list[SampleKey]]:
        return map(list, self.keys)

    def __len__(self) -> int:
        return len(self.keys)


class _Decoder(Dataset[tuple[Tensor, int]]):
    """Dataset whose items are read, decoded and transformed images."""

    def __init__(self, images: EncodedImages | ImageFiles, conversion: Conversion) -> None:
        self.images = images
        self.conversion = conversion

    def __getitems__(self, keys: Sequence[SampleKey]) -> list[tuple[Any, int]]:
        with kept_randomness():
            return [self._sample(key) for key in keys]

    def _sample(self, key: SampleKey) -> tuple[Any, int]:
        content = self.images[key.place]
        seed_sample(key.seed, key.epoch, key.place, key.copy)
        try:
            return self.conversion(content), int(self.images.labels[key.place])
        except ImageError as error:
            raise DataError(f"image {key.place} cannot be decoded ({error}); prepare the dataset again") from None


def _collate(samples: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Stack samples, channels last as decoders write pixels, in shared memory where another process decodes."""
    rows_first: Tensor = default_collate([pixels.permute(1, 2, 0) for pixels, _ in samples])
    return rows_first.permute(0, 3, 1, 2), torch.tensor([label for _, label in samples])
