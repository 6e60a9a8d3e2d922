"""Residual network of the adaptive-span paper with each of its spatial operators.

Source: Parker, Kumar, Roussy 2020, "Adaptive Attention Span in Computer Vision" (arXiv 2004.08708).
Differs: the pooled head is global, which the authors' 4x4 average pool is at 32 px only, and an odd map
is pooled with a smaller last cell, so any image size works.
"""

from collections.abc import Sequence
from typing import Unpack

from torch import nn

from models.adaptive_span.attention import AdaptiveAttention, LocalAttention
from models.adaptive_span.augmented_attention import AugmentedConv
from models.common.resnet import MakeSpatial, SpatialResNet, SurfaceOptions, bottlenecks_around

__all__ = ["AdaptiveSpanResNet", "AugmentedResNet", "ConvResNet", "LocalAttentionResNet"]


class _ParkerResNet(SpatialResNet):
    """Network of the paper around any spatial operator: strides are average pools behind the last norm."""

    def __init__(
        self,
        *,
        depths: Sequence[int],
        widths: Sequence[int],
        strides: Sequence[int],
        stem: str,
        make_spatial: MakeSpatial,
        **surface: Unpack[SurfaceOptions],
    ) -> None:
        large_image = stem == "7x7"
        super().__init__(
            depths=depths,
            widths=widths,
            strides=strides,
            make_block=bottlenecks_around(make_spatial, pool_stride=True),
            large_image=large_image,
            stem_width=64 if large_image else 32,
            **surface,
        )
        self.channels_last_on_cpu = not large_image  # weights outweigh the maps of large networks


def _conv(width: int, stride: int) -> nn.Module:
    return nn.Conv2d(width, width, 3, stride, padding=1, bias=False)


class ConvResNet(_ParkerResNet):
    """Network with a 3x3 convolution in every block.

    Shape: x (B, in_chans, H, W) -> (B, num_classes).

    Args:
        depths: Blocks of each stage.
        widths: Channels of the operators of each stage.
        strides: Reduction of each stage.
        stem: `3x3`, or `7x7` with stride 2 and a max-pool for images of 64 px and more.
        surface: timm's keywords, see `SpatialResNet`.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int],
        widths: Sequence[int],
        strides: Sequence[int],
        stem: str = "3x3",
        **surface: Unpack[SurfaceOptions],
    ) -> None:
        def make_spatial(width: int, stride: int, stage: int) -> nn.Module:
            del stage
            return _conv(width, stride)

        super().__init__(depths=depths, widths=widths, strides=strides, stem=stem, make_spatial=make_spatial, **surface)


class LocalAttentionResNet(_ParkerResNet):
    """Network with local attention of fixed window in the blocks of chosen stages.

    Shape: x (B, in_chans, H, W) -> (B, num_classes).

    Args:
        depths: Blocks of each stage.
        widths: Channels of the operators of each stage.
        strides: Reduction of each stage.
        stem: First layer, `3x3` or `7x7`.
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
        widths: Sequence[int],
        strides: Sequence[int],
        stem: str = "3x3",
        num_heads: int = 4,
        kernel_size: int = 5,
        scaled: bool = False,
        stages: Sequence[bool] | None = None,
        **surface: Unpack[SurfaceOptions],
    ) -> None:
        def make_spatial(width: int, stride: int, stage: int) -> nn.Module:
            if stages is not None and not stages[stage]:
                return _conv(width, stride)
            return LocalAttention(width, num_heads=num_heads, kernel_size=kernel_size, scaled=scaled)

        super().__init__(depths=depths, widths=widths, strides=strides, stem=stem, make_spatial=make_spatial, **surface)


class AugmentedResNet(_ParkerResNet):
    """Network with attention-augmented convolution in every block.

    Shape: x (B, in_chans, H, W) -> (B, num_classes).

    Args:
        depths: Blocks of each stage.
        widths: Channels of the operators of each stage.
        strides: Reduction of each stage.
        stem: First layer, `3x3` or `7x7`.
        dk: Channels of the queries and of the keys of all heads.
        dv: Channels of the values of all heads.
        num_heads: Heads.
        relative: True to add relative positions to the logits.
        kernel_size: Side of the convolutions.
        pixels_before_channels: True for the layout of the authors' code, see `AugmentedConv`.
        surface: timm's keywords, see `SpatialResNet`.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int],
        widths: Sequence[int],
        strides: Sequence[int],
        stem: str = "3x3",
        dk: int = 40,
        dv: int = 4,
        num_heads: int = 4,
        relative: bool = False,
        kernel_size: int = 3,
        pixels_before_channels: bool = False,
        **surface: Unpack[SurfaceOptions],
    ) -> None:
        def make_spatial(width: int, stride: int, stage: int) -> nn.Module:
            del stride, stage
            return AugmentedConv(
                width,
                dk=dk,
                dv=dv,
                num_heads=num_heads,
                kernel_size=kernel_size,
                relative=relative,
                pixels_before_channels=pixels_before_channels,
            )

        super().__init__(depths=depths, widths=widths, strides=strides, stem=stem, make_spatial=make_spatial, **surface)


class AdaptiveSpanResNet(_ParkerResNet):
    """Network with adaptive attention in the blocks of chosen stages.

    Shape: x (B, in_chans, H, W) -> (B, num_classes).

    Args:
        depths: Blocks of each stage.
        widths: Channels of the operators of each stage.
        strides: Reduction of each stage.
        stem: First layer, `3x3` or `7x7`.
        num_heads: Attention heads, each with a span z unless `shared_span`.
        max_span: S, radius of the largest window in pixels.
        ramp: R, width of the soft edge in pixels.
        span_init: First value of every z.
        span_penalty: Lambda, weight of the sum of |z| in the loss.
        shared_span: True for one span per layer.
        mask_before_softmax: True for the mask in the logits, see `AdaptiveAttention`.
        scaled: True to divide the logits by the root of the channels per head.
        stages: Flag of each stage: its blocks attend, or else convolve; None for attention in all.
        surface: timm's keywords, see `SpatialResNet`.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int],
        widths: Sequence[int],
        strides: Sequence[int],
        stem: str = "3x3",
        num_heads: int = 4,
        max_span: int = 5,
        ramp: float = 2.0,
        span_init: float = 0.1,
        span_penalty: float = 1e-3,
        shared_span: bool = False,
        mask_before_softmax: bool = False,
        scaled: bool = False,
        stages: Sequence[bool] | None = None,
        **surface: Unpack[SurfaceOptions],
    ) -> None:
        def make_spatial(width: int, stride: int, stage: int) -> nn.Module:
            if stages is not None and not stages[stage]:
                return _conv(width, stride)
            return AdaptiveAttention(
                width,
                num_heads=num_heads,
                max_span=max_span,
                ramp=ramp,
                span_init=span_init,
                span_penalty=span_penalty,
                shared_span=shared_span,
                mask_before_softmax=mask_before_softmax,
                scaled=scaled,
            )

        super().__init__(depths=depths, widths=widths, strides=strides, stem=stem, make_spatial=make_spatial, **surface)
