"""Placement of a dataset on a worker, once for all trials of a lane."""

from __future__ import annotations

import numpy as np
import torch

from orchestrator.config.sections.dataset import DatasetConfig
from orchestrator.data import ArrowImages, Indices, split_validation
from orchestrator.data.encoded_images import EncodedImages
from orchestrator.data.prepared import PreparedDataset
from orchestrator.training.images.decoded_images import DecodedSplit
from orchestrator.training.images.device_images import DeviceImages, DeviceSplit, Normalisation, place_images
from orchestrator.training.images.image_loader import ImageTransforms

__all__ = ["place_dataset", "place_split", "splits_of"]


def place_dataset(source: ArrowImages | PreparedDataset, device: torch.device, config: DatasetConfig) -> DeviceImages:
    """Copy small images to the device; image files stay in place and are decoded when they are used.

    Args:
        source: Result of `open_dataset`.
        device: Device of this rank.
        config: Section `dataset`, which sets how images are split and cropped.
    """
    if config.select_on == "test":
        return _chosen_on_test(source, device, config)
    if isinstance(source, ArrowImages):
        return place_images(
            source, device, validation_fraction=config.validation_fraction, split_seed=config.split_seed
        )
    train = source.files("train")
    kept, held_out = split_validation(train.labels, config.validation_fraction, config.split_seed)
    normalisation = Normalisation.of(source)
    test = source.files("test")
    return DeviceImages(
        train=_decoded(train, kept, device, config, normalisation),
        validation=_decoded(train, held_out, device, config, normalisation),
        test=_decoded(test, np.arange(len(test)), device, config, normalisation),
        class_names=source.manifest.class_names,
    )


def _chosen_on_test(source: ArrowImages | PreparedDataset, device: torch.device, config: DatasetConfig) -> DeviceImages:
    """Place all training images for training, and the test images for validation as well."""
    train, test = (place_split(source, name, device, config, Normalisation.of(source)) for name in ("train", "test"))
    return DeviceImages(train, test, test, splits_of(source)[1])


def splits_of(source: ArrowImages | PreparedDataset) -> tuple[list[str], tuple[str, ...]]:
    """Return the names of the splits with labels, and of the classes."""
    if isinstance(source, ArrowImages):
        return list(source.splits), source.class_names
    return [name for name, split in source.manifest.splits.items() if split.per_class], source.manifest.class_names


def place_split(
    source: ArrowImages | PreparedDataset,
    split: str,
    device: torch.device,
    config: DatasetConfig,
    normalisation: Normalisation,
) -> DeviceSplit | DecodedSplit:
    """Place a whole split.

    Args:
        source: Result of `open_dataset`.
        split: Name of the split, see `splits_of`.
        device: Device of this rank.
        config: Section `dataset`, which sets how image files are cropped.
        normalisation: Mean and deviation of the pixels.
    """
    if isinstance(source, PreparedDataset):
        files = source.files(split)
        return _decoded(files, np.arange(len(files)), device, config, normalisation)
    return DeviceSplit.copy_of(source.splits[split], device, normalisation)


def _decoded(
    files: EncodedImages,
    positions: Indices,
    device: torch.device,
    config: DatasetConfig,
    normalisation: Normalisation,
) -> DecodedSplit:
    transforms = ImageTransforms(
        image_size=config.crop_size, interpolation=config.interpolation, crop_pct=config.crop_pct
    )
    mean, std = normalisation.on(device)
    return DecodedSplit(files, positions, transforms, mean, std, config.decode_processes)
