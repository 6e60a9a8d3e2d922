"""Bottleneck ResNets that carry global context in a few extra channels, without attention.

Beside the 3x3 convolution of a block, the map is reduced to a few channels and averaged to a small grid; a
1-D convolution that takes the cells of the grid as its channels mixes all of them, and its output, resized to
the map, joins the channels of the convolution ahead of their norm.

Source: Go & Ryu 2022, "Spatial Bias for Attention-free Non-local Neural Networks" (arXiv 2302.12505).
Differs: any image size and any batch size; the number of bias channels, the key size and the size of the grid
can be chosen, where the authors' code fixes 3, 3 and 10; drop path takes part; non-local blocks can be added,
which the paper combines too.
"""

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.common.bottleneck import ConvNorm
from models.common.non_local import NonLocal, NonLocalBottleneck, NonLocalPlan
from models.common.options import ModelOptionError, OptionProblem
from models.common.resnet import BlockSite, SpatialResNet, SurfaceOptions

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
        """Reduce, average to the grid, mix all cells with all."""
        grid = functional.adaptive_avg_pool2d(self.reduce(x), self.pooled_size)
        mixed: Tensor = self.mix(grid.flatten(2).transpose(1, 2))
        return mixed.transpose(1, 2).reshape(x.shape[0], -1, self.pooled_size, self.pooled_size)

    def position_weights(self) -> Tensor:
        """Return the strength with which cells feed each other: (N, N), N = pooled_size ** 2, last the feeding ones.

        The norm over the key of the weight of the 1-D convolution.
        """
        lengths: Tensor = torch.linalg.vector_norm(self.mix.weight.detach(), dim=2)
        return lengths


class SpatialBiasConv(nn.Module):
    """3x3 convolution with the spatial bias of its input appended to its channels.

    Shape: x (B, dim, H, W) -> (B, dim + bias_channels, ceil(H / stride), ceil(W / stride)).

    Args:
        dim: Channels of the convolution.
        stride: Stride of the convolution; the bias reads the full map all the same.
        bias_channels: Channels of the context; at least 1.
        key_size: Width of the 1-D convolution; at least 1.
        pooled_size: Side of the grid in cells; at least 1.
    """

    def __init__(self, dim: int, *, stride: int, bias_channels: int, key_size: int, pooled_size: int) -> None:
        super().__init__()
        self.out_chs = dim + bias_channels
        self.conv = nn.Conv2d(dim, dim, 3, stride, padding=1, bias=False)
        self.bias = SpatialBias(dim, bias_channels=bias_channels, key_size=key_size, pooled_size=pooled_size)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and append the resized bias."""
        y = self.conv(x)
        bias = functional.interpolate(self.bias(x), size=y.shape[-2:], mode="bilinear", align_corners=False)
        return torch.cat([y, bias], dim=1)


class SpatialBiasResNet(SpatialResNet):
    """Bottleneck ResNet with spatial bias in the blocks of chosen stages, and non-local blocks beside it.

    Shape: x (B, in_chans, H, W) -> (B, num_classes).

    Args:
        depths: Blocks of each stage.
        widths: Channels of the 3x3 convolutions of each stage.
        large_image: 7x7 stem with pooling instead of a 3x3 one.
        stem_width: Channels of the stem.
        bias_channels: Channels of the context; at least 1.
        key_size: Width of the 1-D convolution; at least 1.
        pooled_size: Side of the grid in cells; at least 1.
        stages: Flag of each stage for a bias; none is the plain network. All but the fourth when left out.
        nonlocal_stages: Flag of each stage for non-local blocks; none when left out.
        nonlocal_every: Blocks from one non-local block to the next.
        nonlocal_reduction: Channels of the map per channel of their embeddings.
        nonlocal_pool_keys: True to pool their keys and values.
        nonlocal_scaled: True to scale their logits.
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
        nonlocal_stages: Sequence[bool] = (False, False, False, False),
        nonlocal_every: int = 2,
        nonlocal_reduction: int = 2,
        nonlocal_pool_keys: bool = False,
        nonlocal_scaled: bool = True,
        **surface: Unpack[SurfaceOptions],
    ) -> None:
        plan = NonLocalPlan(
            stages=tuple(nonlocal_stages),
            every=nonlocal_every,
            reduction=nonlocal_reduction,
            pool_keys=nonlocal_pool_keys,
            scaled=nonlocal_scaled,
        )

        def make_block(site: BlockSite) -> nn.Module:
            spatial: nn.Module = nn.Conv2d(site.width, site.width, 3, site.stride, padding=1, bias=False)
            if stages[site.stage]:
                spatial = SpatialBiasConv(
                    site.width,
                    stride=site.stride,
                    bias_channels=bias_channels,
                    key_size=key_size,
                    pooled_size=pooled_size,
                )
            return NonLocalBottleneck(site, spatial=spatial, plan=plan)

        super().__init__(
            depths=depths,
            widths=widths,
            strides=(1, 2, 2, 2)[: len(depths)],
            make_block=make_block,
            large_image=large_image,
            stem_width=stem_width,
            **surface,
        )
        self.channels_last_on_cpu = not large_image  # weights outweigh the maps of large networks
        self.has_nonlocal = any(isinstance(module, NonLocal) for module in self.modules())
        self.apply(init_spatial_bias)


def init_spatial_bias(module: nn.Module) -> None:
    """Initialise 2-D convolutions by He's fan-out rule, as in the paper; non-local blocks have their own."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, NonLocal):
        module.reset_parameters()
