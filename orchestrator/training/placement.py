"""The images of a sweep as its workers hold them, once for all trials of a lane."""

from __future__ import annotations

import numpy as np
import torch

from orchestrator.config.schema import DatasetConfig
from orchestrator.data import ArrowImages, Indices, split_validation
from orchestrator.data.encoded_images import EncodedImages
from orchestrator.data.prepared import PreparedDataset
from orchestrator.training.decoded_images import DecodedSplit
from orchestrator.training.device_images import DeviceImages, place_images
from orchestrator.training.image_loader import ImageTransforms

__all__ = ["place_dataset"]


def place_dataset(source: ArrowImages | PreparedDataset, device: torch.device, config: DatasetConfig) -> DeviceImages:
    """Small images are copied to the device; image files stay where they are and are decoded when they are needed.

    Args:
        source: As `open_dataset` gives it.
        device: Of this rank.
        config: How the images are split and cropped.
    """
    if isinstance(source, ArrowImages):
        return place_images(
            source, device, validation_fraction=config.validation_fraction, split_seed=config.split_seed
        )
    train, test = source.files("train"), source.files("test")
    kept, held_out = split_validation(train.labels, config.validation_fraction, config.split_seed)
    scale = torch.tensor([source.manifest.mean, source.manifest.std], device=device).view(2, 1, -1, 1, 1) * 255
    transforms = ImageTransforms(
        image_size=config.crop_size, interpolation=config.interpolation, crop_pct=config.crop_pct
    )

    def split(files: EncodedImages, positions: Indices) -> DecodedSplit:
        return DecodedSplit(files, positions, transforms, scale[0], scale[1], config.decode_processes)

    return DeviceImages(
        train=split(train, kept),
        validation=split(train, held_out),
        test=split(test, np.arange(len(test))),
        class_names=source.manifest.class_names,
    )
