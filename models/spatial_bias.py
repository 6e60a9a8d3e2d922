"""Bottleneck ResNets that carry global context in a few extra channels, without attention.

Beside the 3x3 convolution of a block, the map is reduced to a few channels and averaged to a small grid; a
1-D convolution that takes the cells of the grid as its channels mixes all of them, and its output, resized to
the map, joins the channels of the convolution ahead of their norm.

Source: Go & Ryu 2022, "Spatial Bias for Attention-free Non-local Neural Networks" (arXiv 2302.12505).
Differs: any image size and any batch size; the number of bias channels, the key size and the size of the grid
can be chosen, where the authors' code fixes 3, 3 and 10; drop path takes part.
"""

from collections.abc import Sequence
from typing import Any, Unpack

import torch
from timm.models import PretrainedCfg, generate_default_cfgs
from torch import Tensor, nn
from torch.nn import functional

from models.bottleneck import ConvNorm
from models.options import ModelOption, ModelOptionError, OptionProblem
from models.registration import build, default_cfg, register_architecture
from models.resnet import SpatialResNet, SurfaceOptions, bottlenecks_around

__all__ = ["SpatialBias", "SpatialBiasConv", "SpatialBiasResNet"]


class SpatialBias(nn.Module):
    """Global context as extra channels, learned without attention.

    Shape: x (B, C, H, W) -> (B, bias_channels, pooled_size, pooled_size).

    Args:
        dim: C, channels of the feature map.
        bias_channels: Channels of the context; at least 1.
        key_size: Width of the 1-D convolution along the reduced channels, of which there are
            `bias_channels + key_size - 1`; at least 1.
        pooled_size: Side, in cells, of the grid the map is averaged to; at least 1.

    Raises:
        ModelOptionError: One of the three is below 1.

    Source: Go & Ryu 2022, section 3. Differs: any input size (the paper fixes 224 px).
    """

    def __init__(self, dim: int, *, bias_channels: int, key_size: int, pooled_size: int) -> None:
        super().__init__()
        sizes = {"bias_channels": bias_channels, "key_size": key_size, "pooled_size": pooled_size}
        problems = [OptionProblem(k, v, f"{k} is at least 1", "Use 1.") for k, v in sizes.items() if v < 1]
        if problems:
            raise ModelOptionError(problems)
        self.pooled_size = pooled_size
        self.reduce = ConvNorm(dim, bias_channels + key_size - 1)
        self.mix = nn.Conv1d(pooled_size**2, pooled_size**2, key_size)

    def forward(self, x: Tensor) -> Tensor:
        """Reduces, averages to the grid, mixes all cells with all."""
        grid = functional.adaptive_avg_pool2d(self.reduce(x), self.pooled_size)
        mixed: Tensor = self.mix(grid.flatten(2).transpose(1, 2))
        return mixed.transpose(1, 2).reshape(len(x), -1, self.pooled_size, self.pooled_size)


class SpatialBiasConv(nn.Module):
    """3x3 convolution with the spatial bias of its input appended to its channels.

    Shape: x (B, dim, H, W) -> (B, dim + bias_channels, ceil(H / stride), ceil(W / stride)).

    Args:
        dim: Channels of the convolution.
        stride: Stride of the convolution; the bias reads the full map all the same.
        bias_channels: As for `SpatialBias`, like the next two.
        key_size: Width of its 1-D convolution.
        pooled_size: Side of its grid in cells.
    """

    def __init__(self, dim: int, *, stride: int, bias_channels: int, key_size: int, pooled_size: int) -> None:
        super().__init__()
        self.out_chs = dim + bias_channels
        self.conv = nn.Conv2d(dim, dim, 3, stride, padding=1, bias=False)
        self.bias = SpatialBias(dim, bias_channels=bias_channels, key_size=key_size, pooled_size=pooled_size)

    def forward(self, x: Tensor) -> Tensor:
        """Convolves and appends the resized bias."""
        y = self.conv(x)
        bias = functional.interpolate(self.bias(x), size=y.shape[-2:], mode="bilinear", align_corners=False)
        return torch.cat([y, bias], dim=1)


