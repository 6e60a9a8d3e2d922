"""Augmented small images per second: whole batches on the device, against torchvision's transforms in a DataLoader.

    python benchmarks/input/input_pipeline.py [--images 20000] [--processes 2] [--rounds 5] [--device cpu] [--json PATH]

Both apply the same to 32 x 32 images in batches of 128: pad by 4 and crop, mirror, erase a quarter, normalise; every
image has its own random numbers. The DataLoader has two processes, SpatialSweep the threads of this one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2 as transforms

from orchestrator.data import epoch_batches
from orchestrator.training.images.batch_augment import BatchAugmentation
from orchestrator.training.images.device_images import DeviceSplit
from orchestrator.training.images.training_batches import ResidentBatches
from orchestrator.training.workers import Workers

BATCH = 128
MEAN, STD = (0.507, 0.487, 0.441), (0.267, 0.256, 0.276)


class Images(Dataset[tuple[Tensor, int]]):
    """Dataset of uint8 images with a transform per image."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToDtype(torch.float32, scale=True),
                transforms.Normalize(MEAN, STD),
                transforms.RandomErasing(0.25, scale=(0.02, 1 / 3), ratio=(0.3, 1 / 0.3), value="random"),
            ]
        )

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.pixels[index]), index % 10


def torchvision_epoch(pixels: Tensor, processes: int, device: torch.device) -> Callable[[], int]:
    loader = DataLoader(
        Images(pixels),
        BATCH,
        shuffle=True,
        num_workers=processes,
        persistent_workers=True,
        pin_memory=device.type == "cuda",
    )
    return lambda: sum(len(images.to(device)) for images, _ in loader)


def our_epoch(pixels: Tensor, device: torch.device) -> Callable[[], int]:
    mean, std = (255 * torch.tensor(numbers, device=device).view(1, 3, 1, 1) for numbers in (MEAN, STD))
    split = DeviceSplit(pixels.to(device), torch.arange(len(pixels), device=device) % 10, mean, std)
    augmentation = BatchAugmentation(crop_padding=4, hflip=0.5, erasing=0.25)
    batches = ResidentBatches(split, augmentation, Workers(device=device), num_classes=10, seed=0)

    def epoch() -> int:
        order = epoch_batches(len(pixels), BATCH, seed=0, epoch=1)
        seen = sum(len(images) for images, _ in batches.epoch(1, order))
        if device.type == "cuda":
            torch.cuda.synchronize()
        return seen

    return epoch


def images_per_s(epoch: Callable[[], int]) -> float:
    started = time.perf_counter()
    count = epoch()
    return count / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (given.images, 3, 32, 32), dtype=np.uint8))
    theirs, ours = torchvision_epoch(pixels, given.processes, given.device), our_epoch(pixels, given.device)
    theirs(), ours()  # starts the processes
    rounds = [(images_per_s(theirs), images_per_s(ours)) for _ in range(given.rounds)]
    ratios = [ours_rate / their_rate for their_rate, ours_rate in rounds]
    result = {
        "torchvision_images_per_s": statistics.median(rate for rate, _ in rounds),
        "ours_images_per_s": statistics.median(rate for _, rate in rounds),
        "ratio": statistics.median(ratios),
        "ratio_lowest": min(ratios),
        "ratio_highest": max(ratios),
        "processes": given.processes,
        "device": str(given.device),
    }
    print(json.dumps(result, indent=2))
    if given.json:
        given.json.write_text(json.dumps(result, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
