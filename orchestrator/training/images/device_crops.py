"""Training crops of JPEG files that are decoded on a GPU (nvJPEG).

Decoding processes read headers and draw; they send the files as they are, and the crops of files that are no plain
JPEG. The device decodes, crops, resizes, mirrors and colours.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import InterpolationMode

from orchestrator.data.decoding import EncodedImage, ImageError
from orchestrator.errors import first_line
from orchestrator.training.augmentations.colour_jitter import ColourStep, change_colours
from orchestrator.training.images.training_crops import Draw, TrainingCrops, resized_as_by_pillow

__all__ = ["DeferredCrops", "EncodedBatch", "crops_on_device", "encoded_batch"]

_LOG = logging.getLogger(__name__)

Changes = tuple[Draw, list[ColourStep]]
Deferred = tuple[Tensor, Changes | None]
"""Bytes of a JPEG file with its changes, or the pixels of a finished crop, in rows, with None."""


@dataclass(frozen=True)
class EncodedBatch:
    """Samples of a batch before they are decoded.

    Args:
        content: Bytes of all samples, one after the other, uint8, (n,).
        lengths: Number of bytes of each sample.
        changes: Changes of each sample; None for a finished crop.
    """

    content: Tensor
    lengths: list[int]
    changes: list[Changes | None]


class DeferredCrops:
    """Draws of a training crop without its pixels: bytes of a file -> `Deferred`.

    Args:
        crops: Crops, whose colours are those of `ColorJitter` alone.
    """

    def __init__(self, crops: TrainingCrops) -> None:
        self._crops = crops

    def __call__(self, content: bytes) -> Deferred:
        """Read the header of an image file and draw its changes.

        Raises:
            ImageError: It cannot be decoded, or its header cannot be read.
        """
        image = EncodedImage(content)
        if not image.is_plain_jpeg:
            return self._crops.changed(image).permute(1, 2, 0).reshape(-1), None
        draw = self._crops.draw(image)
        return torch.frombuffer(bytearray(content), dtype=torch.uint8), (draw, self._crops.draw_colours())


def encoded_batch(samples: Sequence[tuple[Deferred, int]]) -> tuple[EncodedBatch, Tensor]:
    """Join samples; their labels are int64 (B,)."""
    parts = [content for (content, _), _ in samples]
    batch = EncodedBatch(torch.cat(parts), list(map(len, parts)), [changes for (_, changes), _ in samples])
    return batch, torch.tensor([label for _, label in samples])


def crops_on_device(batch: EncodedBatch, size: tuple[int, int], device: torch.device) -> Tensor:
    """Decode and change the samples of a batch: uint8 (B, 3, *size), on the device.

    Args:
        batch: Samples.
        size: Height and width of the crops.
        device: Device, which decodes where it is a GPU.

    Raises:
        ImageError: A file cannot be decoded; the text has its position in the batch.
    """
    parts = batch.content.split(batch.lengths)
    decoded = _decoded({place: part for place, part in enumerate(parts) if batch.changes[place] is not None}, device)
    crops = []
    for place, (part, changes) in enumerate(zip(parts, batch.changes, strict=True)):
        if changes is None:
            crops.append(part.view(*size, 3).permute(2, 0, 1).to(device))
        else:
            crops.append(_changed(decoded[place], size, *changes))
    return torch.stack(crops)


def _decoded(files: dict[int, Tensor], device: torch.device) -> dict[int, Tensor]:
    """Decode JPEG files to uint8 (3, H, W) on the device; by the CPU where the GPU refuses one of them."""
    if files and device.type == "cuda":
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                images = decode_jpeg(list(files.values()), ImageReadMode.RGB, device=device)
            return dict(zip(files, images, strict=True))
        except RuntimeError as error:
            _LOG.warning("nvJPEG refuses a batch, which the CPU decodes instead: %s", first_line(error))
    found = {}
    for place, file in files.items():
        try:
            rows = EncodedImage(file.numpy().tobytes()).pixels()
        except ImageError as error:
            raise ImageError(f"{error}, sample {place} of its batch") from None
        found[place] = torch.from_numpy(rows).permute(2, 0, 1).to(device)
    return found


def _changed(pixels: Tensor, size: tuple[int, int], draw: Draw, colours: list[ColourStep]) -> Tensor:
    region = pixels[:, draw.top : draw.top + draw.height, draw.left : draw.left + draw.width]
    crop = resized_as_by_pillow(region, size, InterpolationMode(draw.mode))
    return change_colours(crop.flip(2) if draw.mirrored else crop, colours)
