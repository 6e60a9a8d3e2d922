"""Channel attentions up to their logits, so that sub-attention fits between the logits and the sigmoid.

Squeeze-and-excitation, CBAM's channel half and ECA are timm's layers without the last step; style recalibration (SRM)
and both forms of spatial pyramid attention (SPA), which timm does not have, are written here. All of them read a map
and return one logit per image and channel; the later SPA returns one for each of 16 cells of an image.

Sources: Hu et al. 2018 (arXiv 1709.01507); Woo et al. 2018 (arXiv 1807.06521); Wang et al. 2020 (arXiv
1910.03151); Lee et al. 2019 (arXiv 1903.10829); Guo et al. 2020, "Spatial Pyramid Attention Network for
Enhanced Image Recognition" (ICME 2020); for the later SPA the code of ma-xu/SPANet_TMM, commit 4092065.
"""

import torch
from timm.layers.cbam import ChannelAttn, SpatialAttn
from timm.layers.eca import EcaModule
from timm.layers.squeeze_excite import SEModule
from timm.models import register_notrace_module
from torch import Tensor, nn
from torch.nn import functional

from models.common.merging import map_mean
from models.common.options import ModelOptionError, OptionProblem
from models.common.sync_batch_norm import SyncBatchNorm2d, is_single
from models.padding import Padding, WholeMapLayer, padded_grid, unpadded_resize

__all__ = ["CHANNEL_ATTENTIONS", "ChannelGate", "make_channel_attention"]

CHANNEL_ATTENTIONS = ("se", "cbam", "eca", "srm", "spa", "spa_grid")
PYRAMID_SIDE = 4  # cells of the finest grid of a spatial pyramid


