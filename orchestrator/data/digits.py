"""The handwritten digits that ship with scikit-learn: 1,797 grey images of 8x8 pixels, ten classes.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (its test part).
"""

from __future__ import annotations

import numpy as np

from orchestrator.data.arrow_images import ImageSplit

_TEST_FRACTION = 0.2
_SPLIT_SEED = 0


def load_digits() -> tuple[dict[str, ImageSplit], tuple[str, ...]]:
    """Train and test split (80 / 20 per class, fixed) and the class names; pixels scaled from 0..16 to 0..255."""
    from sklearn.datasets import load_digits as sklearn_digits
    from sklearn.model_selection import train_test_split

    bunch = sklearn_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int32)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=_TEST_FRACTION, stratify=labels, random_state=_SPLIT_SEED
    )
    splits = {name: ImageSplit(images[index], labels[index]) for name, index in (("train", train), ("test", test))}
    return splits, tuple(str(name) for name in bunch.target_names)
