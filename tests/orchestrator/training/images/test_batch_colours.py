"""Changes of the colours of batches: a reference pixel by pixel, and the distribution of their parameters."""

import colorsys

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from orchestrator.training.images.batch_augment import BatchAugmentation
from orchestrator.training.images.batch_colours import rotate_hues, shift_colours_
from orchestrator.training.images.draws import SampleDraws

DEVIATIONS = [0.2175, 0.0188, 0.0045]
DIRECTIONS = [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]


def draws(count: int, *, seed: int = 3, epoch: int = 2, first: int = 0) -> SampleDraws:
    return SampleDraws(seed, epoch, np.arange(first, first + count))


def pictures() -> Tensor:
    """Create images with every kind of hue: each channel largest, two equal, grey, black and white."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (6, 3, 5, 7), generator=generator)
    pixels[:, :, 0, 0], pixels[:, :, 0, 1], pixels[:, :, 0, 2] = 0, 255, 90
    pixels[:, 0, 1] = pixels[:, 1, 1]
    pixels[:, 2, 2] = pixels[:, 1, 2]
    return pixels.to(torch.uint8)


@pytest.mark.parametrize("largest", [0.1, 0.5])
def test_a_rotated_hue_equals_the_conversion_of_every_pixel(largest: float) -> None:
    pixels = pictures()
    rotated = rotate_hues(pixels, largest, draws(len(pixels)))
    turns = (2 * draws(len(pixels)).uniform("hue")[:, 0] - 1) * largest
    assert min(turns) < 0 < max(turns)
    for image, result, turn in zip(pixels, rotated, turns, strict=True):
        for (red, green, blue), found in zip(image.flatten(1).T.tolist(), result.flatten(1).T.tolist(), strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
            expected = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
            assert found == pytest.approx([255 * channel for channel in expected], abs=1e-3)


def test_rotations_are_uniform_up_to_the_largest() -> None:
    red = torch.tensor([200.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(4000, 3, 1, 1)
    rotated = rotate_hues(red, 0.1, draws(4000)).flatten(1).numpy() / 255
    hues = np.array([colorsys.rgb_to_hsv(*pixel)[0] for pixel in rotated])
    turns = (hues + 0.5) % 1 - 0.5  # about red, at 0
    assert stats.kstest(turns, stats.uniform(-0.1, 0.2).cdf).pvalue > 1e-3


def test_one_colour_along_the_principal_components_is_added_to_an_image() -> None:
    pixels = pictures().float()
    shifted = shift_colours_(pixels.clone(), 0.5, draws(len(pixels)))
    for image, result, factors in zip(pixels, shifted, draws(len(pixels)).normal("lighting", 3) * 0.5, strict=True):
        for channel in range(3):
            terms = zip(factors, DEVIATIONS, DIRECTIONS[channel], strict=True)
            expected = 255 * sum(factor * deviation * part for factor, deviation, part in terms)
            torch.testing.assert_close(
                result[channel] - image[channel], torch.full((5, 7), expected), rtol=0, atol=1e-3, check_dtype=False
            )


def test_added_colours_have_the_covariance_of_the_components() -> None:
    shifts = shift_colours_(torch.zeros(20_000, 3, 1, 1), 0.1, draws(20_000)).flatten(1).numpy() / 255
    directions = np.array(DIRECTIONS)
    expected = directions @ np.diag(np.square(0.1 * np.array(DEVIATIONS))) @ directions.T
    assert np.abs(shifts.mean(0)).max() < 5e-4
    np.testing.assert_allclose(np.cov(shifts.T), expected, atol=0.04 * expected.max())


def test_normal_draws() -> None:
    numbers = draws(20_000).normal("any", 3)
    assert all(stats.kstest(column, "norm").pvalue > 1e-3 for column in numbers.T)
    assert np.abs(np.corrcoef(numbers.T) - np.eye(3)).max() < 0.03
    assert (draws(1, first=7).normal("any", 3) == numbers[7]).all()


def test_colours_of_a_sample_do_not_depend_on_its_batch() -> None:
    augmentation, pixels = BatchAugmentation(hue=0.3, lighting=0.1), pictures()
    together = augmentation.colour(pixels, draws(6))
    assert torch.equal(augmentation.colour(pixels[4:5], draws(1, first=4)), together[4:5])
    assert BatchAugmentation().colour(pixels, draws(6)) is pixels
    assert pixels.dtype == torch.uint8
