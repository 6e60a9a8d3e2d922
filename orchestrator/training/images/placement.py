"""Placement of a dataset on a worker, once for all trials of a lane."""

from __future__ import annotations

import numpy as np
import torch

from orchestrator.config.sections.dataset import DatasetConfig
from orchestrator.data import ImageDataset, Indices, draw_fraction, split_validation
from orchestrator.data.encoded_images import EncodedImages
from orchestrator.errors import DataError
from orchestrator.training.images.decoded_images import DecodedSplit
from orchestrator.training.images.device_images import DeviceImages, DeviceSplit, Normalisation
from orchestrator.training.images.image_files import ImageFiles
from orchestrator.training.images.image_loader import GreyTransforms, ImageTransforms

__all__ = ["place_dataset", "place_files", "place_split"]


def place_dataset(source: ImageDataset, device: torch.device, config: DatasetConfig) -> DeviceImages:
    """Place the three splits of a sweep on a device.

    Where the test images choose epochs and trials, all training images are used for training, and the test images
    for validation as well. `train_fraction` applies to what is left for training.

    Args:
        source: Result of `open_dataset`.
        device: Device of this rank.
        config: Section `dataset`, which sets how images are split and cropped.
    """
    normalisation = Normalisation.of(config, source)
    labels = source.splits["train"].labels

    def place(split: str, positions: Indices | None = None) -> DeviceSplit | DecodedSplit:
        return place_split(source, split, device, config, normalisation, positions=positions)

    def fraction_of(positions: Indices) -> Indices:
        return draw_fraction(labels, positions, config.train_fraction, config.split_seed)

    if config.select_on == "test":
        train, test = place("train", fraction_of(np.arange(len(labels)))), place("test")
        return DeviceImages(train, test, test, source.class_names)
    kept, held_out = split_validation(labels, config.validation_fraction, config.split_seed)
    return DeviceImages(place("train", fraction_of(kept)), place("train", held_out), place("test"), source.class_names)


def place_split(
    source: ImageDataset,
    split: str,
    device: torch.device,
    config: DatasetConfig,
    normalisation: Normalisation,
    *,
    positions: Indices | None = None,
) -> DeviceSplit | DecodedSplit:
    """Copy small images to the device; image files stay in place and are decoded when they are used.

    Args:
        source: Result of `open_dataset`.
        split: Name of the split.
        device: Device of this rank.
        config: Section `dataset`, which sets how image files are cropped.
        normalisation: Mean and deviation of the pixels.
        positions: Positions of the images to place, (N,); None places all.
    """
    images = source.splits[split]
    if not isinstance(images, EncodedImages):
        return DeviceSplit.copy_of(images, device, normalisation, positions, tta=config.tta)
    transforms = ImageTransforms(
        image_size=config.crop_size,
        interpolation=config.interpolation,
        crop_pct=config.crop_pct,
        decoder=config.decoder,
        scaled_decoding=config.scaled_decoding,
    )
    mean, std = normalisation.on(device)
    chosen = np.arange(len(images)) if positions is None else positions
    return DecodedSplit(images, chosen, transforms, mean, std, config.decode_processes, config.tta)


def place_files(
    files: ImageFiles, device: torch.device, config: DatasetConfig, normalisation: Normalisation
) -> DecodedSplit:
    """Place image files without labels, decoded in this process when they are used; in grey for one channel.

    Args:
        files: Image files.
        device: Target device.
        config: Section `dataset`, which sets how image files are cropped.
        normalisation: Mean and deviation of the pixels.

    Raises:
        DataError: The network reads images of another number of channels than 1 and 3.
    """
    channels = len(normalisation.mean)
    if channels not in (1, 3):
        raise DataError(f"the network reads images of {channels} channels; image files have 1, grey, or 3, RGB")
    kind = ImageTransforms if channels == 3 else GreyTransforms
    transforms = kind(image_size=config.crop_size, interpolation=config.interpolation, crop_pct=config.crop_pct)
    mean, std = normalisation.on(device)
    return DecodedSplit(files, np.arange(len(files)), transforms, mean, std, processes=0, tta=config.tta)
