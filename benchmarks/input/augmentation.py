"""Augmented images per second with boxes, masks and class maps, beside the same transforms of torchvision alone.

    python benchmarks/input/augmentation.py [--images 24] [--rounds 5] [--json PATH]

The images are the two photographs that ship with scikit-learn, 640 x 427 px, repeated to 640 x 480, each with seven
objects and a class map. The other side composes torchvision's transforms without seeds per image, checks, removal of
empty boxes or types: the ratio is the cost of these. One thread; processor seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_sample_images
from torchvision import tv_tensors
from torchvision.transforms import v2

from orchestrator.training.augmentations.samples import ClassMap
from orchestrator.training.augmentations.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    DetectionTransforms,
    SegmentationTransforms,
)
from orchestrator.training.images.image_loader import SampleKey

Sample = tuple[torch.Tensor, dict[str, Any]]
OBJECTS = 7


def photographs(count: int) -> list[Sample]:
    drawn = np.random.default_rng(0)
    sources = [np.concatenate([source, source[:53]]) for source in load_sample_images().images]
    samples = []
    for number in range(count):
        image = torch.from_numpy(sources[number % len(sources)]).permute(2, 0, 1).contiguous()
        corners = drawn.uniform(0, [500, 380], (OBJECTS, 2))
        boxes = torch.from_numpy(np.concatenate([corners, corners + drawn.uniform(20, 100, (OBJECTS, 2))], 1)).float()
        masks = torch.zeros(OBJECTS, 480, 640, dtype=torch.uint8)
        class_map = torch.zeros(480, 640, dtype=torch.uint8)
        for label, (left, top, right, bottom) in enumerate(boxes.int().tolist()):
            masks[label, top:bottom, left:right] = 1
            class_map[top:bottom, left:right] = label + 1
        target = {"boxes": boxes, "labels": torch.arange(1, OBJECTS + 1), "masks": masks}
        samples.append((image, {**target, "class_map": class_map}))
    return samples


def normalisation() -> list[v2.Transform]:
    to_float = v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True)
    return [to_float, v2.Normalize(list(IMAGENET_MEAN), list(IMAGENET_STD))]


def torchvision_alone(steps: list[v2.Transform]) -> Callable[[Sample, int], object]:
    composed = v2.Compose([*steps, *normalisation()])

    def apply(sample: Sample, _: int) -> object:
        image, target = sample
        size = image.shape[-2:]
        typed = {key: tv_tensors.Mask(target[key]) for key in ("masks",) if key in target}
        if "boxes" in target:
            typed["boxes"] = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=size)
        if "class_map" in target:
            typed["class_map"] = ClassMap(target["class_map"])
        return composed(tv_tensors.Image(image), typed)

    return apply


def cases() -> Iterator[tuple[str, tuple[str, ...], Callable[[Sample, int], object], Callable[[Sample, int], object]]]:
    """Yield name, keys of the target, our transform and torchvision's."""
    flip = v2.RandomHorizontalFlip(1.0)
    resize = v2.Resize(800, max_size=1333)
    for name, keys in (
        ("boxes, 1333 x 800", ("boxes", "labels")),
        ("boxes and masks, 1333 x 800", ("boxes", "labels", "masks")),
    ):
        ours = DetectionTransforms(hflip=1.0).for_training()
        yield (
            name,
            keys,
            lambda sample, place, ours=ours: ours(*sample, SampleKey(place, 0, 1)),
            torchvision_alone([resize, flip]),
        )
    square = DetectionTransforms(square_px=1024, hflip=1.0).for_training()
    keys = ("boxes", "labels", "masks")
    yield (
        "boxes and masks, 1024 x 1024",
        keys,
        lambda sample, place: square(*sample, SampleKey(place, 0, 1)),
        torchvision_alone([v2.Resize([1024, 1024]), flip]),
    )
    scenes = SegmentationTransforms(hflip=1.0).for_training()
    steps = [
        v2.RandomShortestSize(list(range(256, 1025, 32)), max_size=4096),
        v2.RandomCrop(512, pad_if_needed=True),
        flip,
        v2.RandomPhotometricDistort(hue=(-0.1, 0.1)),
    ]
    yield (
        "class maps, 0.5 to 2, crop 512, colours",
        ("class_map",),
        lambda sample, place: scenes(*sample, SampleKey(place, 0, 1)),
        torchvision_alone(steps),
    )


def seconds(apply: Callable[[Sample, int], object], samples: list[Sample]) -> float:
    began = time.process_time()
    for place, sample in enumerate(samples):
        apply(sample, place)
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    images = photographs(arguments.images)
    results = []
    print("| targets | images/s | torchvision alone | ratio (quartiles) |\n|---|---|---|---|")
    for name, keys, ours, theirs in cases():
        samples = [(image, {key: target[key] for key in keys}) for image, target in images]
        seconds(ours, samples[:2]), seconds(theirs, samples[:2])
        pairs = [(seconds(ours, samples), seconds(theirs, samples)) for _ in range(arguments.rounds)]
        speeds = [len(samples) / statistics.median(side) for side in zip(*pairs, strict=True)]
        low, middle, high = statistics.quantiles([other / own for own, other in pairs], n=4)
        print(f"| {name} | {speeds[0]:.0f} | {speeds[1]:.0f} | {middle:.2f} ({low:.2f} to {high:.2f}) |")
        results.append({"targets": name, "images_per_s": speeds, "ratio": [low, middle, high]})
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
