"""Deformable convolution: each tap of the window is moved by a learned offset and read between the pixels.

The taps are read by bilinear interpolation with zeros outside the map, and then weighed as by a convolution. Offsets
come from a convolution of the same window; at first they are zero, and the layer is a plain convolution.

Source: Dai et al. 2017, "Deformable Convolutional Networks" (arXiv 1703.06211), as the unary term of LESA's detection
code uses it: one offset per tap and position for all channels, no modulation.
Shape legend: B images, C channels of the input, K taps, H and W of the map.
"""

import torch
from timm.models import register_notrace_module
from torch import Tensor, nn
from torch.nn import functional

from models.lesa.positions import at_least_float32

__all__ = ["DeformableConv"]


@register_notrace_module
class DeformableConv(nn.Conv2d):
    """Convolution of odd, square windows whose taps are moved, for each position alike in all channels.

    Shape: x (B, in_chs, H, W) -> (B, out_chs, ceil(H / stride), ceil(W / stride)).

    Args:
        in_chs: Channels of the input.
        out_chs: Channels of the output.
        kernel_size: Side of the window; odd.
        groups: Groups of the convolution; the offsets are those of all groups.
        stride: Reduction of the side.

    Attributes:
        offset: Convolution to the offsets in pixels: for each tap first down, then to the right.
    """

    def __init__(self, in_chs: int, out_chs: int, kernel_size: int, *, groups: int = 1, stride: int = 1) -> None:
        super().__init__(in_chs, out_chs, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
        self.offset = nn.Conv2d(in_chs, 2 * kernel_size**2, kernel_size, stride, padding=kernel_size // 2)
        self.keep_taps_in_place()

    def keep_taps_in_place(self) -> None:
        """Set the offsets to zero for every input, as before the first step of training."""
        nn.init.zeros_(self.offset.weight)
        assert self.offset.bias is not None
        nn.init.zeros_(self.offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the offsets, read the taps, and weigh them."""
        offsets_BK2HW = self.offset(x).unflatten(1, (-1, 2))  # noqa: N806 - the name carries the shape
        taps = self.read(x, offsets_BK2HW).flatten(1, 2)
        # one 1x1 convolution of all taps of a channel: the same products as those of a window
        weight = self.weight.flatten(2).flatten(1)[:, :, None, None]
        return functional.conv2d(taps, weight, groups=self.groups)

    def read(self, x: Tensor, offsets_BK2HW: Tensor) -> Tensor:  # noqa: N803 - the name carries the shape
        """Read the moved taps of every position: (B, C, H, W), (B, K, 2, H', W') -> (B, C, K, H', W')."""
        height, width = x.shape[2:]
        place = self._places(offsets_BK2HW)
        # from pixels to shares of the map: the centres of its first and last pixels are half a pixel inside -1 and 1
        down = (2 * place[:, :, 0] + 1) / height - 1
        right = (2 * place[:, :, 1] + 1) / width - 1
        grid = torch.stack([right, down], dim=-1).flatten(1, 2)  # (B, K * H, W, 2)
        read = functional.grid_sample(x.to(grid.dtype), grid, padding_mode="zeros", align_corners=False)
        values: Tensor = read.unflatten(2, offsets_BK2HW.shape[1:4:2]).to(x.dtype)
        return values

    def _places(self, offsets_BK2HW: Tensor) -> Tensor:  # noqa: N803 - as above
        """Return row and column of every moved tap, in pixels: (B, K, 2, H, W), in single precision at least."""
        offsets = at_least_float32(offsets_BK2HW)
        height, width = offsets.shape[3:]
        side = self.kernel_size[0]
        row, column, tap = (
            torch.arange(count, device=offsets.device, dtype=offsets.dtype) for count in (height, width, side)
        )
        row, column = row * self.stride[0], column * self.stride[1]
        tap = tap - side // 2
        rows = row[:, None] + tap.repeat_interleave(side)[:, None, None]
        columns = column + tap.repeat(side)[:, None, None]
        still = torch.stack([rows.expand(-1, -1, width), columns.expand(-1, height, -1)], dim=1)
        return offsets + still
