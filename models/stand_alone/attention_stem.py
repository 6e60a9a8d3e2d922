"""First layer of stand-alone self-attention: attention of every pixel to the block of 4 x 4 pixels that contains it.

Values depend on the place of their pixel in the block, as the taps of a convolution do: each is a mixture of four
linear maps of the pixel, with weights p(a, b, m) = softmax over m of <row_a + col_b, nu_m>, the same for all heads.

Source: Ramachandran et al. 2019 (arXiv 1906.05909). Differs: logits have the relative positions of the other layers,
and a ReLU follows the norm, as in the stem of a ResNet.
"""

import torch
from timm.models import register_notrace_module
from torch import Tensor, nn
from torch.nn import functional

from models.local_attention.operator import tables_by_head

__all__ = ["AttentionStem"]

BLOCK_PX = 4
MIXTURES = 4


@register_notrace_module
class BlockAttention(nn.Module):
    """Multi-head attention inside blocks of 4 x 4 pixels, with values that depend on the place in the block.

    Shape: x (B, in_chans, H, W) -> (B, width, H, W). Blocks that the border cuts are filled up with zeros, which take
    part in the softmax.

    Args:
        in_chans: Channels of the images.
        width: Channels of the output; even, and divisible by `num_heads`.
        num_heads: Heads, which share the channels.
    """

    def __init__(self, in_chans: int, width: int, *, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qk = nn.Conv2d(in_chans, 2 * width, 1, bias=False)
        self.values = nn.Parameter(torch.empty(MIXTURES, width, in_chans))
        self.row = nn.Parameter(torch.empty(BLOCK_PX, width))
        self.col = nn.Parameter(torch.empty(BLOCK_PX, width))
        self.mixture = nn.Parameter(torch.empty(MIXTURES, width))
        self.rel_h = nn.Parameter(torch.empty(width // 2, 2 * BLOCK_PX - 1))
        self.rel_w = nn.Parameter(torch.empty(width // 2, 2 * BLOCK_PX - 1))
        _init_stem(self)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within the blocks."""
        height, width = x.shape[2:]
        padded = functional.pad(x, (0, -width % BLOCK_PX, 0, -height % BLOCK_PX))
        q, k = (self._to_blocks(part) for part in self.qk(padded).chunk(2, dim=1))  # (B, h, w, G, 16, D)
        logits = q @ k.transpose(-2, -1) + torch.einsum("bhwgqd,gqkd->bhwgqk", q, self._positions())
        attended = logits.softmax(-1) @ self._values(padded)
        rows, cols = attended.shape[1:3]
        y: Tensor = attended.unflatten(4, (BLOCK_PX, BLOCK_PX)).permute(0, 3, 6, 1, 4, 2, 5)  # (B, G, D, h, 4, w, 4)
        y = y.reshape(-1, self.qk.out_channels // 2, rows * BLOCK_PX, cols * BLOCK_PX)
        return y[..., :height, :width]

    def mixture_weights(self) -> Tensor:
        """Return p(a, b, m), the share of each linear map at each place of a block: (4, 4, 4)."""
        place = self.row[:, None] + self.col[None, :]
        return (place @ self.mixture.transpose(0, 1)).softmax(-1)

    def _to_blocks(self, x: Tensor) -> Tensor:
        """Cut a map into blocks by head: (B, C, H, W) -> (B, H / 4, W / 4, G, 16, C / G)."""
        x = x.unflatten(3, (-1, BLOCK_PX)).unflatten(2, (-1, BLOCK_PX)).unflatten(1, (self.num_heads, -1))
        return x.permute(0, 3, 5, 1, 4, 6, 2).flatten(4, 5)

    def _values(self, x: Tensor) -> Tensor:
        """Compute the values of padded images, in blocks by head: (B, H / 4, W / 4, G, 16, C / G)."""
        pixels = x.unflatten(3, (-1, BLOCK_PX)).unflatten(2, (-1, BLOCK_PX)).permute(0, 2, 4, 3, 5, 1).flatten(3, 4)
        maps = torch.einsum("sm,mci->sci", self.mixture_weights().flatten(0, 1), self.values)
        values = torch.einsum("bhwsi,sci->bhwsc", pixels, maps)
        by_head: Tensor = values.unflatten(4, (self.num_heads, -1)).transpose(3, 4)
        return by_head

    def _positions(self) -> Tensor:
        """Return the embedding of the offset from every query to every key of a block: (G, 16, 16, D)."""
        place = torch.arange(BLOCK_PX, device=self.rel_h.device)
        offset = place[None, :] - place[:, None] + BLOCK_PX - 1  # (query, key)
        tables = tables_by_head(self.rel_h, self.rel_w, self.num_heads)
        by_row, by_col = (table[:, offset] for table in tables.chunk(2, dim=1))  # (G, 4, 4, D)
        both = by_row[:, :, None, :, None] + by_col[:, None, :, None, :]  # (G, 4, 4, 4, 4, D)
        return both.flatten(3, 4).flatten(1, 2)


class AttentionStem(nn.Module):
    """First layer: attention inside blocks, batch norm, ReLU and a 4x4 max-pool.

    Shape: x (B, in_chans, H, W) -> (B, width, ceil(H / 4), ceil(W / 4)).

    Args:
        in_chans: Channels of the images.
        width: Channels of the output.
        num_heads: Heads of the attention.
    """

    reduction = BLOCK_PX

    def __init__(self, in_chans: int, width: int, *, num_heads: int) -> None:
        super().__init__()
        self.attention = BlockAttention(in_chans, width, num_heads=num_heads)
        self.bn = nn.BatchNorm2d(width)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(BLOCK_PX, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        """Attend, normalise, activate and pool."""
        y: Tensor = self.pool(self.act(self.bn(self.attention(x))))
        return y


@torch.no_grad()
def _init_stem(layer: BlockAttention) -> None:
    """Initialise projections by He's fan-out rule, embeddings from a standard normal."""
    for projection in (*layer.qk.weight.chunk(2), *layer.values.unsqueeze(-1)):
        nn.init.kaiming_normal_(projection, mode="fan_out", nonlinearity="relu")
    for embedding in (layer.row, layer.col, layer.mixture, layer.rel_h, layer.rel_w):
        nn.init.normal_(embedding)
