"""Images per processor second of SpatialSweep's loader on shards against timm's on files: same images and crops.

    python benchmarks/input/image_loading.py [--images 256] [--width 500] [--jitter 0.4] [--processes 2] [--rounds 5]
                                             [--json PATH]

The images are parts of the two photographs that ship with scikit-learn, of 500 x 375 px as most of ImageNet's, or
enlarged to another `--width`. All loaders decode, crop at random to 224 px, mirror and jitter colours, and yield uint8
batches; they take turns, and the processor seconds of this process and of the decoding processes are counted.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import create_dataset, create_loader

from orchestrator.data import epoch_batches
from orchestrator.data.encoded_images import EncodedImages, write_encoded_shard
from orchestrator.training.images.image_loader import ImageLoader, ImageTransforms, repeated_keys

SIDE, BATCH = 224, 32
OURS: dict[str, dict[str, Any]] = {
    "ours, decoder pillow": {"decoder": "pillow"},
    "ours, decoder torchvision": {},
    "ours, scaled decoding": {"scaled_decoding": True},
}


def photographs(count: int, width: int = 500) -> list[bytes]:
    drawn, files = np.random.default_rng(0), []
    sources = [Image.fromarray(source) for source in load_sample_images().images]
    for number in range(count):
        source = sources[number % len(sources)]
        left, top = drawn.integers(0, source.width - 500), drawn.integers(0, source.height - 375)
        target = io.BytesIO()
        part = source.crop((left, top, left + 500, top + 375))
        part = part if width == 500 else part.resize((width, width * 3 // 4), Image.Resampling.LANCZOS)
        part.save(target, "JPEG", quality=90)
        files.append(target.getvalue())
    return files


def timm_over_files(folder: Path, files: list[bytes], processes: int, jitter: float) -> Callable[[], int]:
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
        color_jitter=jitter,
        interpolation="bicubic",
        num_workers=processes,
        use_prefetcher=True,
        persistent_workers=True,
        device=torch.device("cpu"),
        pin_memory=False,
    ).loader  # without the normalisation, which SpatialSweep's loader leaves to the device as well

    return lambda: sum(len(images) for images, _ in loader)


def ours_over_shards(
    folder: Path, files: list[bytes], processes: int, jitter: float, **options: Any
) -> Callable[[], int]:
    write_encoded_shard(folder / "train.arrow", [(content, number % 2) for number, content in enumerate(files)])
    transforms = ImageTransforms(image_size=SIDE, color_jitter=jitter, **options)
    images = EncodedImages([folder / "train.arrow"])
    loader = ImageLoader(images, transforms.for_training(), processes=processes)
    keys = repeated_keys(epoch_batches(len(images), BATCH, seed=0, epoch=1), seed=0, epoch=1)
    return lambda: sum(len(batch) for batch, _ in loader.batches(keys))


def processor_s() -> float:
    """Return the processor seconds of this process and its children so far."""
    me = psutil.Process()
    return sum(sum(each.cpu_times()[:2]) for each in [me, *me.children(recursive=True)])


def images_per_s(epoch: Callable[[], int]) -> float:
    started = processor_s()
    count = epoch()
    return count / (processor_s() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--jitter", type=float, default=0.4)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    files = photographs(given.images, given.width)
    with tempfile.TemporaryDirectory() as scratch:
        usual = files, given.processes, given.jitter
        epochs = {"timm over files": timm_over_files(Path(scratch) / "files", *usual)} | {
            name: ours_over_shards(Path(scratch) / "shards", *usual, **options) for name, options in OURS.items()
        }
        for epoch in epochs.values():
            epoch()  # starts the processes
        rounds = [{name: images_per_s(epoch) for name, epoch in epochs.items()} for _ in range(given.rounds)]
    result: dict[str, Any] = {"photograph": f"{given.width} x {given.width * 3 // 4} px", "jitter": given.jitter}
    for name in epochs:
        ratios = [each[name] / each["timm over files"] for each in rounds]
        low, middle, high = statistics.quantiles(ratios, n=4)
        rate = statistics.median(each[name] for each in rounds)
        result[name] = {"images_per_processor_s": rate, "ratio": middle, "quartiles": [low, high]}
    print(json.dumps(result, indent=2))
    if given.json:
        given.json.write_text(json.dumps(result, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
