"""Attention-augmented convolution: some channels from a convolution, the others from attention to the whole map.

Every pixel attends to every other one through keys and queries that are themselves convolutions; the output of the
heads replaces the last `dv` channels. Relative positions add to each logit the query times the embedding of the row
offset and of the column offset.

Source: Bello et al. 2019 (arXiv 1904.09925), as the control of Parker et al. 2020 (arXiv 2004.08708).
Differs: offsets beyond 31 px share the last embedding, so that one table serves maps of any size.
"""

import torch
from timm.models import register_notrace_module
from torch import Tensor, nn
from torch.nn import functional

from models.padding import WholeMapLayer

__all__ = ["AugmentedConv"]

TABLE_REACH = 31  # largest offset with an embedding of its own, in pixels


@register_notrace_module
class AugmentedConv(WholeMapLayer):
    """Convolution and multi-head attention to the whole map, side by side.

    Shape: x (B, dim, H, W) -> (B, dim, H, W), the last `dv` channels from the attention.

    Args:
        dim: Channels; more than `dv`.
        dk: Channels of the queries and of the keys of all heads; divisible by `num_heads`.
        dv: Channels of the values of all heads; divisible by `num_heads`.
        num_heads: Heads.
        kernel_size: Side of all convolutions but the last, in pixels; odd.
        relative: True to add relative positions to the logits.
        pixels_before_channels: True for the layout of the code of Parker et al., which reads the (pixels, channels)
            of a head as (channels, pixels); it makes no difference with one value channel per head.
    """

    def __init__(
        self,
        dim: int,
        *,
        dk: int,
        dv: int,
        num_heads: int,
        kernel_size: int = 3,
        relative: bool = False,
        pixels_before_channels: bool = False,
    ) -> None:
        super().__init__()
        self.dk, self.dv = dk, dv
        self.num_heads = num_heads
        self.relative = relative
        self.pixels_before_channels = pixels_before_channels
        self.conv = nn.Conv2d(dim, dim - dv, kernel_size, padding=kernel_size // 2)
        self.qkv = nn.Conv2d(dim, 2 * dk + dv, kernel_size, padding=kernel_size // 2)
        self.project = nn.Conv2d(dv, dv, 1)
        if relative:
            per_head = dk // num_heads
            self.rel_h = nn.Parameter(torch.randn(2 * TABLE_REACH + 1, per_head) * per_head**-0.5)
            self.rel_w = nn.Parameter(torch.randn(2 * TABLE_REACH + 1, per_head) * per_head**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and attend."""
        height, width = x.shape[-2:]
        q, k, v = (self._by_head(part) for part in self.qkv(x).split([self.dk, self.dk, self.dv], dim=1))
        scale = q.shape[-1] ** -0.5
        if self.relative:
            q, k = self._with_positions(q, k, height, width)
        padding = self.padding_of_batch
        covered = None if padding is None else padding.mask(x).flatten(2)[:, None]
        y = _attend(q, k, v, scale, covered)
        y = y if self.pixels_before_channels else y.transpose(2, 3)
        y = self.project(y.reshape(-1, self.dv, height, width))
        return torch.cat([self.conv(x), y], dim=1)

    def _by_head(self, x: Tensor) -> Tensor:
        """Split the channels by head: (B, heads * D, H, W) -> (B, heads, H * W, D)."""
        heads: Tensor = x.unflatten(1, (self.num_heads, -1))
        return heads.flatten(3).transpose(2, 3)

    def _with_positions(self, q: Tensor, k: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return queries and keys whose product is the logit with positions: D grows by H + W.

        Query (y, x) gets its product with the embedding of every row and every column; key (y', x') picks row y'
        and column x'. Nothing of the size of the logits is kept, which a sum of biases would.
        """
        q_map = q.unflatten(2, (height, width))
        rows = torch.einsum("bnyxd,ykd->bnyxk", q_map, self.rel_h[_offsets(height, q.device)])
        cols = torch.einsum("bnyxd,xkd->bnyxk", q_map, self.rel_w[_offsets(width, q.device)])
        row = torch.eye(height, dtype=k.dtype, device=k.device).repeat_interleave(width, dim=0)
        col = torch.eye(width, dtype=k.dtype, device=k.device).repeat(height, 1)
        places = torch.cat([row, col], dim=1).expand(*k.shape[:2], -1, -1)
        return torch.cat([q, rows.flatten(2, 3), cols.flatten(2, 3)], dim=-1), torch.cat([k, places], dim=-1)


def _offsets(side: int, device: torch.device) -> Tensor:
    """Return the table entry for every query and key of a row of `side` pixels: (side, side)."""
    place = torch.arange(side, device=device)
    return (place - place[:, None]).clamp(-TABLE_REACH, TABLE_REACH) + TABLE_REACH


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float, covered: Tensor | None) -> Tensor:
    """Attend in all heads: (B, heads, pixels, D) and values of D_v channels -> (B, heads, pixels, D_v).

    Queries, keys and values are filled up with zeros to one size, as the kernels that never store the logits
    require. `covered` (B, 1, 1, pixels) is true for the keys that take part; all where it is None.
    """
    wide = max(q.shape[-1], v.shape[-1])
    q, k, filled = (functional.pad(part, (0, wide - part.shape[-1])) for part in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, filled, covered, scale=scale)[..., : v.shape[-1]]
