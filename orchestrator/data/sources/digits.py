"""The handwritten digits that ship with scikit-learn: 1,797 grey images of 8x8 pixels, ten classes.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (its test part).
"""

from __future__ import annotations

import functools
import hashlib
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt

from orchestrator.data.sources.source import ArraySource, Pixels
from orchestrator.files.cached_file import cached_content

__all__ = ["digit_images", "open_digits"]

logger = logging.getLogger(__name__)

_TEST_FRACTION = 0.2
_SPLIT_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Digits(ArraySource):
    """The embedded digits, 80% for training and 20% for testing, drawn per class with a fixed seed."""

    def load(self, split: str) -> tuple[Pixels, npt.NDArray[np.int32]]:
        """Return all images of a split and their labels."""
        return digit_images()[0][split]


def open_digits(root: Path) -> ArraySource:
    """Open the embedded digits.

    Args:
        root: Unused; the images are part of scikit-learn.
    """
    splits, class_names = digit_images()
    digest = hashlib.sha256(b"".join(images.tobytes() for images, _ in splits.values())).hexdigest()[:16]
    return Digits(
        root=root,
        image_shape=(1, 8, 8),
        class_names=class_names,
        splits={name: len(labels) for name, (_, labels) in splits.items()},
        fingerprint=digest,
    )


@functools.cache
def digit_images() -> tuple[Mapping[str, tuple[Pixels, npt.NDArray[np.int32]]], tuple[str, ...]]:
    """Return images and labels of both splits, and the class names; pixels are scaled from 0..16 to 0..255."""
    name = f"digits-{version('scikit-learn')}.npz"
    try:
        content = BytesIO(cached_content(name, _write_digits))  # scikit-learn's import takes a second
    except (OSError, RuntimeError) as error:
        logger.debug("digits are not cached: %s", error)
        with tempfile.TemporaryDirectory() as folder:
            _write_digits(Path(folder) / name)
            content = BytesIO((Path(folder) / name).read_bytes())
    with np.load(content) as arrays:
        splits = {split: (arrays[f"{split}_images"], arrays[f"{split}_labels"]) for split in ("train", "test")}
        return splits, tuple(str(name) for name in arrays["class_names"])


def _write_digits(path: Path) -> None:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int32)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=_TEST_FRACTION, stratify=labels, random_state=_SPLIT_SEED
    )
    class_names = np.array([str(name) for name in bunch.target_names])
    np.savez(
        path,
        class_names=class_names,
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
    )