class SpatialBiasResNet(SpatialResNet):
    """Bottleneck ResNet with spatial bias in the blocks of chosen stages.

    Shape: x (B, in_chans, H, W) -> (B, num_classes).

    Args:
        depths: Blocks of each stage.
        widths: Channels of the 3x3 convolutions of each stage.
        large_image: 7x7 stem with pooling instead of a 3x3 one.
        stem_width: Channels the stem puts out.
        bias_channels: As for `SpatialBias`, like the next two.
        key_size: Width of its 1-D convolution.
        pooled_size: Side of its grid in cells.
        stages: Which stages carry a bias; none is the plain network. All but the fourth when left out.
        surface: timm's keywords, see `SpatialResNet`.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int],
        widths: Sequence[int],
        large_image: bool,
        stem_width: int,
        bias_channels: int = 3,
        key_size: int = 3,
        pooled_size: int = 10,
        stages: Sequence[bool] = (True, True, True, False),
        **surface: Unpack[SurfaceOptions],
    ) -> None:
        def make_spatial(width: int, stride: int, stage: int) -> nn.Module:
            if not stages[stage]:
                return nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
            return SpatialBiasConv(
                width,
                stride=stride,
                bias_channels=bias_channels,
                key_size=key_size,
                pooled_size=pooled_size,
            )

        super().__init__(
            depths=depths,
            widths=widths,
            strides=(1, 2, 2, 2)[: len(depths)],
            make_block=bottlenecks_around(make_spatial, pool_stride=False),
            large_image=large_image,
            stem_width=stem_width,
            **surface,
        )
        self.apply(init_spatial_bias)


def init_spatial_bias(module: nn.Module) -> None:
    """He initialisation by fan-out of 2-D convolutions, as in the paper; the rest keeps PyTorch's."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _options(stages: tuple[bool, ...]) -> tuple[ModelOption, ...]:
    return (
        ModelOption(
            name="bias_channels",
            type=int,
            default=3,
            low=1,
            high=64,
            description="Channels of global context appended in each block (n).",
        ),
        ModelOption(
            name="key_size",
            type=int,
            default=3,
            low=1,
            high=16,
            description="Width of the 1-D convolution along the reduced channels (k).",
        ),
        ModelOption(
            name="pooled_size",
            type=int,
            default=10,
            low=1,
            high=32,
            description="Side in cells of the grid that is mixed (r); parameters grow with its fourth power.",
        ),
        ModelOption(
            name="stages",
            type=tuple,
            default=stages,
            length=len(stages),
            description="Which stages carry a spatial bias; none is the plain ResNet.",
        ),
    )


def _cfg(*, small_image: bool) -> PretrainedCfg:
    return default_cfg(
        small_image=small_image,
        num_classes=100 if small_image else 1000,
        reduction=4 if small_image else 32,
        paper_ids="arXiv:2302.12505",
        origin_url="https://github.com/GoJunHyeong/SpatialBias",
    )


default_cfgs = generate_default_cfgs(
    {
        f"sb_resnet{size}": _cfg(small_image=size.endswith("cifar"))
        for size in ("50", "101", "152", "29_cifar", "56_cifar", "110_cifar", "164_cifar")
    }
)

register_large = register_architecture(family="spatial_bias", options=_options((True, True, True, False)))
register_cifar = register_architecture(family="spatial_bias", options=_options((True, True, True)))


def _sb_resnet(name: str, depths: tuple[int, ...], *, pretrained: bool, **given: Any) -> nn.Module:
    shape = {"depths": depths, "widths": (64, 128, 256, 512), "large_image": True, "stem_width": 64}
    return build(name, SpatialBiasResNet, pretrained=pretrained, given=given, **shape)


def _sb_resnet_cifar(depth: int, *, pretrained: bool, **given: Any) -> nn.Module:
    blocks = (depth - 2) // 9
    shape = {"depths": (blocks,) * 3, "widths": (16, 32, 64), "large_image": False, "stem_width": 16}
    return build(f"sb_resnet{depth}_cifar", SpatialBiasResNet, pretrained=pretrained, given=given, **shape)


@register_large
def sb_resnet50(pretrained: bool = False, **given: Any) -> nn.Module:
    """ResNet50 with spatial bias in all stages but the last."""
    return _sb_resnet("sb_resnet50", (3, 4, 6, 3), pretrained=pretrained, **given)


@register_large
def sb_resnet101(pretrained: bool = False, **given: Any) -> nn.Module:
    """ResNet101 with spatial bias in all stages but the last."""
    return _sb_resnet("sb_resnet101", (3, 4, 23, 3), pretrained=pretrained, **given)


@register_large
def sb_resnet152(pretrained: bool = False, **given: Any) -> nn.Module:
    """ResNet152 with spatial bias in all stages but the last."""
    return _sb_resnet("sb_resnet152", (3, 8, 36, 3), pretrained=pretrained, **given)


@register_cifar
def sb_resnet29_cifar(pretrained: bool = False, **given: Any) -> nn.Module:
    """Small-image ResNet29 with spatial bias in all stages."""
    return _sb_resnet_cifar(29, pretrained=pretrained, **given)


@register_cifar
def sb_resnet56_cifar(pretrained: bool = False, **given: Any) -> nn.Module:
    """Small-image ResNet56 with spatial bias in all stages."""
    return _sb_resnet_cifar(56, pretrained=pretrained, **given)


@register_cifar
def sb_resnet110_cifar(pretrained: bool = False, **given: Any) -> nn.Module:
    """Small-image ResNet110 with spatial bias in all stages."""
    return _sb_resnet_cifar(110, pretrained=pretrained, **given)


@register_cifar
def sb_resnet164_cifar(pretrained: bool = False, **given: Any) -> nn.Module:
    """Small-image ResNet164 with spatial bias in all stages."""
    return _sb_resnet_cifar(164, pretrained=pretrained, **given)