def _dense(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """Apply a 1x1 convolution to single pixels as the matrix product it is, several times faster: (B, C) -> (B, D)."""
    return functional.linear(x, layer.weight.flatten(1), layer.bias)


class SqueezeExciteLogits(SEModule, WholeMapLayer):  # type: ignore[misc, unused-ignore]
    """Global average, hidden layer, one logit per channel: x (B, C, H, W) -> (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Pool and apply both layers."""
        return _dense(functional.relu(_dense(map_mean(x, self.padding_of_batch), self.fc1)), self.fc2)


class CbamChannelLogits(ChannelAttn, WholeMapLayer):  # type: ignore[misc, unused-ignore]
    """Global average and maximum through one hidden layer, summed: x (B, C, H, W) -> (B, C).

    The second layer is linear and without bias, so the sum is taken ahead of it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pool twice and apply both layers."""
        padding = self.padding_of_batch
        average = functional.relu(_dense(map_mean(x, padding), self.fc1))
        x = x if padding is None else x.masked_fill(~padding.mask(x), -torch.inf)
        maximum = functional.relu(_dense(x.amax((2, 3)), self.fc1))
        return _dense(average + maximum, self.fc2)


class EfficientChannelLogits(EcaModule, WholeMapLayer):  # type: ignore[misc, unused-ignore]
    """1-D convolution along the channels of the global average: x (B, C, H, W) -> (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Pool and convolve."""
        logits: Tensor = self.conv(map_mean(x, self.padding_of_batch)[:, None])
        return logits[:, 0]


@register_notrace_module
class StyleRecalibrationLogits(WholeMapLayer):
    """Mean and deviation of each channel, weighted per channel and normalised over the batch.

    Shape: x (B, C, H, W) -> (B, C).

    Args:
        channels: C.

    Source: Lee et al. 2019. Differs: the deviation is that of the population, so that it exists
    for a map of one pixel; a training batch of one image, over all ranks that the norm reads, is normalised with the
    running statistics.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.style_weight = nn.Parameter(torch.zeros(2, channels))
        self.bn = nn.BatchNorm2d(channels)

    def no_weight_decay(self) -> set[str]:
        """Return the weights of mean and deviation, two per channel."""
        return {"style_weight"}

    def forward(self, x: Tensor) -> Tensor:
        """Pool in one pass over the map, weight, normalise."""
        padding = self.padding_of_batch
        if padding is None:
            variance, mean = torch.var_mean(x, dim=(2, 3), correction=0)
        else:
            mean = map_mean(x, padding)
            variance = map_mean((x - mean[:, :, None, None]).square(), padding)
        deviation = (variance + self.bn.eps).sqrt()
        style = (mean * self.style_weight[0] + deviation * self.style_weight[1])[:, :, None, None]
        if self.training and x.shape[0] == 1 and not self._reads_other_ranks():
            bn = self.bn
            logits = functional.batch_norm(style, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)
        else:
            logits = self.bn(style)
        return logits.flatten(1)

    def _reads_other_ranks(self) -> bool:
        """Return whether the norm is over the images of all ranks, each of which must then take part."""
        return isinstance(self.bn, (SyncBatchNorm2d, nn.SyncBatchNorm)) and not is_single()


@register_notrace_module
class SpatialPyramidLogits(WholeMapLayer):
    """Averages over grids of 1, 2x2 and 4x4 cells, all of them through one hidden layer.

    Shape: x (B, C, H, W) -> (B, C).

    Args:
        channels: C.
        hidden: Hidden units.

    Source: Guo et al. 2020. Differs: reads the three grids side by side, 21 values per channel.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels * 21, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Pool to three grids and apply both layers."""
        coarse, middle, fine = (grid.flatten(1) for grid in _pyramid(x, self.padding_of_batch))
        logits: Tensor = self.fc2(functional.relu(self.fc1(torch.cat([coarse, middle, fine], dim=1))))
        return logits


@register_notrace_module
class SpatialPyramidGridLogits(WholeMapLayer):
    """Weighted sum of averages over grids of 1, 2x2 and 4x4 cells, through one hidden layer per cell.

    Shape: x (B, C, H, W) -> (B, C, 4, 4): the gate keeps the coarse place of what it has seen.

    Args:
        channels: C.
        hidden: Hidden units.

    Source: the code of ma-xu/SPANet_TMM.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.grid_weight = nn.Parameter(torch.ones(3))
        self.fc1 = nn.Conv2d(channels, hidden, 1, bias=False)
        self.bn = nn.BatchNorm2d(hidden)
        self.fc2 = nn.Conv2d(hidden, channels, 1, bias=False)

    def no_weight_decay(self) -> set[str]:
        """Return the weights of the grids, from the coarse one to the fine one."""
        return {"grid_weight"}

    def forward(self, x: Tensor) -> Tensor:
        """Pool to three grids, repeat the cells of the coarse ones, sum, apply both layers."""
        coarse, middle, fine = _pyramid(x, self.padding_of_batch)
        repeated = functional.interpolate(middle, size=fine.shape[-2:], mode="nearest")
        weight = self.grid_weight
        logits: Tensor = self.fc2(
            functional.relu(self.bn(self.fc1(coarse * weight[0] + repeated * weight[1] + fine * weight[2])))
        )
        return logits


def _pyramid(x: Tensor, padding: Padding | None) -> tuple[Tensor, Tensor, Tensor]:
    """Average a map over 1, 2x2 and 4x4 cells; the coarse grids come from the fine one where its cells are equal."""
    if padding is not None:
        coarse, middle, fine = (padded_grid(x, side, padding) for side in (1, 2, PYRAMID_SIDE))
        return coarse, middle, fine
    fine = functional.adaptive_avg_pool2d(x, PYRAMID_SIDE)
    is_even = x.shape[-1] % PYRAMID_SIDE == 0 and x.shape[-2] % PYRAMID_SIDE == 0
    source = fine if is_even else x
    return source.mean((2, 3), keepdim=True), functional.adaptive_avg_pool2d(source, 2), fine


def make_channel_attention(attention: str, channels: int, *, reduction: int) -> nn.Module:
    """Make the attention of a name, x (B, channels, H, W) -> logits (B, channels), of 4x4 cells with `spa_grid`.

    Args:
        attention: One of `CHANNEL_ATTENTIONS`.
        channels: Channels of the map.
        reduction: Channels of the map per hidden unit, of which there is at least one.

    Raises:
        KeyError: There is no attention of that name.
    """
    hidden = max(1, channels // reduction)
    if attention == "se":
        return SqueezeExciteLogits(channels, rd_channels=hidden)
    if attention == "cbam":
        return CbamChannelLogits(channels, rd_channels=hidden)
    if attention == "eca":
        return EfficientChannelLogits(channels)
    if attention == "srm":
        return StyleRecalibrationLogits(channels)
    if attention == "spa":
        return SpatialPyramidLogits(channels, hidden)
    if attention == "spa_grid":
        return SpatialPyramidGridLogits(channels, hidden)
    raise KeyError(attention)


class ChannelGate(WholeMapLayer):
    """Channel attention applied to a map, with the whole of CBAM for `cbam`.

    Shape: x (B, channels, H, W) -> (B, channels, H, W).

    Args:
        channels: Channels of the map.
        attention: Channel attention that gives the logits, one of `CHANNEL_ATTENTIONS`.
        reduction: Channels of the map per hidden unit of the attention; `eca` and `srm` have none.
        activation: Module from logits (..., channels) to the gate; a sigmoid when None.

    Raises:
        ModelOptionError: The attention is unknown.
    """

    def __init__(self, channels: int, *, attention: str, reduction: int, activation: nn.Module | None = None) -> None:
        super().__init__()
        if attention not in CHANNEL_ATTENTIONS:
            rule = "attention is one of " + ", ".join(map(repr, CHANNEL_ATTENTIONS))
            raise ModelOptionError([OptionProblem("attention", attention, rule, "Use 'se'.")])
        self.attention = attention
        self.host = make_channel_attention(attention, channels, reduction=reduction)
        self.sub = activation or nn.Sigmoid()
        self.spatial = SpatialAttn() if attention == "cbam" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Gate every channel, and with CBAM every position."""
        y: Tensor = self.spatial(x * self.channel_gate(x))
        return y

    def channel_gate(self, x: Tensor) -> Tensor:
        """Compute the gate of every channel: (B, channels, 1, 1), with `spa_grid` (B, channels, H, W)."""
        if self.attention != "spa_grid":
            gate: Tensor = self.sub(self.host(x))
            return gate[:, :, None, None]
        cells = self.sub(self.host(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        padding = self.padding_of_batch
        if padding is not None:
            return unpadded_resize(cells, x, padding, mode="nearest")
        return functional.interpolate(cells, size=x.shape[-2:], mode="nearest")
