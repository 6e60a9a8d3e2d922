"""Attention of every pixel to the square window around it, without unfolding keys and values.

The map is cut into tiles of queries. A tile and the halo of keys around it meet in one matrix product, so each
key is read once per tile instead of once per window. The backward pass computes the attention weights again,
a few images at a time: nothing of the size of the windows outlives one chunk.

Shape legend: B images, C channels, G heads, D = C / G channels per head, H x W pixels, L radius of the window,
K = 2L + 1 its side, T side of a tile, S = T + 2L side of its halo, N tiles of one chunk, P = T * T queries.

Source: the operator is that of Ramachandran et al. 2019 (stand-alone self-attention) with the ring mask of
Parker et al. 2020, formulas of both as in `models.adaptive_span`.
"""

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.options import ModelOptionError, OptionProblem

__all__ = ["local_attention"]

MASK_EPS = 1e-8  # added to the masked sum before dividing, as in the authors' code
CHUNK_ELEMENTS = 1 << 19  # attention weights alive at once on a CPU: 2 MB in float32
CHUNK_ELEMENTS_GPU = 1 << 26


def local_attention(
    q_BCHW: Tensor,
    k_BCHW: Tensor,
    v_BCHW: Tensor,
    rel_h_EK: Tensor,
    rel_w_EK: Tensor,
    *,
    num_heads: int,
    ring_mask_GR: Tensor | None = None,
) -> Tensor:
    """Attends from every pixel to its K x K window; pixels beyond the border are zero keys and zero values.

    A logit is <q, k + e> without scaling, where e holds the row table in the first half of all channels and the
    column table in the second. A key beyond the border is e alone, and stays in the softmax. With a ring mask the
    weights are multiplied after the softmax by the value of their ring and divided by their sum plus 1e-8.

    Shape: q, k, v (B, C, H, W), rel_h and rel_w (C / 2, K), ring_mask (G, L + 1) -> (B, C, H, W).

    Args:
        q_BCHW: Queries.
        k_BCHW: Keys, not padded.
        v_BCHW: Values, not padded.
        rel_h_EK: Embedding of each row offset -L..L; its width sets the window.
        rel_w_EK: Embedding of each column offset -L..L.
        num_heads: G; divides C.
        ring_mask_GR: Weight of each head for the rings 0..L (Chebyshev distance in pixels); None is all ones.

    Raises:
        ModelOptionError: C is odd or not divisible by `num_heads`, or the window is not odd.

    Source: Parker et al. 2020, sections 3.1 and 3.2.
    """
    channels, height, width = q_BCHW.shape[1:]
    side = rel_h_EK.shape[1]
    _check_shapes(channels, num_heads, side)
    geometry = _Geometry.of(height=height, width=width, radius=side // 2, heads=num_heads, channels=channels)
    rel = _head_tables(rel_h_EK, rel_w_EK, num_heads)
    mask = None if ring_mask_GR is None else _spread_rings(ring_mask_GR, geometry)
    if torch.is_grad_enabled() and not torch.compiler.is_exporting():
        attended: Tensor = _TiledAttention.apply(q_BCHW, k_BCHW, v_BCHW, rel, mask, geometry)
        return attended
    return _attend(q_BCHW, k_BCHW, v_BCHW, rel, mask, geometry)


def _check_shapes(channels: int, num_heads: int, side: int) -> None:
    if channels % 2 or channels % num_heads:
        rule = f"divides the {channels} channels of the layer, which are even"
        remedy = "Choose a power of two no larger than the narrowest stage."
        raise ModelOptionError([OptionProblem("num_heads", num_heads, rule, remedy)])
    if side % 2 == 0:
        raise ModelOptionError(
            [OptionProblem("kernel_size", side, "a window side is odd", f"Use {side + 1}.")]
        )


@dataclasses.dataclass(frozen=True)
class _Geometry:
    """How one map is cut: every size is in pixels."""

    height: int
    width: int
    heads: int
    dim: int
    radius: int
    tile: int
    rows: int
    cols: int

    @classmethod
    def of(cls, *, height: int, width: int, radius: int, heads: int, channels: int) -> "_Geometry":
        tile = _tile_side(max(height, width), radius)
        rows, cols = -(-height // tile), -(-width // tile)
        return cls(height, width, heads, channels // heads, radius, tile, rows, cols)

    @property
    def side(self) -> int:
        return 2 * self.radius + 1

    @property
    def halo(self) -> int:
        return self.tile + 2 * self.radius

    def images_per_chunk(self, device: torch.device) -> int:
        budget = CHUNK_ELEMENTS if device.type == "cpu" else CHUNK_ELEMENTS_GPU
        weights = self.rows * self.cols * self.heads * self.tile**2 * self.halo**2
        return max(1, budget // weights)


def _tile_side(map_side: int, radius: int) -> int:
    """Small tiles waste less of their halo, large ones repeat fewer keys; measured on maps of 1 to 32 px."""
    preferred = 4 if radius <= 6 else 8
    return min(map_side, preferred)


def _head_tables(rel_h_EK: Tensor, rel_w_EK: Tensor, heads: int) -> Tensor:
    """Both tables as seen by each head: (G, 2K, D), rows first; zero where a channel has no such table."""
    rows = torch.cat([rel_h_EK, torch.zeros_like(rel_w_EK)])
    cols = torch.cat([torch.zeros_like(rel_h_EK), rel_w_EK])
    return torch.cat([rows, cols], dim=1).unflatten(0, (heads, -1)).transpose(1, 2)


def _spread_rings(ring_mask_GR: Tensor, geometry: _Geometry) -> Tensor:
    """The mask of every query and key of a tile: (G, P, S * S), zero outside the window."""
    device = ring_mask_GR.device
    query = torch.arange(geometry.tile, device=device)
    key = torch.arange(geometry.halo, device=device) - geometry.radius
    offset = (key[None, :] - query[:, None]).abs()  # (T, S)
    ring = torch.maximum(offset[:, None, :, None], offset[None, :, None, :]).flatten(2).flatten(0, 1)
    outside = geometry.radius + 1
    padded = F.pad(ring_mask_GR, (0, 1))
    return padded[:, ring.clamp(max=outside)]


def _queries_to_tiles(x: Tensor, g: _Geometry) -> Tensor:
    """(b, C, H, W) -> (N, G, D, P)."""
    x = F.pad(x, (0, g.cols * g.tile - g.width, 0, g.rows * g.tile - g.height))
    x = x.reshape(-1, g.heads, g.dim, g.rows, g.tile, g.cols, g.tile)
    return x.permute(0, 3, 5, 1, 2, 4, 6).reshape(-1, g.heads, g.dim, g.tile**2)


def _tiles_to_queries(x: Tensor, g: _Geometry) -> Tensor:
    """(N, G, D, P) -> (b, C, H, W), the way back from `_queries_to_tiles`."""
    x = x.reshape(-1, g.rows, g.cols, g.heads, g.dim, g.tile, g.tile).permute(0, 3, 4, 1, 5, 2, 6)
    x = x.reshape(-1, g.heads * g.dim, g.rows * g.tile, g.cols * g.tile)
    return x[..., : g.height, : g.width]


def _keys_to_halos(x: Tensor, g: _Geometry) -> Tensor:
    """(b, C, H, W) -> (N, G, D, S * S), zeros beyond the border."""
    below = g.rows * g.tile - g.height + g.radius
    right = g.cols * g.tile - g.width + g.radius
    x = F.pad(x, (g.radius, right, g.radius, below)).unfold(2, g.halo, g.tile).unfold(3, g.halo, g.tile)
    x = x.unflatten(1, (g.heads, g.dim)).permute(0, 3, 4, 1, 2, 5, 6)
    return x.reshape(-1, g.heads, g.dim, g.halo**2)


def _halos_to_keys(x: Tensor, g: _Geometry) -> Tensor:
    """Sums overlapping halos back onto the map: (N, G, D, S * S) -> (b, C, H, W)."""
    x = x.reshape(-1, g.rows, g.cols, g.heads, g.dim, g.halo, g.halo).permute(0, 3, 4, 1, 5, 2, 6)
    parts = -(-g.halo // g.tile)
    images = x.shape[0]
    across = x.new_zeros(images, g.heads, g.dim, g.rows, g.halo, g.cols + parts - 1, g.tile)
    for part in range(parts):
        piece = x[..., part * g.tile : (part + 1) * g.tile]
        across[..., part : part + g.cols, : piece.shape[-1]] += piece
    across = across.flatten(5)
    down = x.new_zeros(images, g.heads, g.dim, g.rows + parts - 1, g.tile, across.shape[-1])
    for part in range(parts):
        piece = across[..., part * g.tile : (part + 1) * g.tile, :]
        down[:, :, :, part : part + g.rows, : piece.shape[-2]] += piece
    full = down.reshape(images, g.heads * g.dim, -1, across.shape[-1])
    return full[..., g.radius : g.radius + g.height, g.radius : g.radius + g.width]


def _band(x: Tensor, g: _Geometry, *, rows: bool) -> Tensor:
    """The view of (..., T, T, S) that holds, for each query, the K halo rows (or columns) of its window."""
    strides = list(x.stride())
    strides[-3 if rows else -2] += 1  # one query further down (right) starts one key further
    return x.as_strided((*x.shape[:-1], g.side), strides)


def _relative_logits(q_NGDP: Tensor, rel_GJD: Tensor, g: _Geometry) -> Tensor:
    """<q, e> of every query and halo key, far below zero outside the window: (N, G, P, S * S)."""
    by_offset = (rel_GJD @ q_NGDP).transpose(-2, -1).unflatten(-2, (g.tile, g.tile))
    lowest = torch.finfo(q_NGDP.dtype).min / 4
    spread = q_NGDP.new_full((2, *by_offset.shape[:-1], g.halo), lowest)
    _band(spread[0], g, rows=True).copy_(by_offset[..., : g.side])
    _band(spread[1], g, rows=False).copy_(by_offset[..., g.side :])
    return (spread[0].unsqueeze(-1) + spread[1].unsqueeze(-2)).flatten(4).flatten(2, 3)


def _weights(q_NGDP: Tensor, k_NGDS: Tensor, rel: Tensor, g: _Geometry) -> Tensor:
    """Softmax over the window, before the mask: (N, G, P, S * S)."""
    logits = _relative_logits(q_NGDP, rel, g).flatten(0, 1)
    logits.baddbmm_(q_NGDP.flatten(0, 1).transpose(1, 2), k_NGDS.flatten(0, 1))
    return logits.softmax(-1).unflatten(0, q_NGDP.shape[:2])


def _attend(q: Tensor, k: Tensor, v: Tensor, rel: Tensor, mask: Tensor | None, g: _Geometry) -> Tensor:
    """The forward pass, a few images at a time."""
    step = g.images_per_chunk(q.device)
    parts = []
    for q_part, k_part, v_part in zip(q.split(step), k.split(step), v.split(step), strict=True):
        weights = _weights(_queries_to_tiles(q_part, g), _keys_to_halos(k_part, g), rel, g)
        if mask is not None:
            weights = weights * mask
        attended = _keys_to_halos(v_part, g) @ weights.transpose(-2, -1)
        if mask is not None:
            attended = attended / (weights.sum(-1) + MASK_EPS).unsqueeze(-2)
        parts.append(_tiles_to_queries(attended, g))
    return torch.cat(parts) if len(parts) > 1 else parts[0].contiguous()


class _TiledAttention(torch.autograd.Function):
    """`_attend` with a backward pass that computes the weights again instead of keeping them."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, rel: Tensor, mask: Tensor | None, g: _Geometry
    ) -> Tensor:
        attended = _attend(q, k, v, rel, mask, g)
        ctx.geometry = g
        ctx.save_for_backward(q, k, v, rel, mask, attended)
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, rel, mask, attended = ctx.saved_tensors
        g: _Geometry = ctx.geometry
        step = g.images_per_chunk(q.device)
        grad_rel = torch.zeros_like(rel)
        grad_mask = None if mask is None else torch.zeros_like(mask)
        grads: list[tuple[Tensor, Tensor, Tensor]] = []
        for parts in zip(*(x.split(step) for x in (q, k, v, attended, grad)), strict=True):
            grads.append(_attend_backward(*parts, rel, mask, grad_rel, grad_mask, g))
        grad_q, grad_k, grad_v = (torch.cat(x) for x in zip(*grads, strict=True))
        return grad_q, grad_k, grad_v, grad_rel, grad_mask, None


def _attend_backward(
    q_map: Tensor,
    k_map: Tensor,
    v_map: Tensor,
    attended: Tensor,
    grad: Tensor,
    rel: Tensor,
    mask: Tensor | None,
    grad_rel: Tensor,
    grad_mask: Tensor | None,
    g: _Geometry,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of one chunk; those of the tables and the mask are added to `grad_rel` and `grad_mask`."""
    q, k, v = _queries_to_tiles(q_map, g), _keys_to_halos(k_map, g), _keys_to_halos(v_map, g)
    grad_out = _queries_to_tiles(grad, g)
    along = (grad_out * _queries_to_tiles(attended, g)).sum(2).unsqueeze(-1)  # (N, G, P, 1)
    weights = _weights(q, k, rel, g)
    if mask is None:
        grad_v = grad_out @ weights
        grad_logits = (grad_out.transpose(-2, -1) @ v).sub_(along).mul_(weights)
    else:
        assert grad_mask is not None
        masked = weights * mask
        total = masked.sum(-1, keepdim=True) + MASK_EPS
        grad_sum = grad_out / total.transpose(-2, -1)
        grad_v = grad_sum @ masked
        grad_logits = (grad_sum.transpose(-2, -1) @ v).sub_(along / total).mul_(weights)
        grad_mask += grad_logits.sum(0)
        # the softmax's own projection: zero but for the epsilon, as the division has normalised already
        grad_logits.mul_(mask).sub_(weights.mul_(along * (MASK_EPS / total)))
    grad_q = k @ grad_logits.transpose(-2, -1)
    grad_k = q @ grad_logits
    square = grad_logits.unflatten(-1, (g.halo, g.halo)).unflatten(2, (g.tile, g.tile))
    by_row = _band(square.sum(-1), g, rows=True)
    by_col = _band(square.sum(-2), g, rows=False)
    by_offset = torch.cat([by_row, by_col], dim=-1).flatten(2, 3)  # (N, G, P, 2K)
    grad_rel += (by_offset.transpose(-2, -1) @ q.transpose(-2, -1)).sum(0)
    grad_q += rel.transpose(-2, -1) @ by_offset.transpose(-2, -1)
    return _tiles_to_queries(grad_q, g), _halos_to_keys(grad_k, g), _halos_to_keys(grad_v, g)
