"""Naive local attention, the reference for the fast paths."""

from collections.abc import Callable
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import models.adaptive_span.attention
from models.local_attention.operator import local_attention

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def unfold_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_h: Tensor,
    rel_w: Tensor,
    *,
    num_heads: int,
    ring_mask: Tensor | None = None,
    mask_before_softmax: bool = False,
    window_follows_mask: bool = False,
) -> Tensor:
    """Pad, unfold keys and values to k x k windows, multiply, softmax, mask, renormalise; or mask the exponentials."""
    assert not window_follows_mask  # layers read the window first, unless a GPU does
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
    if ring_mask is not None and mask_before_softmax:
        mask = window_mask(torch.where(ring_mask > 0, ring_mask, 0.0))[None, :, None, None]
        exponentials = (logits - logits.amax(-1, keepdim=True).detach()).exp() * mask
        weights = exponentials / exponentials.sum(-1, keepdim=True)
    else:
        weights = logits.softmax(-1)
    if ring_mask is not None and not mask_before_softmax:
        weights = weights * window_mask(ring_mask)[None, :, None, None]
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-8)
    return (weights[:, :, None] * values.reshape(heads)).sum(-1).reshape(batch, channels, height, width)


def window_mask(ring_mask: Tensor) -> Tensor:
    """Return the mask of each head over the flattened window: (G, K * K)."""
    radius = ring_mask.shape[1] - 1
    offset = torch.arange(-radius, radius + 1).abs()
    ring = torch.maximum(offset[:, None], offset[None, :])
    return ring_mask[:, ring.flatten()]


def outcome(layer: nn.Module, x: Tensor, attention: Callable[..., Tensor] = local_attention) -> list[Tensor]:
    """Return the output of a layer with this attention, and the gradients of input and all parameters."""
    probe = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(x.dtype)
    x = x.detach().clone().requires_grad_()
    layer.zero_grad()
    with mock.patch.object(models.adaptive_span.attention, "local_attention", attention):
        y = layer(x)
        (y * probe).sum().backward()
    return [y.detach(), x.grad, *(parameter.grad.clone() for parameter in layer.parameters())]


def assert_same(ours: list[Tensor], reference: list[Tensor]) -> None:
    """Assert equality up to rounding, relative to the largest value of each tensor."""
    for a, b in zip(ours, reference, strict=True):
        assert a.dtype == b.dtype
        tolerance = TOLERANCE[b.dtype]
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * max(1.0, float(b.abs().max())))


def random_maps(size: tuple[int, int], dtype: torch.dtype = torch.float64, *, batch: int = 2, dim: int = 16) -> Tensor:
    """Return random maps, the same for the same size: (batch, dim, *size)."""
    generator = torch.Generator().manual_seed(sum(size))
    return torch.randn(batch, dim, *size, generator=generator, dtype=torch.float64).to(dtype)
