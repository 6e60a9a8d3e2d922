"""Residual network for large images with local attention in place of its 3x3 convolutions.

Where a stage halves its map, a 2x2 average pool follows the attention. Early stages may keep their convolutions:
attention has most effect in late ones.

Source: Ramachandran et al. 2019, "Stand-Alone Self-Attention in Vision Models" (arXiv 1906.05909). Differs: an odd map
is pooled with a smaller last cell, so any image size works.
"""

from collections.abc import Sequence
from typing import Unpack

from torch import Tensor, nn

from models.adaptive_span.attention import LocalAttention
from models.common.bottleneck import Bottleneck
from models.common.merging import normed
from models.common.resnet import BlockSite, SpatialResNet, SurfaceOptions
from models.stand_alone.attention_stem import AttentionStem

__all__ = ["AttentionBottleneck", "StandAloneResNet"]

WIDTHS, STRIDES = (64, 128, 256, 512), (1, 2, 2, 2)
STEM_WIDTH = 64


class AttentionBottleneck(Bottleneck):
    """1x1 convolution, local attention with its pool, 1x1 convolution, around a shortcut.

    Shape: x (B, in_chs, H, W) -> (B, 4 * width, ceil(H / stride), ceil(W / stride)).

    Args:
        in_chs: Channels of the input.
        width: Channels of the attention.
        attention: Layer that keeps the shape of its map.
        stride: Side of the average pool behind the attention; 1 for none.
        drop_path_rate: Chance to drop the branch, per image.
    """

    def __init__(
        self, in_chs: int, width: int, *, attention: nn.Module, stride: int, drop_path_rate: float = 0.0
    ) -> None:
        super().__init__(
            in_chs, width, spatial=attention, stride=stride, pool_stride=False, drop_path_rate=drop_path_rate
        )
        self.shrink = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()

    def normed_spatial(self, x: Tensor) -> Tensor:
        """Attend, pool, normalise and activate."""
        return normed(self.bn, self.shrink(self.spatial(x)), act=self.act)


class StandAloneResNet(SpatialResNet):
    """Network with local attention in the blocks of chosen stages.

    Shape: x (B, in_chans, H, W) -> (B, num_classes).

    Args:
        depths: Blocks of each of the four stages.
        stem: First layer: `7x7`, a convolution with stride 2 and a max-pool, or `attention`, see `AttentionStem`.
        num_heads: Attention heads.
        kernel_size: Side of the window in pixels; odd.
        scaled: True to divide the logits by the root of the channels per head.
        stages: Flag of each stage: its blocks attend, or else convolve; None for attention in all.
        surface: timm's keywords, see `SpatialResNet`.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int],
        stem: str = "7x7",
        num_heads: int = 8,
        kernel_size: int = 7,
        scaled: bool = False,
        stages: Sequence[bool] | None = None,
        **surface: Unpack[SurfaceOptions],
    ) -> None:
        def make_block(site: BlockSite) -> nn.Module:
            stride, rate = site.stride, site.drop_path_rate
            if stages is not None and not stages[site.stage]:
                conv = nn.Conv2d(site.width, site.width, 3, stride, padding=1, bias=False)
                return Bottleneck(
                    site.in_chs, site.width, spatial=conv, stride=stride, pool_stride=False, drop_path_rate=rate
                )
            attention = LocalAttention(site.width, num_heads=num_heads, kernel_size=kernel_size, scaled=scaled)
            return AttentionBottleneck(site.in_chs, site.width, attention=attention, stride=stride, drop_path_rate=rate)

        in_chans = surface.get("in_chans", 3)
        super().__init__(
            depths=depths,
            widths=WIDTHS,
            strides=STRIDES,
            make_block=make_block,
            large_image=True,
            stem_width=STEM_WIDTH,
            stem=AttentionStem(in_chans, STEM_WIDTH, num_heads=num_heads) if stem == "attention" else None,
            **surface,
        )
