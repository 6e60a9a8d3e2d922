"""Local attention as a formula over views of the windows: for compilers, which fuse it, and for exported programs.

Run eagerly it writes every key once per window; `models.local_attention.tiled` and the compiled kernel do not.
"""

import torch
from torch import Tensor
from torch.nn import functional

from models.local_attention.tiled import MASK_EPS, log_mask

__all__ = ["windowed_attention"]

_LIFT = 2.0**14  # changes no bit of a quotient, and keeps ONNX's optimiser from taking the epsilon for a zero


def windowed_attention(
    q: Tensor, k: Tensor, v: Tensor, rel: Tensor, ring_mask: Tensor | None, *, mask_before_softmax: bool = False
) -> Tensor:
    """Attend by the formula; see `models.local_attention.operator`.

    Shape: q, k, v (B, C, H, W), rel (G, 2 K, D), ring_mask (G, L + 1) -> (B, C, H, W).

    Args:
        q: Queries.
        k: Keys.
        v: Values.
        rel: Embeddings of the row offsets -L..L, then of the column offsets, as each head sees them.
        ring_mask: Weight of each head for the rings 0..L; None is all ones, without the division.
        mask_before_softmax: True to add the logarithm of the mask to the logits.
    """
    heads, sides, dim = rel.shape
    radius = sides // 4
    q = q.unflatten(1, (heads, dim))
    rows, cols = torch.einsum("gjd,bgdhw->bgjhw", rel, q).movedim(2, -1).chunk(2, dim=-1)  # (B, G, H, W, K)
    products = (q[..., None, None] * _windows(k, heads, radius)).sum(2)  # (B, G, H, W, K, K)
    logits = (products + rows.unsqueeze(-1) + cols.unsqueeze(-2)).flatten(-2)
    if ring_mask is not None and mask_before_softmax:
        logits = logits + _by_offset(log_mask(ring_mask))[:, None, None]
    weights = logits.softmax(-1)
    if ring_mask is not None and not mask_before_softmax:
        weights = weights * _by_offset(ring_mask)[:, None, None]
        weights = weights * _LIFT
        weights = weights / (weights.sum(-1, keepdim=True) + _LIFT * MASK_EPS)
    by_offset: Tensor = weights.unflatten(-1, (2 * radius + 1, 2 * radius + 1)).unsqueeze(2)
    attended: Tensor = by_offset * _windows(v, heads, radius)
    return attended.sum((-2, -1)).flatten(1, 2)


def _windows(x: Tensor, heads: int, radius: int) -> Tensor:
    """Return the window around every pixel, with zeros beyond the border: (B, G, D, H, W, K, K).

    A view of the padded map.
    """
    side = 2 * radius + 1
    padded: Tensor = functional.pad(x, (radius,) * 4).unflatten(1, (heads, -1))
    return padded.unfold(3, side, 1).unfold(4, side, 1)


def _by_offset(ring_mask: Tensor) -> Tensor:
    """Expand the mask to every pixel of the window: (G, L + 1) -> (G, K * K)."""
    radius = ring_mask.shape[1] - 1
    offset = torch.arange(-radius, radius + 1, device=ring_mask.device).abs()
    return ring_mask[:, torch.maximum(offset[:, None], offset[None, :]).flatten()]
