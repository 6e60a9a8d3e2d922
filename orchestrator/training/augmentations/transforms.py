"""Settings of detection and segmentation, and the transforms that follow from them.

A training transform draws from (seed, epoch, image, copy) alone: a resumed epoch draws the same, on any rank and in any
process. An evaluation transform draws nothing and keeps the target at the original size, at which predictions are
scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from orchestrator.errors import DataError
from orchestrator.training.augmentations.colours import PhotometricDistortion
from orchestrator.training.augmentations.geometry import ClassCrop, KeepRatioResize, PadRight
from orchestrator.training.augmentations.samples import Target, plain, typed, without_empty_boxes
from orchestrator.training.images.image_loader import SampleKey
from orchestrator.training.randomness import sample_randomness

__all__ = ["DetectionTransforms", "EvaluationTransform", "SegmentationTransforms", "TrainingTransform"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Channels = tuple[float, float, float]


class TrainingTransform:
    """Random changes of an image and its target, determined by the sample's key.

    Args:
        steps: Transforms, in their order.
    """

    def __init__(self, steps: Sequence[v2.Transform]) -> None:
        self._steps = v2.Compose(list(steps))

    def __call__(self, image: Tensor, target: Target, key: SampleKey) -> tuple[Tensor, Target]:
        """Transform a sample; boxes that become empty are removed.

        Args:
            image: Pixels, uint8 or float, (3, H, W).
            target: Annotations.
            key: Key of the sample, from which all draws follow.

        Raises:
            DataError: The annotations do not fit the image.
        """
        image, target = typed(image, target)
        with sample_randomness(key.seed, key.epoch, key.place, key.copy):
            image, changed = self._steps(image, target)
        return plain(image, without_empty_boxes(changed, target))


class EvaluationTransform:
    """Resized, normalised and padded images, with targets at the original size.

    Args:
        resize: Transform that determines the size.
        after: Transforms after it; padding is the only one that changes the size.
    """

    def __init__(self, resize: v2.Transform, after: Sequence[v2.Transform]) -> None:
        self._resize, self._after = resize, v2.Compose(list(after))

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        """Transform an image; the target gets the sizes that `original_size` functions need.

        Args:
            image: Pixels, uint8 or float, (3, H, W).
            target: Annotations, which are kept.

        Returns:
            The image, and the target with `original_size` and `input_size`: height and width before the transform, and
            after it without padding, int64 (2,).

        Raises:
            DataError: The annotations do not fit the image.
        """
        typed(image, target)
        resized = self._resize(tv_tensors.Image(image))
        sizes = {"original_size": torch.tensor(image.shape[-2:]), "input_size": torch.tensor(resized.shape[-2:])}
        return self._after(resized).as_subclass(Tensor), {**target, **sizes}


@dataclass(frozen=True, kw_only=True)
class DetectionTransforms:
    """Settings for boxes, with or without masks.

    Args:
        short_px: Bound of the shorter side, in pixels; images are resized to within both bounds and keep their ratio.
        long_px: Bound of the longer side, in pixels.
        square_px: Side of a square to which all images are resized without keeping their ratio; 0 keeps the ratio.
        hflip: Probability that a training image is mirrored.
        photometric: Changes the colours of training images at random.
        mean: Mean per channel of pixels in 0..1.
        std: Deviation per channel of pixels in 0..1.
        normalise: Subtracts the mean and divides by the deviation; without it images stay as they are, for a network
            that normalises.
        multiple: Number of pixels that divides height and width of an image after padding.

    Raises:
        DataError: A setting is out of its range.
    """

    short_px: int = 800
    long_px: int = 1333
    square_px: int = 0
    hflip: float = 0.5
    photometric: bool = False
    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD
    normalise: bool = True
    multiple: int = 1

    def __post_init__(self) -> None:
        """Check the settings."""
        _check_positive(self, "short_px", "multiple")
        _check_probability("hflip", self.hflip)
        if self.long_px < self.short_px:
            raise DataError(f"long_px: got {self.long_px}; it is at least short_px, {self.short_px}")
        if self.square_px < 0:
            raise DataError(f"square_px: got {self.square_px}; give a number of pixels, or 0 to keep the ratio")

    def for_training(self) -> TrainingTransform:
        """Create the transform of training images."""
        distortion = [PhotometricDistortion(permute_channels=True)] if self.photometric else []
        return TrainingTransform([self._resize(), v2.RandomHorizontalFlip(self.hflip), *distortion, *self._last()])

    def for_evaluation(self) -> EvaluationTransform:
        """Create the transform of evaluated images: one scale, not mirrored."""
        return EvaluationTransform(self._resize(), self._last())

    def _resize(self) -> v2.Transform:
        if self.square_px:
            return v2.Resize([self.square_px, self.square_px], antialias=True)
        return KeepRatioResize(self.short_px, self.long_px)

    def _last(self) -> list[v2.Transform]:
        return [*_normalisation(self.normalise, self.mean, self.std), PadRight(multiple=self.multiple)]


@dataclass(frozen=True, kw_only=True)
class SegmentationTransforms:
    """Settings for class maps.

    Args:
        short_px: Bound of the shorter side at factor 1, in pixels.
        long_px: Bound of the longer side at factor 1, in pixels.
        factors: Smallest and largest factor of both bounds in training.
        crop_px: Side of a training crop, in pixels; smaller images are padded to it.
        cat_max_ratio: Largest share of one class in a training crop, see `ClassCrop`.
        hflip: Probability that a training image is mirrored.
        photometric: Changes the colours of training images at random.
        mean: Mean per channel of pixels in 0..1.
        std: Deviation per channel of pixels in 0..1.
        normalise: Subtracts the mean and divides by the deviation.
        multiple: Number of pixels that divides height and width of an evaluated image after padding.

    Raises:
        DataError: A setting is out of its range.
    """

    short_px: int = 512
    long_px: int = 2048
    factors: tuple[float, float] = (0.5, 2.0)
    crop_px: int = 512
    cat_max_ratio: float = 0.75
    hflip: float = 0.5
    photometric: bool = True
    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD
    normalise: bool = True
    multiple: int = 32

    def __post_init__(self) -> None:
        """Check the settings."""
        _check_positive(self, "short_px", "crop_px", "multiple")
        _check_probability("hflip", self.hflip)
        if self.long_px < self.short_px:
            raise DataError(f"long_px: got {self.long_px}; it is at least short_px, {self.short_px}")
        low, high = self.factors
        if not 0 < low <= high or int(self.short_px * low) < 1:
            raise DataError(f"factors: got {self.factors}; give the smallest, above 0, and the largest")
        if not 0 < self.cat_max_ratio <= 1:
            raise DataError(f"cat_max_ratio: got {self.cat_max_ratio}; it is above 0 and at most 1, which accepts all")

    def for_training(self) -> TrainingTransform:
        """Create the transform of training images: squares of `crop_px`."""
        distortion = [PhotometricDistortion(permute_channels=False)] if self.photometric else []
        return TrainingTransform(
            [
                KeepRatioResize(self.short_px, self.long_px, self.factors),
                ClassCrop(self.crop_px, self.cat_max_ratio),
                v2.RandomHorizontalFlip(self.hflip),
                *distortion,
                *_normalisation(self.normalise, self.mean, self.std),
                PadRight(self.crop_px),
            ]
        )

    def for_evaluation(self, factor: float = 1.0) -> EvaluationTransform:
        """Create the transform of evaluated images.

        Args:
            factor: Factor of both bounds.
        """
        resize = KeepRatioResize(self.short_px, self.long_px, (factor, factor))
        normalisation = _normalisation(self.normalise, self.mean, self.std)
        return EvaluationTransform(resize, [*normalisation, PadRight(multiple=self.multiple)])


def _normalisation(wanted: bool, mean: Channels, std: Channels) -> list[v2.Transform]:
    if not wanted:
        return []
    to_float = v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True)
    return [to_float, v2.Normalize(list(mean), list(std))]


def _check_positive(settings: object, *names: str) -> None:
    for name in names:
        if getattr(settings, name) < 1:
            raise DataError(f"{name}: got {getattr(settings, name)}; it is at least 1")


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise DataError(f"{name}: got {value}; a probability is between 0 and 1")
