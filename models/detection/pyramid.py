"""Feature pyramid over the maps of a backbone, torchvision's, and the anchors of its levels."""

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool, LastLevelP6P7

from models.backbones import BackboneSettings, StageMaps
from models.common.options import ModelOptionError, OptionProblem
from models.detection.precision import WideAnchors

__all__ = ["PyramidBackbone", "make_anchors"]

SKIPPED_BELOW = 4  # maps; a one-stage detector leaves the finest of so many out
OCTAVES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
"""Sides of the anchors of a one-stage detector on one level, over the smallest of them."""


class PyramidBackbone(StageMaps):
    """Backbone and feature pyramid.

    Shape: x (B, in_chans, H, W) -> by name, (B, fpn_channels, H / reduction, W / reduction) for each level: `0`, `1`
    and so on for the maps of the backbone, then `pool`, or `p6` and `p7`.

    Args:
        settings: Backbone.
        fpn_channels: Channels of the pyramid.
        one_stage: True for the levels of a one-stage detector: without the finest of four maps, two coarser ones
            behind the last. False for one coarser level, a max-pool of the last.

    Attributes:
        body: Network, as in `StageMaps`.
        fpn: Pyramid; torchvision's, with its state-dict keys.
        map_names: Names of the levels that belong to maps of the backbone.
        level_reductions: Side of the images over that of each level.
    """

    def __init__(self, settings: BackboneSettings, *, fpn_channels: int, one_stage: bool = False) -> None:
        super().__init__(settings)
        if fpn_channels < 1:
            problem = OptionProblem("fpn_channels", fpn_channels, "fpn_channels is at least 1", "Use 256.")
            raise ModelOptionError([problem], model=settings.name)
        self._first = 1 if one_stage and len(self.channels) >= SKIPPED_BELOW else 0
        if self._first and self.norms:
            self.norms[0] = nn.Identity()  # of the map that is left out, whose norm would get no gradient
        channels, used = self.channels[self._first :], self.reductions[self._first :]
        more = LastLevelP6P7(fpn_channels, fpn_channels) if one_stage else LastLevelMaxPool()
        self.fpn = FeaturePyramidNetwork(channels, fpn_channels, extra_blocks=more)
        self.out_channels = fpn_channels
        self.map_names = [str(index) for index in range(len(channels))]
        self.level_reductions = [*used, *(used[-1] * factor for factor in ((2, 4) if one_stage else (2,)))]

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Compute the levels, from the finest to the coarsest."""
        maps = super().forward(x)[self._first :]
        levels: dict[str, Tensor] = self.fpn(dict(zip(self.map_names, maps, strict=True)))
        return levels


def make_anchors(
    reductions: Sequence[int], *, scale: float, ratios: Sequence[float], one_stage: bool = False
) -> WideAnchors:
    """Make the anchors of a pyramid: on each level squares of `scale` times its reduction, stretched by the ratios.

    Args:
        reductions: Side of the images over that of each level.
        scale: Side of the square anchor, in cells of its level.
        ratios: Height over width.
        one_stage: True for three sizes on each level, a third of an octave apart.

    Raises:
        ModelOptionError: The scale or a ratio is not above zero, or there is no ratio.
    """
    problems = []
    if scale <= 0:
        problems.append(OptionProblem("anchor_scale", scale, "anchor_scale is above 0", "Use 8, or 4 for RetinaNet."))
    if not ratios or any(ratio <= 0 for ratio in ratios):
        problems.append(OptionProblem("anchor_ratios", ratios, "ratios are above 0", "Use (0.5, 1.0, 2.0)."))
    if problems:
        raise ModelOptionError(problems)
    octaves = OCTAVES if one_stage else OCTAVES[:1]
    # whole pixels, as torchvision has them
    sizes = tuple(tuple(max(1, int(reduction * scale * octave)) for octave in octaves) for reduction in reductions)
    return WideAnchors(sizes, (tuple(ratios),) * len(sizes))
