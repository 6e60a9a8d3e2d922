"""Class maps at the original size: whole images, sliding windows, scales and mirror images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate

from orchestrator.errors import DataError
from orchestrator.training.augmentations import original_size
from orchestrator.training.augmentations.segmentation_modes import SegmentationMode
from orchestrator.training.augmentations.transforms import SegmentationTransforms

PLAIN = SegmentationTransforms(short_px=40, long_px=200, normalise=False, multiple=8)


def picture(height: int = 40, width: int = 56) -> torch.Tensor:
    """Return smooth random colours, float, from 0 to 1."""
    coarse = torch.rand(1, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    return interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0]


def brightest_channel(images: torch.Tensor) -> torch.Tensor:
    """Predict the colours as logits, at a quarter of the size."""
    return 9 * avg_pool2d(images, 4)


def test_the_whole_image_at_its_own_size() -> None:
    image = picture()
    sizes = []

    def predict(images: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(images.shape))
        return images

    assert torch.equal(SegmentationMode().class_map(predict, image, PLAIN), image.argmax(0))
    resized = SegmentationTransforms(short_px=44, long_px=200, normalise=False, multiple=32)
    found = SegmentationMode().class_map(predict, image, resized)
    assert sizes == [(1, 3, 40, 56), (1, 3, 64, 64)]  # 44 x 62 px, padded
    assert (found == image.argmax(0)).float().mean() > 0.95


def test_maps_are_those_of_interpolated_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(original_size, "_VALUES_AT_ONCE", 3 * 56 * 5)  # five rows at once
    image = picture()
    expected = interpolate(brightest_channel(image[None]), (40, 56), mode="bilinear", align_corners=False)
    assert torch.equal(SegmentationMode().class_map(brightest_channel, image, PLAIN), expected[0].argmax(0))


def test_windows_overlap_and_end_at_the_border() -> None:
    """Predict logits that number the windows: each pixel is the average of the windows that hold it."""
    seen = []

    def predict(images: torch.Tensor) -> torch.Tensor:
        seen.append(images[0, 0].long())
        return (
            torch.zeros(1, 3, *images.shape[2:])
            + images.new_tensor([len(seen) % 3 == kind for kind in range(3)])[None, :, None, None]
        )

    columns = torch.arange(10.0)[None, None].expand(3, 4, 10)
    transforms = SegmentationTransforms(short_px=4, long_px=10, normalise=False, multiple=1)
    mode = SegmentationMode(mode="slide", crop_px=4, stride_px=3)
    found = mode.class_map(predict, columns, transforms)
    assert [window[0].tolist() for window in seen] == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    # Classes of the windows are 1, 2 and 0; of equal averages the first class is taken.
    assert found[0].tolist() == [1, 1, 1, 1, 2, 2, 0, 0, 0, 0]
    seen.clear()
    SegmentationMode(mode="slide", crop_px=4, stride_px=4).class_map(predict, columns, transforms)
    assert [window[0, 0].item() for window in seen] == [0, 4, 6]


@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_views_are_averaged(mode: Any) -> None:
    """Average class probabilities of a network that sees mirror images differently."""
    image = picture()

    def predict(images: torch.Tensor) -> torch.Tensor:
        ramp = torch.linspace(-1, 1, images.shape[3])
        return images * 4 + torch.stack([ramp, -ramp, 0 * ramp])[:, None]

    settings = SegmentationMode(mode=mode, crop_px=64, stride_px=64, hflip=True)
    found = settings.class_map(predict, image, PLAIN)
    views = [predict(image[None])[0], predict(image.flip(2)[None])[0].flip(2)]
    assert torch.equal(found, torch.stack([view.softmax(0) for view in views]).mean(0).argmax(0))
    assert not torch.equal(found, views[0].argmax(0))


def test_scales_are_averaged() -> None:
    image = picture()
    heights = []

    def predict(images: torch.Tensor) -> torch.Tensor:
        heights.append(images.shape[2])
        return images

    found = SegmentationMode(factors=(1.0, 1.6), hflip=True).class_map(predict, image, PLAIN)
    assert heights == [40, 40, 64, 64]
    assert (found == image.argmax(0)).float().mean() > 0.98


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "slid"}, "mode: unknown 'slid'; use whole or slide"),
        ({"stride_px": 600}, "stride_px: got 600; it is from 1 to crop_px, 512"),
        ({"factors": ()}, r"factors: got \(\)"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        SegmentationMode(**settings)
