"""Residual networks with LESA in place of the 3x3 convolutions of their late stages.

The last stage keeps the resolution of the one before it. A block that strides keeps its convolution, and so does the
first block of every stage but the last.

Source: Yang et al. 2021, "Locally Enhanced Self-Attention" (arXiv 2107.05637), and the layout of their code.
Differs: any size of images, declared at construction; a small-image form.
"""

import functools
from collections.abc import Sequence
from typing import Any, Unpack

from timm.layers.drop import DropPath
from torch import Tensor, nn

from models.common.bottleneck import EXPANSION, ConvNorm
from models.common.number_lists import per_part
from models.common.options import ModelOptionError, OptionProblem
from models.common.resnet import BlockSite, SpatialResNet, SurfaceOptions
from models.lesa.attention import LocallyEnhancedAttention
from models.lesa.binary_term import BinaryTerm
from models.lesa.deformable import DeformableConv

__all__ = ["LesaBottleneck", "LesaResNet", "map_sizes"]


class LesaBottleneck(nn.Module):
    """1x1 convolution, a normed spatial operator, 1x1 convolution, around a shortcut.

    Shape: x (B, in_chs, H, W) -> (B, out_chs, ceil(H / stride), ceil(W / stride)).

    Args:
        site: Channels, stride and drop path of the block.
        out_chs: Channels of the output.
        spatial: Operator, which strides and ends in a norm.
    """

    def __init__(self, site: BlockSite, *, out_chs: int, spatial: nn.Module) -> None:
        super().__init__()
        self.out_chs = out_chs
        self.reduce = ConvNorm(site.in_chs, site.width)
        self.spatial = spatial
        self.act = nn.ReLU(inplace=True)
        self.expand = ConvNorm(site.width, out_chs, act=False)
        self.drop_path = DropPath(site.drop_path_rate) if site.drop_path_rate else nn.Identity()
        is_same = site.stride == 1 and site.in_chs == out_chs
        self.shortcut = nn.Identity() if is_same else ConvNorm(site.in_chs, out_chs, stride=site.stride, act=False)
        self.act_out = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch to the shortcut."""
        shortcut = self.shortcut(x)
        x = self.act(self.spatial(self.reduce(x)))
        x = self.drop_path(self.expand(x))
        x += shortcut
        y: Tensor = self.act_out(x)
        return y


def map_sizes(img_size: tuple[int, int], *, stem_reduction: int, strides: Sequence[int]) -> list[tuple[int, int]]:
    """Return height and width of the map of each stage for images of this height and width."""
    sizes, (height, width) = [], img_size
    reduction = stem_reduction
    for stride in strides:
        reduction *= stride
        sizes.append((-(-height // reduction), -(-width // reduction)))
    return sizes


class LesaResNet(SpatialResNet):
    """Bottleneck ResNet with LESA in chosen stages.

    Shape: x (B, in_chans, H, W) -> (B, num_classes).

    Args:
        depths: Blocks of each stage.
        widths: Channels of the spatial operators of each stage.
        strides: Stride of the first block of each stage.
        out_widths: Output channels of each stage; four times the widths when left out.
        large_image: 7x7 stem with pooling instead of a 3x3 one.
        stem_width: Channels of the stem.
        img_size: Height and width of the images in pixels.
        stage_sizes: Height and width of the map of each stage; those that follow from `img_size` when left out.
        stages: Flag of each stage for LESA; none is the plain ResNet of the same layout.
        keep_first_conv: Flag of each stage for the convolution of its first block, which every block that strides
            keeps in any case; all stages but the last when left out.
        groups: Heads of the binary term and groups of the unary one.
        position_embedding: Position embedding of the binary term, see `BinaryTerm`.
        last_stride: Stride of the last stage in place of that in `strides`.
        unary: Form of the unary term.
        binary: False for the unary term alone.
        fusion: Form of the gate.
        fusion_shrink: Divisor of the channels at each layer of the gate; a number for one layer.
        fusion_kernel_sizes: Sides of the convolutions of the layers of the gate; a number for all of them.
        fusion_groups: Groups of these convolutions and of the last one; a number for all of them.
        lesa_before_stride: True for LESA in the first block of a stage that halves the map, where `keep_first_conv`
            leaves it to the stage: it attends to the map ahead of the stride, followed by an average pooling. False for
            a convolution there.
        deformable_stages: Flag of each stage for deformable 3x3 convolutions: those that stay, and the unary terms
            of the form `grouped`.
        recompute_terms: True to compute the terms again in the backward pass instead of keeping what they need.
        conv_groups: Groups of the 3x3 convolutions that stay.
        dilations: Dilation of the 3x3 convolutions that stay, in the first and in the other blocks of a stage.
        surface: timm's keywords, see `SpatialResNet`.

    Raises:
        ModelOptionError: Groups or shrinks do not fit the channels, or there is no such form.
    """

    channels_last_on_cpu = True

    def __init__(
        self,
        *,
        depths: Sequence[int],
        widths: Sequence[int],
        strides: Sequence[int],
        out_widths: Sequence[int] | None = None,
        large_image: bool,
        stem_width: int,
        img_size: tuple[int, int],
        stage_sizes: Sequence[tuple[int, int]] | None = None,
        last_stride: int | None = None,
        stages: Sequence[bool] = (False, False, True, True),
        keep_first_conv: Sequence[bool] = (True, True, True, False),
        groups: int = 8,
        position_embedding: str = "classification",
        unary: str = "grouped",
        binary: bool = True,
        fusion: str = "full",
        fusion_shrink: int | Sequence[int] = 2,
        fusion_kernel_sizes: int | Sequence[int] = 1,
        fusion_groups: int | Sequence[int] = 1,
        lesa_before_stride: bool = False,
        deformable_stages: Sequence[bool] = (False, False, False, False),
        recompute_terms: bool = False,
        conv_groups: int = 1,
        dilations: Sequence[tuple[int, int]] | None = None,
        **surface: Unpack[SurfaceOptions],
    ) -> None:
        strides = [*strides[:-1], strides[-1] if last_stride is None else last_stride]
        sizes = stage_sizes or map_sizes(img_size, stem_reduction=4 if large_image else 1, strides=strides)
        gate = _gate_layers(fusion_shrink, fusion_kernel_sizes, fusion_groups)
        attention = functools.partial(
            LocallyEnhancedAttention, groups=groups, position_embedding=position_embedding, binary=binary, fusion=fusion
        )

        def make_spatial(site: BlockSite) -> nn.Module:
            keeps = keep_first_conv[site.stage] or (site.stride > 1 and not lesa_before_stride)
            is_deformable = deformable_stages[site.stage]
            if not stages[site.stage] or (site.index == 0 and keeps):
                return _kept_conv(site, conv_groups, dilations, is_deformable=is_deformable)
            form = "dcn" if is_deformable and unary == "grouped" else unary
            place: dict[str, Any] = {"map_size": sizes[site.stage - int(site.stride > 1)], "stride": site.stride}
            return attention(site.width, unary=form, recompute_terms=recompute_terms, **place, **gate)

        def make_block(site: BlockSite) -> nn.Module:
            out_chs = EXPANSION * site.width if out_widths is None else out_widths[site.stage]
            return LesaBottleneck(site, out_chs=out_chs, spatial=make_spatial(site))

        super().__init__(
            depths=depths,
            widths=widths,
            strides=strides,
            make_block=make_block,
            large_image=large_image,
            stem_width=stem_width,
            **surface,
        )
        self.apply(init_lesa)


def _gate_layers(
    shrink: int | Sequence[int], kernel_sizes: int | Sequence[int], groups: int | Sequence[int]
) -> dict[str, Any]:
    """Return the keywords of the layers of the gate, a number for each layer."""
    shrinks = per_part(shrink, 1)
    return {
        "fusion_shrinks": shrinks,
        "fusion_kernel_sizes": per_part(kernel_sizes, len(shrinks)),
        "fusion_groups": per_part(groups, len(shrinks) + 1),
    }


def _kept_conv(
    site: BlockSite, groups: int, dilations: Sequence[tuple[int, int]] | None, *, is_deformable: bool
) -> ConvNorm:
    """Return the 3x3 convolution of a block without LESA."""
    dilation = 1 if dilations is None else dilations[site.stage][min(1, site.index)]
    width, stride = site.width, site.stride
    kept = ConvNorm(width, width, kernel_size=3, stride=stride, groups=groups, dilation=dilation, act=False)
    if is_deformable:
        if dilation != 1:
            rule = "deformable 3x3 convolutions have no dilation"
            raise ModelOptionError([OptionProblem("deformable_stages", True, rule, "Leave the stage out.")])
        kept.conv = DeformableConv(width, width, 3, groups=groups, stride=stride)
    return kept


def init_lesa(module: nn.Module) -> None:
    """Initialise 2-D convolutions by He's fan-out rule; projections of attention narrower, by their inputs.

    The taps of deformable convolutions stay in place at first.
    """
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    if isinstance(module, DeformableConv):  # reached after the convolution it holds
        module.keep_taps_in_place()
    elif isinstance(module, BinaryTerm):  # reached after the convolution it holds
        nn.init.normal_(module.qkv.conv.weight, std=module.qkv.conv.in_channels**-0.5)
