"""Training crops by torchvision's kernels: the samples of timm's transforms on Pillow's images, up to rounding."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor
from torchvision.transforms import ColorJitter, InterpolationMode

from orchestrator.training.augmentations.colour_jitter import change_colours, drawn_colours
from orchestrator.training.images.image_loader import ImageTransforms
from orchestrator.training.images.training_crops import resized_as_by_pillow
from orchestrator.training.randomness import sample_randomness

PHOTO = Image.fromarray(load_sample_image("flower.jpg"))


def photograph(width: int = 160, height: int = 120, **options: Any) -> bytes:
    target = io.BytesIO()
    PHOTO.resize((width, height)).save(target, "JPEG", **options)
    return target.getvalue()


def samples(content: bytes, count: int = 12, **options: Any) -> Tensor:
    """Return the first training samples of an image, as integers, (count, 3, H, W)."""
    conversion = ImageTransforms(**{"image_size": 40, **options}).for_training()
    taken = []
    for number in range(count):
        with sample_randomness(7, 1, number, 0):
            taken.append(conversion(content))
    return torch.stack(taken).int()


def difference(content: bytes, **options: Any) -> Tensor:
    return (samples(content, **options) - samples(content, decoder="pillow", **options)).abs()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "random"])
@pytest.mark.parametrize("size", [(160, 120), (30, 50)])
def test_crops_differ_from_those_of_pillow_by_two_levels_at_most(size: tuple[int, int], interpolation: str) -> None:
    differs = difference(photograph(*size), interpolation=interpolation, crop_scale=(0.08, 1.0))
    assert differs.max() <= 2
    assert differs.float().mean() < 0.05


def test_noise_is_resized_as_by_pillow_for_sides_of_every_ratio() -> None:
    """Noise is cut to 0..255 after the first pass of most pixels, so that the order of the passes shows."""
    noise = np.random.default_rng(0).integers(0, 256, (70, 70, 3), dtype=np.uint8)
    for height in range(15, 70, 9):
        for width in range(15, 70, 6):
            whole = noise[:height, :width]
            expected = np.asarray(Image.fromarray(whole).resize((30, 30), Image.Resampling.BICUBIC)).astype(int)
            pixels = torch.from_numpy(whole).permute(2, 0, 1)
            seen = resized_as_by_pillow(pixels, (30, 30), InterpolationMode.BICUBIC).permute(1, 2, 0).numpy()
            assert np.abs(seen - expected).max() <= 2, (height, width)


@pytest.mark.parametrize("ranges", [(0.4, 0.4, 0.4), (0.0, 0.9, 0.0), (0.3, 0.3, 0.3, 0.2)])
def test_colours_are_those_of_pillow(ranges: tuple[float, ...]) -> None:
    pixels = np.array(PHOTO.resize((31, 23)))
    jitter = ColorJitter(*ranges)
    for number in range(20):
        with sample_randomness(number):
            expected = np.asarray(jitter(Image.fromarray(pixels)))
        with sample_randomness(number):
            seen = change_colours(torch.from_numpy(pixels).permute(2, 0, 1), drawn_colours(jitter))
        differs = np.abs(seen.permute(1, 2, 0).numpy() - expected.astype(int))
        if len(ranges) == 3:  # torchvision has its own arithmetic for hues
            assert (differs.max(), (differs > 0).mean()) <= (1, 0.001)
        assert differs.mean() < 1.5


@pytest.mark.parametrize("options", [{"color_jitter": 0.4}, {"auto_augment": "rand-m9-mstd0.5-inc1"}, {"hflip": 0.0}])
def test_colours_and_policies_draw_what_timm_draws(options: dict[str, Any]) -> None:
    differs = difference(photograph(), **options).float()
    assert differs.mean() < 0.5  # policies may amplify a difference of one level; other draws differ by 20 and more
    assert differs.median() == 0


@pytest.mark.parametrize("kind", ["orientation", "grey", "png", "cmyk"])
def test_files_of_every_kind_have_the_pixels_of_pillow(kind: str) -> None:
    if kind == "orientation":
        contents = []
        for orientation in range(1, 9):
            exif = Image.Exif()
            exif[0x0112] = orientation
            contents += [photograph(*size, exif=exif, quality=95) for size in ((90, 60), (9, 1), (1, 9))]
    else:
        target = io.BytesIO()
        mode = {"grey": "L", "png": "RGB", "cmyk": "CMYK"}[kind]
        PHOTO.resize((90, 60)).convert(mode).save(target, "PNG" if kind == "png" else "JPEG")
        contents = [target.getvalue()]
    for content in contents:
        assert difference(content, count=3).max() <= 2


@pytest.mark.parametrize("size", [(1, 1), (2, 2)])
def test_crops_of_the_smallest_images_have_a_pixel(size: tuple[int, int]) -> None:
    target = io.BytesIO()
    Image.new("RGB", size, (77, 77, 77)).save(target, "PNG")
    assert samples(target.getvalue(), 60).unique().tolist() == [77]


def test_scaled_decoding_changes_large_crops_a_little_and_no_others() -> None:
    large = photograph(640, 427, quality=90)
    wide = {"image_size": 40, "crop_scale": (0.5, 1.0)}
    differs = (samples(large, scaled_decoding=True, **wide) - samples(large, **wide)).abs().float()
    assert 0.5 < differs.mean() < 3
    small = {"image_size": 224, "count": 4}
    assert torch.equal(samples(large, scaled_decoding=True, **small), samples(large, **small))
