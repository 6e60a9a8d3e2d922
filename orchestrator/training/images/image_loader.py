"""Large images on their way to a network: decoded and cropped in worker processes, one batch after another.

Every sample draws its own crop and colours from (seed, epoch, image, copy), so what a network sees does not depend on
how many processes decode it nor on how many ranks share it. Normalising, erasing and mixing are left to the device.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from orchestrator.data import Indices
from orchestrator.data.decoding import ImageError, decode_image
from orchestrator.data.encoded_images import EncodedImages
from orchestrator.errors import DataError
from orchestrator.training.images.socket_paths import keep_socket_paths_short

__all__ = ["ImageLoader", "ImageTransforms", "SampleKey", "repeated_keys"]

_PREFETCH_BATCHES = 2  # per process


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageTransforms:
    """How an image file becomes a square of pixels.

    Args:
        image_size: Side of the square, in pixels.
        crop_scale: Smallest and largest share of the area a training crop covers.
        hflip: Chance that a training image is mirrored.
        color_jitter: Strength of random brightness, contrast and saturation; unused beside `auto_augment`.
        auto_augment: timm's name of a policy, such as `rand-m9-mstd0.5-inc1`; empty for none.
        interpolation: `bilinear`, `bicubic` or, for training, `random`.
        crop_pct: Share of the shorter side that the evaluation keeps.
    """

    image_size: int = 224
    crop_scale: tuple[float, float] = (0.08, 1.0)
    hflip: float = 0.5
    color_jitter: float = 0.0
    auto_augment: str = ""
    interpolation: str = "bicubic"
    crop_pct: float = 0.875

    def for_training(self) -> Callable[[Image.Image], Tensor]:
        """Random crop, mirror and colours: uint8 (3, image_size, image_size)."""
        transform: Callable[[Image.Image], Tensor] = create_transform(
            self.image_size,
            is_training=True,
            scale=self.crop_scale,
            hflip=self.hflip,
            color_jitter=self.color_jitter,
            auto_augment=self.auto_augment or None,
            interpolation=self.interpolation,
            normalize=False,
        )
        return transform

    def for_evaluation(self) -> Callable[[Image.Image], Tensor]:
        """The centre: uint8 (3, image_size, image_size)."""
        fixed = "bicubic" if self.interpolation == "random" else self.interpolation
        transform: Callable[[Image.Image], Tensor] = create_transform(
            self.image_size, interpolation=fixed, crop_pct=self.crop_pct, normalize=False
        )
        return transform


class SampleKey(NamedTuple):
    """One look at one image: its position in the split, and what its random draws start from."""

    place: int
    seed: int = 0
    epoch: int = 0
    copy: int = 0


def repeated_keys(batches: Sequence[Indices], *, seed: int, epoch: int, repeats: int = 1) -> list[list[SampleKey]]:
    """The looks of one epoch, batch by batch.

    Args:
        batches: Images of each step, for all ranks; with repeats, images beyond the first N / repeats are replaced by
            further looks at those, one beside the other.
        seed: Of the trial.
        epoch: From 1.
        repeats: Looks at an image within an epoch; 1 sees every image once.

    Source: Hoffer et al. 2020 (arXiv 1901.09335) for repeated augmentation; the epoch keeps its length.
    """
    order = np.concatenate(batches) if batches else np.empty(0, np.int64)
    looks = [SampleKey(int(order[place // repeats]), seed, epoch, place % repeats) for place in range(len(order))]
    ends = np.cumsum([0, *map(len, batches)])
    return [looks[start:end] for start, end in itertools.pairwise(ends)]


class ImageLoader:
    """Batches of decoded images, in the order asked for.

    Its processes live from epoch to epoch.

    Args:
        images: The files.
        transform: Makes a uint8 tensor (3, H, W) of an image.
        processes: Decoding processes; 0 decodes in this one.
        pin_memory: Whether batches lie in memory that a GPU reads directly.
    """

    def __init__(
        self,
        images: EncodedImages,
        transform: Callable[[Image.Image], Tensor],
        *,
        processes: int,
        pin_memory: bool = False,
    ) -> None:
        self._order = _Order()
        if processes:
            keep_socket_paths_short()
        self._loader: DataLoader[Any] = DataLoader(
            _Decoder(images, transform),
            batch_sampler=self._order,
            num_workers=processes,
            persistent_workers=processes > 0,
            prefetch_factor=_PREFETCH_BATCHES if processes else None,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # not the one that the training draws from
            collate_fn=_collate,
        )

    def batches(self, keys: Sequence[Sequence[SampleKey]]) -> Iterator[tuple[Tensor, Tensor]]:
        """uint8 images (B, 3, H, W), channels last in memory, and int64 labels (B,) for each batch of keys.

        Raises:
            DataError: An image cannot be decoded.
        """
        self._order.keys = keys
        yield from self._loader


class _Order:
    """What a loader reads next, set anew for every pass."""

    def __init__(self) -> None:
        self.keys: Sequence[Sequence[SampleKey]] = ()

    def __iter__(self) -> Iterator[list[SampleKey]]:
        return map(list, self.keys)

    def __len__(self) -> int:
        return len(self.keys)


class _Decoder(Dataset[tuple[Tensor, int]]):
    """Reads, decodes and transforms one image."""

    def __init__(self, images: EncodedImages, transform: Callable[[Image.Image], Tensor]) -> None:
        self.images = images
        self.transform = transform

    def __getitem__(self, key: SampleKey) -> tuple[Tensor, int]:
        try:
            picture = decode_image(self.images[key.place])
        except ImageError as error:
            raise DataError(f"image {key.place} cannot be decoded ({error}); prepare the dataset again") from None
        with _own_randomness(key):
            return self.transform(picture), int(self.images.labels[key.place])


@contextlib.contextmanager
def _own_randomness(key: SampleKey) -> Iterator[None]:
    """Seeds for one sample in this process, and gives the former random states back."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    _seed_all(key)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _seed_all(key: SampleKey) -> None:
    """The three generators that transforms draw from."""
    seed = int(np.random.SeedSequence([key.seed, key.epoch, key.place, key.copy]).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)


def _collate(samples: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Channels last, as decoders put pixels out: no value changes its place."""
    rows_first = torch.stack([pixels.permute(1, 2, 0) for pixels, _ in samples])
    return rows_first.permute(0, 3, 1, 2), torch.tensor([label for _, label in samples])
