"""Speed of the conversion of datasets: CIFAR-10 at full size, and photographs in this process and in Ray tasks.

    python benchmarks/input/data_prepare.py [--photos 2000] [--json FILE]

The images are synthetic; photographs are 500 x 375 px and about 84 kB, a little less than ImageNet's.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from orchestrator.data.conversion.prepare import prepare, run_here
from orchestrator.runtime.conversion_tasks import ray_tasks

RECORD_BYTES = 1 + 3 * 32 * 32
KINDS = 4
IMAGES_PER_SHARD = 128


def make_cifar(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        records = generator.integers(0, 256, (10_000, RECORD_BYTES), dtype=np.uint8)
        records[:, 0] = np.arange(len(records)) % 10
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    (folder / "batches.meta.txt").write_text("\n".join("abcdefghij"))


def photograph(generator: np.random.Generator) -> bytes:
    """Create soft shapes with noise, which compress like a photograph."""
    shapes = Image.fromarray(generator.integers(0, 256, (47, 63, 3), dtype=np.uint8)).resize((500, 375))
    noise = generator.integers(-14, 14, (375, 500, 3))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(np.asarray(shapes) + noise, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def make_photos(folder: Path, count: int) -> None:
    generator = np.random.default_rng(0)
    different = [photograph(generator) for _ in range(8)]
    for number in range(count):
        split = "val" if number % 10 == 0 else "train"
        place = folder / split / f"kind{number // 10 % KINDS}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:06d}.jpg").write_bytes(different[number % len(different)])


def measure(photos: int, folder: Path) -> dict[str, float]:
    cifar, tree = folder / "cifar", folder / "photos"
    cifar.mkdir()
    make_cifar(cifar)
    make_photos(tree, photos)
    result = {}
    started = time.perf_counter()
    prepare("cifar10", cifar, str(folder / "cifar-to"))
    result["cifar10_images_per_s"] = 60_000 / (time.perf_counter() - started)
    started = time.perf_counter()
    prepare("folder", tree, str(folder / "here"), images_per_shard=IMAGES_PER_SHARD, run=run_here)
    result["photos_here_per_s"] = photos / (time.perf_counter() - started)
    with ray_tasks("local") as run:
        prepare("digits", None, str(folder / "warm"), images_per_shard=200, run=run)  # workers have started
        started = time.perf_counter()
        prepare("folder", tree, str(folder / "tasks"), images_per_shard=IMAGES_PER_SHARD, run=run)
        result["photos_in_tasks_per_s"] = photos / (time.perf_counter() - started)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments.photos, Path(folder))
    for name, value in result.items():
        print(f"{name:24} {value:8.0f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
