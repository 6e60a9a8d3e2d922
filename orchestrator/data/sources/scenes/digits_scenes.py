"""Scenes of handwritten digits with exact boxes, masks and maps of classes, composed with a fixed seed.

Each scene is a grey image of 64 x 64 px with one to five digits of 14 to 26 px on a background of noise. Later digits
cover earlier ones, of which at least 70% stay visible. The digits are those of the dataset `digits`: the scenes of
each split use other images, so that no digit of a test scene was seen in training. The pixels are computed with whole
numbers, so that they are the same on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from orchestrator.data.scenes.class_maps import encode_grey
from orchestrator.data.scenes.masks import encode_mask
from orchestrator.data.scenes.target import SceneTarget
from orchestrator.data.sources.digits import digit_images
from orchestrator.data.sources.scenes.scene_source import SceneSample, SceneSource
from orchestrator.data.sources.source import UNLABELLED, Pixels

__all__ = ["DigitsScenes", "open_digits_scenes"]

CANVAS_PX = 64
_SCENES = {"train": 1000, "test": 250}
_STREAMS = {"train": 0, "test": 1}
_MOST_DIGITS = 5
_SIDES_PX = (14, 26)
_LEAST_VISIBLE = 0.7
_STROKE = 96
"""Grey value from which a pixel of an enlarged digit belongs to its mask."""
_MOST_NOISE = 48
_TRIES = 20


@dataclass(frozen=True)
class _Scene:
    """A composed scene.

    Args:
        image: Grey values, uint8, (H, W).
        owners: Number of the visible digit of each pixel from 1, 0 for the background, (H, W).
        labels: Class of each digit from 1.
    """

    image: npt.NDArray[np.uint8]
    owners: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class DigitsScenes(SceneSource):
    """Scenes of digits, composed when they are read.

    Args:
        seed: Seed of the scenes.
    """

    seed: int = 0

    def read(self, split: str, start: int, stop: int) -> Iterator[SceneSample]:
        """Yield the scenes of a split from `start` to before `stop`."""
        digits, labels = digit_images()[0][split]
        for place in range(start, stop):
            scene = _compose(digits[:, 0], labels, np.random.default_rng([self.seed, _STREAMS[split], place]))
            image = encode_grey(scene.image)
            yield SceneSample(image, UNLABELLED, f"{split}-{place:05d}.pgm", None, _target(scene, place))


def open_digits_scenes(root: Path) -> SceneSource:
    """Open the scenes of digits.

    Args:
        root: Unused; the digits are part of scikit-learn.
    """
    splits, class_names = digit_images()
    content = b"".join(images.tobytes() + labels.tobytes() for images, labels in splits.values())
    return DigitsScenes(
        root=root,
        image_shape=None,
        class_names=class_names,
        map_class_names=("background", *class_names),
        splits=_SCENES,
        fingerprint=hashlib.sha256(content + str(_SCENES).encode()).hexdigest()[:16],
        annotations=("boxes", "masks", "class_map"),
        grey_maps=True,
    )


def _compose(digits: Pixels, labels: npt.NDArray[np.int32], generator: np.random.Generator) -> _Scene:
    """Draw digits one after another onto a canvas; a place where earlier ones would be hidden is not taken.

    Args:
        digits: Images of digits to choose from, uint8, (N, 8, 8).
        labels: Their classes from 0, (N,).
        generator: Source of all choices.
    """
    noise = int(generator.integers(0, _MOST_NOISE + 1))
    canvas = generator.integers(0, noise + 1, (CANVAS_PX, CANVAS_PX)).astype(np.uint8)
    owners = np.zeros((CANVAS_PX, CANVAS_PX), np.uint8)
    sizes: list[int] = []
    chosen: list[int] = []
    for _ in range(int(generator.integers(1, _MOST_DIGITS + 1))):
        which = int(generator.integers(len(digits)))
        drawn = _enlarged(digits[which], int(generator.integers(_SIDES_PX[0], _SIDES_PX[1] + 1)))
        stroke = drawn >= _STROKE
        side = len(drawn)
        for _ in range(_TRIES):
            top, left = (int(start) for start in generator.integers(0, CANVAS_PX - side + 1, 2))
            window = (slice(top, top + side), slice(left, left + side))
            after = owners.copy()
            after[window][stroke] = len(chosen) + 1
            visible = np.bincount(after.reshape(-1), minlength=len(chosen) + 2)[1:-1]
            if (visible >= _LEAST_VISIBLE * np.asarray(sizes)).all():
                canvas[window] = np.maximum(canvas[window], drawn)
                owners = after
                chosen.append(which)
                sizes.append(int(stroke.sum()))
                break
    return _Scene(canvas, owners, labels[chosen].astype(np.int32) + 1)


def _enlarged(digit: Pixels, side: int) -> npt.NDArray[np.uint8]:
    """Enlarge a square image by linear interpolation in whole numbers."""
    length = len(digit)
    numerators = np.clip((2 * np.arange(side) + 1) * length - side, 0, 2 * side * (length - 1))
    low = np.minimum(numerators // (2 * side), length - 2)
    weight = numerators - low * 2 * side
    values = digit.astype(np.int64)
    rows = values[low] * (2 * side - weight)[:, None] + values[low + 1] * weight[:, None]
    both = rows[:, low] * (2 * side - weight) + rows[:, low + 1] * weight
    enlarged: npt.NDArray[np.uint8] = ((both + 2 * side * side) // (4 * side * side)).astype(np.uint8)
    return enlarged


def _target(scene: _Scene, place: int) -> SceneTarget:
    masks = [scene.owners == number for number in range(1, len(scene.labels) + 1)]
    rows = [np.flatnonzero(mask.any(axis=1)) for mask in masks]
    columns = [np.flatnonzero(mask.any(axis=0)) for mask in masks]
    boxes = [(x[0], y[0], x[-1] + 1, y[-1] + 1) for x, y in zip(columns, rows, strict=True)]
    return SceneTarget(
        image_id=place,
        width=CANVAS_PX,
        height=CANVAS_PX,
        boxes=np.asarray(boxes, np.float32).reshape(-1, 4),
        labels=scene.labels,
        iscrowd=np.zeros(len(masks), np.uint8),
        area=np.asarray([mask.sum() for mask in masks], np.float32),
        masks=tuple(encode_mask(mask.astype(np.uint8)) for mask in masks),
        class_map=np.concatenate([[0], scene.labels]).astype(np.uint8)[scene.owners],
    )
