"""Spatial bias: a map reduced to a few channels and a small grid, whose cells are all mixed with all.

Source: Go & Ryu 2023, "Spatial Bias for Attention-free Non-local Neural Networks" (arXiv 2302.12505).
Differs: any image size and any batch size; the number of bias channels, the key size and the size of the grid can be
chosen, where the authors' code fixes 3, 3 and 10; a linear projection of the whole grid can mix it instead of their 1-D
convolution.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.common.bottleneck import ConvNorm
from models.common.options import ModelOptionError, OptionProblem
from models.padding import Padding, WholeMapLayer, grid_means, padded_grid, unpadded_resize

__all__ = ["MIXINGS", "SpatialBias", "append_bias"]

MIXINGS = ("conv1d", "linear")


class SpatialBias(WholeMapLayer):
    """Global context as extra channels, learned without attention.

    Shape: x (B, C, H, W) -> (B, bias_channels, pooled_size, pooled_size).

    Args:
        dim: C, channels of the feature map.
        bias_channels: Channels of the context (n); at least 1.
        key_size: Width of the 1-D convolution along the reduced channels, of which there are
            `bias_channels + key_size - 1`; at least 1.
        pooled_size: Side, in cells, of the grid the map is averaged to; at least 1.
        mixing: `conv1d` slides one weight from all cells to all cells along the reduced channels; `linear` has a
            weight of its own for each bias channel, over all cells of all reduced channels.

    Raises:
        ModelOptionError: One of the three sizes is below 1, or the mixing is unknown.
    """

    def __init__(
        self, dim: int, *, bias_channels: int, key_size: int, pooled_size: int, mixing: str = "conv1d"
    ) -> None:
        super().__init__()
        sizes = {"bias_channels": bias_channels, "key_size": key_size, "pooled_size": pooled_size}
        problems = [OptionProblem(k, v, f"{k} is at least 1", "Use 1.") for k, v in sizes.items() if v < 1]
        if mixing not in MIXINGS:
            rule = "mixing is one of " + ", ".join(map(repr, MIXINGS))
            problems.append(OptionProblem("mixing", mixing, rule, "Use 'conv1d'."))
        if problems:
            raise ModelOptionError(problems)
        self.bias_channels = bias_channels
        self.pooled_size = pooled_size
        reduced, cells = bias_channels + key_size - 1, pooled_size**2
        self.reduce = ConvNorm(dim, reduced)
        self.mix: nn.Conv1d | nn.Linear
        if mixing == "conv1d":
            self.mix = nn.Conv1d(cells, cells, key_size)
        else:
            self.mix = nn.Linear(reduced * cells, bias_channels * cells)

    def forward(self, x: Tensor) -> Tensor:
        """Reduce, average to the grid, mix all cells with all."""
        reduced, padding = self.reduce(x), self.padding_of_batch
        if padding is None:
            grid = grid_means(reduced, self.pooled_size)
        else:
            grid = padded_grid(reduced, self.pooled_size, padding)
        if isinstance(self.mix, nn.Linear):
            projected: Tensor = self.mix(grid.flatten(1))
            return projected.reshape(x.shape[0], -1, self.pooled_size, self.pooled_size)
        mixed: Tensor = self.mix(grid.flatten(2).transpose(1, 2))
        return mixed.transpose(1, 2).reshape(x.shape[0], -1, self.pooled_size, self.pooled_size)

    def position_weights(self) -> Tensor:
        """Return the strength with which cells feed each other: (N, N), N = pooled_size ** 2, last the feeding ones.

        The norm of the weights between two cells: over the key of the 1-D convolution, over both kinds of channels of
        the linear projection.
        """
        weight, between = self.mix.weight.detach(), [2]
        if isinstance(self.mix, nn.Linear):
            cells = self.pooled_size**2
            weight, between = weight.reshape(self.bias_channels, cells, -1, cells), [0, 2]
        lengths: Tensor = torch.linalg.vector_norm(weight, dim=between)
        return lengths


def append_bias(x: Tensor, bias: Tensor, padding: Padding | None = None) -> Tensor:
    """Append a bias, resized to the part of the map that the image covers.

    Shape: x (B, C, H, W), bias (B, n, r, r) -> (B, C + n, H, W).
    """
    if padding is None:
        resized = functional.interpolate(bias, size=x.shape[-2:], mode="bilinear", align_corners=False)
    else:
        resized = unpadded_resize(bias, x, padding, mode="bilinear")
    return torch.cat([x, resized], dim=1)
