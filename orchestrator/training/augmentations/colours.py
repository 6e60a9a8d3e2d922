"""Random brightness, contrast, saturation and hue."""

from __future__ import annotations

from typing import Any

from torchvision.transforms import v2

__all__ = ["PhotometricDistortion"]


class PhotometricDistortion(v2.RandomPhotometricDistort):
    """Distortion of colours, each with probability one half: torchvision's, whose channels need not be permuted.

    Args:
        permute_channels: Permutes the channels with probability one half, as detectors do and segmentation does not.

    Source: Liu et al. 2016 (SSD), with the range of hues of mmdetection and mmsegmentation, 18 of 180 degrees. Differs
    from these: brightness is a factor where they add up to 32 levels, contrast and saturation blend with grey.
    """

    def __init__(self, *, permute_channels: bool) -> None:
        super().__init__(hue=(-0.1, 0.1))
        self.permute_channels = permute_channels

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the factors."""
        params: dict[str, Any] = super().make_params(flat_inputs)
        return params if self.permute_channels else {**params, "channel_permutation": None}
