"""Images per second of SpatialSweep's loader on shards against timm's on files: same images, crops and processes.

    python benchmarks/input/image_loading.py [--images 256] [--processes 2] [--rounds 5] [--json PATH]

The images are the two photographs that ship with scikit-learn, cut to the usual size of ImageNet's (500 x 375). Both
loaders decode, crop at random to 224 px, mirror and jitter colours, and yield uint8 batches.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import create_dataset, create_loader

from orchestrator.data import epoch_batches
from orchestrator.data.encoded_images import EncodedImages, write_encoded_shard
from orchestrator.training.images.image_loader import ImageLoader, ImageTransforms, repeated_keys

SIDE, BATCH = 224, 32


def photographs(count: int) -> list[bytes]:
    drawn, files = np.random.default_rng(0), []
    sources = [Image.fromarray(source) for source in load_sample_images().images]
    for number in range(count):
        source = sources[number % len(sources)]
        left, top = drawn.integers(0, source.width - 500), drawn.integers(0, source.height - 375)
        target = io.BytesIO()
        source.crop((left, top, left + 500, top + 375)).save(target, "JPEG", quality=90)
        files.append(target.getvalue())
    return files


def timm_over_files(folder: Path, files: list[bytes], processes: int) -> Callable[[], int]:
    for number, content in enumerate(files):
        path = folder / "train" / str(number % 2) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    loader = create_loader(
        create_dataset("", root=str(folder), split="train"),
        input_size=(3, SIDE, SIDE),
        batch_size=BATCH,
        is_training=True,
        no_aug=False,
        color_jitter=0.4,
        interpolation="bicubic",
        num_workers=processes,
        use_prefetcher=True,
        persistent_workers=True,
        device=torch.device("cpu"),
        pin_memory=False,
    ).loader  # without the normalisation, which SpatialSweep's loader leaves to the device as well

    return lambda: sum(len(images) for images, _ in loader)


def ours_over_shards(folder: Path, files: list[bytes], processes: int) -> Callable[[], int]:
    write_encoded_shard(folder / "train.arrow", [(content, number % 2) for number, content in enumerate(files)])
    transforms = ImageTransforms(image_size=SIDE, color_jitter=0.4)
    images = EncodedImages([folder / "train.arrow"])
    loader = ImageLoader(images, transforms.for_training(), processes=processes)
    keys = repeated_keys(epoch_batches(len(images), BATCH, seed=0, epoch=1), seed=0, epoch=1)
    return lambda: sum(len(batch) for batch, _ in loader.batches(keys))


def images_per_s(epoch: Callable[[], int]) -> float:
    started = time.perf_counter()
    count = epoch()
    return count / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    files = photographs(given.images)
    with tempfile.TemporaryDirectory() as scratch:
        epochs = {
            "timm over files": timm_over_files(Path(scratch) / "files", files, given.processes),
            "ours over shards": ours_over_shards(Path(scratch) / "shards", files, given.processes),
        }
        for epoch in epochs.values():
            epoch()  # starts the processes
        rounds = [{name: images_per_s(epoch) for name, epoch in epochs.items()} for _ in range(given.rounds)]
    theirs, ours = ([each[name] for each in rounds] for name in epochs)
    ratios = [ours_rate / their_rate for their_rate, ours_rate in zip(theirs, ours, strict=True)]
    result = {
        "timm_images_per_s": statistics.median(theirs),
        "ours_images_per_s": statistics.median(ours),
        "ratio": statistics.median(ratios),
        "ratio_lowest": min(ratios),
        "ratio_highest": max(ratios),
        "processes": given.processes,
    }
    print(json.dumps(result, indent=2))
    if given.json:
        given.json.write_text(json.dumps(result, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
