"""Means, grids and norms over the part of a map that the image covers."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.padding.record import Padding, WholeMapLayer
from models.padding.traced import is_traced_to_file

__all__ = ["MapNorm", "grid_means", "padded_grid", "padded_map_mean", "unpadded_resize"]


def padded_map_mean(x: Tensor, padding: Padding) -> Tensor:
    """Compute the mean of each channel over the part that the image covers: (B, C, H, W) -> (B, C)."""
    mask = padding.mask(x)
    # float16 has no number above 65504, which the positions of a large map exceed
    total = x.masked_fill(~mask, 0.0).sum((2, 3), dtype=torch.promote_types(x.dtype, torch.float32))
    return (total / mask.sum((2, 3))).to(x.dtype)


def grid_means(x: Tensor, cells: int) -> Tensor:
    """Average a map over a grid: (..., H, W) -> (..., cells, cells).

    Traced for a file, the averages are products with constant matrices: ONNX has no pooling to a grid whose cells do
    not divide the sides.
    """
    if not is_traced_to_file():
        return functional.adaptive_avg_pool2d(x, cells)
    rows, columns = (_shares(int(side), cells).to(x) for side in x.shape[-2:])
    return rows @ x @ columns.T


def _shares(side: int, cells: int) -> Tensor:
    """Return the share of each position in the average of each cell, (cells, side)."""
    shares = torch.zeros(cells, side)
    for cell in range(cells):
        first, last = cell * side // cells, -(-(cell + 1) * side // cells)
        shares[cell, first:last] = 1 / (last - first)
    return shares


def padded_grid(x: Tensor, cells: int, padding: Padding) -> Tensor:
    """Average the part that each image covers over a grid of its own: (B, C, H, W) -> (B, C, cells, cells)."""
    extents = padding.extents(x)
    grids = [grid_means(y[:, :h, :w], cells) for y, (h, w) in zip(x, extents, strict=True)]
    return torch.stack(grids)


def unpadded_resize(grid: Tensor, like: Tensor, padding: Padding, *, mode: str) -> Tensor:
    """Resize each grid to the part of a map that its image covers, with zeros beside it.

    Args:
        grid: Cells (B, C, h, w).
        like: Map (B, any, H, W), of which only the shape matters.
        padding: Sizes of the images.
        mode: Interpolation, `bilinear` or `nearest`.

    Returns:
        Map (B, C, H, W).
    """
    resized = grid.new_zeros(*grid.shape[:2], *like.shape[-2:])
    aligned = {"align_corners": False} if mode == "bilinear" else {}
    for index, (h, w) in enumerate(padding.extents(like)):
        resized[index, :, :h, :w] = functional.interpolate(grid[index][None], size=(h, w), mode=mode, **aligned)[0]
    return resized


class MapNorm(nn.GroupNorm, WholeMapLayer):
    """Norm over all channels and positions of an image, padding left out; a weight and a bias per channel.

    Shape: x (B, C, H, W) -> the same, with zeros in the padding.

    Args:
        num_groups: 1.
        num_channels: C.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        padding = self.padding_of_batch
        if padding is None:
            y: Tensor = super().forward(x)
            return y
        mask = padding.mask(x)
        count = mask.sum((1, 2, 3), keepdim=True) * x.shape[1]
        kept = x.masked_fill(~mask, 0.0)
        wide = kept if kept.dtype == torch.double else kept.float()
        mean = wide.sum((1, 2, 3), keepdim=True) / count
        centred = (wide - mean).masked_fill(~mask, 0.0)
        variance = centred.square().sum((1, 2, 3), keepdim=True) / count
        normed = (centred * torch.rsqrt(variance + self.eps)).to(x.dtype)
        shifted = torch.addcmul(self.bias[:, None, None], normed, self.weight[:, None, None])
        return shifted.masked_fill(~mask, 0.0)
