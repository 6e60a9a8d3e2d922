"""Settings of how training images are drawn and changed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Strict

from orchestrator.config.sections.section import Section


def _ascending(given: tuple[float, float]) -> tuple[float, float]:
    if given[0] > given[1]:
        raise ValueError(f"must be the smallest and the largest factor. Use [{given[1]:g}, {given[0]:g}]")
    return given


ScaleRange = Annotated[tuple[PositiveFloat, PositiveFloat], Strict(strict=False), AfterValidator(_ascending)]
"""Smallest and largest factor of a size; YAML writes a list."""


class AugmentationConfig(Section):
    """Draw and changes of training images; a part of the section `training`. Every field may be searched.

    Args:
        crop_padding: Width of the black border, in pixels, added before a random crop to the old size.
        hflip: Probability that an image is mirrored.
        cutout_px: Side of a square hidden at a random place, in pixels; 0 hides none.
        erasing: Probability that a rectangle is filled with noise.
        mixup_alpha: Parameter of the beta distribution of the shares of blended images; 0 disables mixup.
        cutmix_alpha: Parameter of the beta distribution of the area taken from another image; 0 disables CutMix.
        mix_switch: Probability of CutMix instead of mixup where both are enabled.
        mix_prob: Probability that images are mixed at all; with CutMix alone its probability.
        mixup_mode: Draw of shares and boxes: `elem` for each image, `batch` once for all images of a step (of image
            files: of a worker's share of it), as timm's `batch`.
        erase_after_mixing: Erasing of the mixed images, as timm's loader does, instead of the images before.
        crop_px: Side of a random window of small training images, after the padding; None keeps their size.
            Evaluations see whole images.
        hue: Largest rotation of the hue of RGB images, as a share of the colour circle.
        lighting: Deviation of the factors of the principal colours of ImageNet that are added to RGB images; 0.1 in
            AlexNet.
        crop_scale_min: Smallest share of the area that a crop covers; image files only, like the next three.
        color_jitter: Strength of random brightness, contrast and saturation; timm leaves it out beside most
            policies of `auto_augment`.
        auto_augment: Name of a policy of timm, such as `rand-m9-mstd0.5-inc1`; empty for none.
        scale_range: Smallest and largest factor of the size to which an annotated image is resized before the crop,
            drawn evenly; None keeps that size. Annotated images only, like the next two, and only tasks that use them.
        cat_max_ratio: Largest share of one class among the pixels of a crop; another crop is drawn up to ten times.
            None is 0.75, and 1 accepts every crop.
        photometric: Random brightness, contrast, saturation and hue, each with probability one half.
        repeats: Number of times an image is drawn within an epoch, which draws that many fewer images.
        drop_last: Batches of exactly `global_batch_size`; the remaining images of the epoch's order are left out.
    """

    crop_padding: NonNegativeInt = 0
    hflip: float = Field(0.0, ge=0, le=1)
    cutout_px: NonNegativeInt = 0
    erasing: float = Field(0.0, ge=0, le=1)
    mixup_alpha: NonNegativeFloat = 0.0
    cutmix_alpha: NonNegativeFloat = 0.0
    mix_switch: float = Field(0.5, ge=0, le=1)
    mix_prob: float = Field(1.0, gt=0, le=1)
    mixup_mode: Literal["elem", "batch"] = "elem"
    erase_after_mixing: bool = False
    crop_px: PositiveInt | None = None
    hue: float = Field(0.0, ge=0, le=0.5)
    lighting: NonNegativeFloat = 0.0
    crop_scale_min: float = Field(0.08, gt=0, le=1)
    color_jitter: NonNegativeFloat = 0.0
    auto_augment: str = ""
    scale_range: ScaleRange | None = None
    cat_max_ratio: float | None = Field(None, gt=0, le=1)
    photometric: bool = False
    repeats: PositiveInt = 1
    drop_last: bool = False
