"""Local attention written out the long way: what the fast paths are held against."""

import torch
import torch.nn.functional as F
from torch import Tensor


def unfold_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_h: Tensor,
    rel_w: Tensor,
    *,
    num_heads: int,
    ring_mask: Tensor | None = None,
) -> Tensor:
    """Pad, unfold keys and values to k x k windows, multiply, softmax, mask, renormalise."""
    batch, channels, height, width = q.shape
    side = rel_h.shape[1]
    radius = side // 2
    padding = (radius, radius, radius, radius)
    keys = F.pad(k, padding).unfold(2, side, 1).unfold(3, side, 1)
    values = F.pad(v, padding).unfold(2, side, 1).unfold(3, side, 1)
    table = torch.cat([rel_h[:, :, None].expand(-1, side, side), rel_w[:, None, :].expand(-1, side, side)])
    keys = keys + table[None, :, None, None]

    heads = (batch, num_heads, channels // num_heads, height, width, side * side)
    logits = (q.reshape(*heads[:-1], 1) * keys.reshape(heads)).sum(2)
    weights = logits.softmax(-1)
    if ring_mask is not None:
        weights = weights * window_mask(ring_mask)[None, :, None, None]
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-8)
    return (weights[:, :, None] * values.reshape(heads)).sum(-1).reshape(batch, channels, height, width)


def window_mask(ring_mask: Tensor) -> Tensor:
    """The mask of each head over the flattened window: (G, K * K)."""
    radius = ring_mask.shape[1] - 1
    offset = torch.arange(-radius, radius + 1).abs()
    ring = torch.maximum(offset[:, None], offset[None, :])
    return ring_mask[:, ring.flatten()]
