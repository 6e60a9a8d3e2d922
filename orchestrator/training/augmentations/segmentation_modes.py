"""Prediction of class maps at the original size: whole images or sliding windows, several scales, mirror images.

Source: mmsegmentation 0.19, `EncoderDecoder.whole_inference`, `slide_inference` and `aug_test`. The logits of each view
are kept at the size of the network's input, and resized to that of the image some rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from orchestrator.errors import DataError
from orchestrator.training.augmentations.geometry import padded_size
from orchestrator.training.augmentations.original_size import resized_rows
from orchestrator.training.augmentations.transforms import SegmentationTransforms

__all__ = ["SegmentationMode", "predict_windows"]


@dataclass(frozen=True, kw_only=True)
class SegmentationMode:
    """Settings with which class maps are predicted.

    Args:
        mode: `whole` for one forward pass of the image, `slide` for overlapping windows.
        crop_px: Side of a window, in pixels.
        stride_px: Distance of two windows, in pixels; at most `crop_px`.
        factors: Scales at which the image is predicted, as factors of the size of the transforms.
        hflip: Averages with the mirror image.

    Raises:
        DataError: A setting is out of its range or unknown.
    """

    mode: Literal["whole", "slide"] = "whole"
    crop_px: int = 512
    stride_px: int = 341
    factors: tuple[float, ...] = (1.0,)
    hflip: bool = False

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.mode not in ("whole", "slide"):
            raise DataError(f"mode: unknown {self.mode!r}; use whole or slide")
        if not 1 <= self.stride_px <= self.crop_px:
            raise DataError(f"stride_px: got {self.stride_px}; it is from 1 to crop_px, {self.crop_px}")
        if not self.factors or min(self.factors) <= 0:
            raise DataError(f"factors: got {self.factors}; give one factor above 0 or more")

    @torch.no_grad()
    def class_map(
        self,
        predict: Callable[[Tensor], Tensor],
        image: Tensor,
        transforms: SegmentationTransforms,
        device: torch.device | None = None,
    ) -> Tensor:
        """Predict the class of every pixel of an image: int64 (H, W).

        Class probabilities are averaged over scales and mirror images.

        Args:
            predict: Network in evaluation mode: images (B, 3, h, w) -> logits (B, K, h', w').
            image: Pixels of the original image, (3, H, W).
            transforms: Settings that determine size and normalisation.
            device: Device of the network; None for that of the image.
        """
        views = [
            self._logits(predict, view.to(device or image.device), size, flipped, transforms.multiple)
            for view, size in self._views(image, transforms)
            for flipped in (False, True)[: 1 + self.hflip]
        ]
        height, width = image.shape[-2:]
        parts = zip(*(resized_rows(view, (height, width)) for view in views), strict=True)
        return torch.cat([_most_likely(part) for part in parts])

    def _views(self, image: Tensor, transforms: SegmentationTransforms) -> Iterator[tuple[Tensor, tuple[int, int]]]:
        """Yield the padded image at each scale, with its size without padding."""
        for factor in self.factors:
            view, target = transforms.for_evaluation(factor)(image, {})
            height, width = target["input_size"].tolist()
            yield view, (height, width)

    def _logits(
        self,
        predict: Callable[[Tensor], Tensor],
        image: Tensor,
        size: tuple[int, int],
        flipped: bool,
        multiple: int,
    ) -> Tensor:
        """Return the logits of one view, not mirrored and without padding, (K, h, w)."""
        if flipped:  # the padding stays at the right
            image = torch.cat([image[:, :, : size[1]].flip(2), image[:, :, size[1] :]], dim=2)
        if self.mode == "slide":
            inside = image[None, :, : size[0], : size[1]]
            stride_px = self.stride_px
            logits = predict_windows(predict, inside, crop_px=self.crop_px, stride_px=stride_px, multiple=multiple)[0]
        else:
            logits = _at_input_size(predict(image[None]), image.shape[-2:])[0, :, : size[0], : size[1]]
        return logits.flip(2) if flipped else logits


def predict_windows(
    predict: Callable[[Tensor], Tensor], images: Tensor, *, crop_px: int, stride_px: int, multiple: int = 1
) -> Tensor:
    """Predict overlapping windows and return the logits averaged over the windows that hold a pixel, (B, K, H, W).

    Args:
        predict: Network in evaluation mode: images (B, C, h, w) -> logits (B, K, h', w').
        images: Normalised images of one size, (B, C, H, W).
        crop_px: Side of a window, in pixels; a shorter side of the images is covered by one window.
        stride_px: Distance of two windows, in pixels; at most `crop_px`.
        multiple: Number of pixels that divides height and width of a window after padding.
    """
    total: Tensor | None = None
    counts = images.new_zeros(images.shape[-2:], dtype=torch.float32)
    for rows in _windows(images.shape[-2], crop_px, stride_px):
        for columns in _windows(images.shape[-1], crop_px, stride_px):
            window = images[:, :, rows, columns]
            height, width = window.shape[-2:]
            below, right = padded_size((height, width), multiple)
            padded = pad(window, (0, right - width, 0, below - height))
            logits = _at_input_size(predict(padded), (below, right))[:, :, :height, :width]
            if total is None:
                total = logits.new_zeros(*logits.shape[:2], *images.shape[-2:])
            total[:, :, rows, columns] += logits
            counts[rows, columns] += 1
    assert total is not None  # an image has a window
    return total / counts


def _windows(length: int, crop: int, stride: int) -> list[slice]:
    """Return the windows along one side; the last one ends at the border."""
    number = max(length - crop + stride - 1, 0) // stride + 1
    ends = [min(place * stride + crop, length) for place in range(number)]
    return [slice(max(end - crop, 0), end) for end in ends]


def _at_input_size(logits: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Return logits as float32 at the size of the network's input."""
    logits = logits.float()
    if logits.shape[-2:] == tuple(size):
        return logits
    return interpolate(logits, tuple(size), mode="bilinear", align_corners=False)


def _most_likely(views: tuple[Tensor, ...]) -> Tensor:
    """Return the class with the largest probability, averaged over views of the same rows."""
    if len(views) == 1:
        return views[0].argmax(dim=0)  # that of the largest probability, since softmax keeps the order
    return torch.stack([view.softmax(dim=0) for view in views]).mean(dim=0).argmax(dim=0)
