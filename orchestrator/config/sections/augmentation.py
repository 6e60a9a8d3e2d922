"""Settings of how training images are drawn and changed."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from orchestrator.config.sections.section import Section


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
        crop_scale_min: Smallest share of the area that a crop covers; image files only, like the next three.
        color_jitter: Strength of random brightness, contrast and saturation; unused with `auto_augment`.
        auto_augment: Name of a policy of timm, such as `rand-m9-mstd0.5-inc1`; empty for none.
        repeats: Number of times an image is drawn within an epoch, which draws that many fewer images.
    """

    crop_padding: NonNegativeInt = 0
    hflip: float = Field(0.0, ge=0, le=1)
    cutout_px: NonNegativeInt = 0
    erasing: float = Field(0.0, ge=0, le=1)
    mixup_alpha: NonNegativeFloat = 0.0
    cutmix_alpha: NonNegativeFloat = 0.0
    mix_switch: float = Field(0.5, ge=0, le=1)
    crop_scale_min: float = Field(0.08, gt=0, le=1)
    color_jitter: NonNegativeFloat = 0.0
    auto_augment: str = ""
    repeats: PositiveInt = 1
