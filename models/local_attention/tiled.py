"""Local attention in plain PyTorch: tiles of queries against their halo of keys, one matrix product each.

Each key is read once per tile instead of once per window. The backward pass computes the attention weights
again, a few images at a time, so nothing of the size of the windows outlives one chunk.

Shapes: B images, C channels, G heads, D = C / G channels per head, H x W pixels, L radius of the window,
K = 2 L + 1 its side, T side of a tile, S = T + 2 L side of its halo, N tiles of a chunk, P = T * T queries.
"""

import dataclasses
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

__all__ = ["MASK_EPS", "log_mask", "tiled_attention"]

_Maps = tuple[Tensor, Tensor, Tensor]

MASK_EPS = 1e-8  # added to the masked sum before dividing, as in the authors' code
TILE_PX = 4  # larger tiles waste more of their halo, smaller ones repeat more keys: measured at 1 to 32 px
CHUNK_ELEMENTS = 1 << 19  # attention weights alive at once on a CPU: 2 MB in float32
CHUNK_ELEMENTS_GPU = 1 << 26


def tiled_attention(
    q: Tensor, k: Tensor, v: Tensor, rel: Tensor, ring_mask: Tensor | None, *, mask_before_softmax: bool = False
) -> Tensor:
    """Attend by tiles, with sums in float32, or float64 for such maps; see `models.local_attention.operator`.

    Shape: q, k, v (B, C, H, W), rel (G, 2 K, D), ring_mask (G, L + 1) -> (B, C, H, W), in the type of q.

    Args:
        q: Queries.
        k: Keys.
        v: Values.
        rel: Embeddings of the row offsets -L..L, then of the column offsets, as each head sees them.
        ring_mask: Weight of each head for the rings 0..L; None is all ones, without the division.
        mask_before_softmax: True to add the logarithm of the mask to the logits.
    """
    narrow, wide = q.dtype, torch.float64 if q.dtype == torch.float64 else torch.float32
    q, k, v, rel = (x.to(wide) for x in (q, k, v, rel))
    geometry = _Geometry.of(q, rel)
    mask = bias = None
    if ring_mask is not None and mask_before_softmax:
        bias = _spread_rings(log_mask(ring_mask.to(wide)), geometry)
    elif ring_mask is not None:
        mask = _spread_rings(ring_mask.to(wide), geometry)
    with _without_autocast(q):
        if torch.is_grad_enabled():
            attended: Tensor = _TiledAttention.apply(q, k, v, rel, mask, bias, geometry)
        else:
            attended = _attend((q, k, v), rel, mask, bias, geometry)
    return attended.to(narrow)


def _without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Return a context without autocast: the backward pass, outside of it, computes the same weights again."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def log_mask(ring_mask: Tensor) -> Tensor:
    """Return the logarithm of a mask; a number far below every logit, without a gradient, where there is no weight."""
    limits = torch.finfo(ring_mask.dtype)
    return torch.where(ring_mask > 0, ring_mask.clamp_min(limits.tiny).log(), limits.min / 4)


@dataclasses.dataclass(frozen=True)
class _Geometry:
    """Cut of a map into tiles; sizes in pixels, rows and cols in tiles."""

    height: int
    width: int
    heads: int
    dim: int
    radius: int
    tile: int
    rows: int
    cols: int

    @classmethod
    def of(cls, q: Tensor, rel: Tensor) -> "_Geometry":
        height, width = q.shape[-2:]
        heads, sides, dim = rel.shape
        tile = min(TILE_PX, max(height, width))
        return cls(height, width, heads, dim, sides // 4, tile, -(-height // tile), -(-width // tile))

    @property
    def side(self) -> int:
        return 2 * self.radius + 1

    @property
    def halo(self) -> int:
        return self.tile + 2 * self.radius

    def chunks(self, batch: Tensor) -> list[slice]:
        """Return the images that are computed together."""
        per_image = self.rows * self.cols * self.heads * self.tile**2 * self.halo**2
        on_cpu = batch.device.type == "cpu"
        budget = CHUNK_ELEMENTS * torch.get_num_threads() if on_cpu else CHUNK_ELEMENTS_GPU
        step = max(1, budget // per_image)
        return [slice(start, start + step) for start in range(0, len(batch), step)]

    def queries_to_tiles(self, x: Tensor) -> Tensor:
        """Cut queries into tiles: (b, C, H, W) -> (N, G, D, P)."""
        below, right = self.rows * self.tile - self.height, self.cols * self.tile - self.width
        x = functional.pad(x, (0, right, 0, below))
        x = x.reshape(-1, self.heads, self.dim, self.rows, self.tile, self.cols, self.tile)
        return x.permute(0, 3, 5, 1, 2, 4, 6).reshape(-1, self.heads, self.dim, self.tile**2)

    def tiles_to_queries(self, x: Tensor) -> Tensor:
        """Join tiles, the inverse of `queries_to_tiles`: (N, G, D, P) -> (b, C, H, W)."""
        x = x.reshape(-1, self.rows, self.cols, self.heads, self.dim, self.tile, self.tile)
        x = x.permute(0, 3, 4, 1, 5, 2, 6)
        x = x.reshape(-1, self.heads * self.dim, self.rows * self.tile, self.cols * self.tile)
        return x[..., : self.height, : self.width]

    def keys_to_halos(self, x: Tensor) -> Tensor:
        """Cut keys into halos, with zeros beyond the border: (b, C, H, W) -> (N, G, D, S * S)."""
        below = self.rows * self.tile - self.height + self.radius
        right = self.cols * self.tile - self.width + self.radius
        x = functional.pad(x, (self.radius, right, self.radius, below))
        x = x.reshape(-1, self.heads, self.dim, *x.shape[-2:])
        x = x.unfold(3, self.halo, self.tile).unfold(4, self.halo, self.tile)
        return x.permute(0, 3, 4, 1, 2, 5, 6).reshape(-1, self.heads, self.dim, self.halo**2)

    def halos_to_keys(self, x: Tensor) -> Tensor:
        """Sum the overlapping halos back onto the map: (N, G, D, S * S) -> (b, C, H, W)."""
        x = x.reshape(-1, self.rows, self.cols, self.heads, self.dim, self.halo, self.halo)
        x = x.permute(0, 3, 4, 1, 5, 2, 6)  # (b, G, D, rows, S, cols, S)
        parts = -(-self.halo // self.tile)
        head = x.shape[:3]
        across = x.new_zeros(*head, self.rows, self.halo, self.cols + parts - 1, self.tile)
        for part in range(parts):
            piece = x[..., part * self.tile : (part + 1) * self.tile]
            across[..., part : part + self.cols, : piece.shape[-1]] += piece
        across = across.flatten(5)
        down = x.new_zeros(*head, self.rows + parts - 1, self.tile, across.shape[-1])
        for part in range(parts):
            piece = across[..., part * self.tile : (part + 1) * self.tile, :]
            down[:, :, :, part : part + self.rows, : piece.shape[-2]] += piece
        full = down.reshape(head[0], self.heads * self.dim, -1, across.shape[-1])
        return full[..., self.radius : self.radius + self.height, self.radius : self.radius + self.width]

    def band(self, x: Tensor, *, rows: bool) -> Tensor:
        """View (N, G, T, T, S) as the K halo rows (or columns) of the window of each query."""
        strides = list(x.stride())
        strides[2 if rows else 3] += 1  # one query further down (right) starts one key further
        return x.as_strided((*x.shape[:-1], self.side), strides)


def _spread_rings(ring_mask: Tensor, g: _Geometry) -> Tensor:
    """Expand a value by ring to every query and key of a tile: (G, P, S * S), zero outside the window."""
    query = torch.arange(g.tile, device=ring_mask.device)
    key = torch.arange(g.halo, device=ring_mask.device) - g.radius
    offset = (key[None, :] - query[:, None]).abs()  # (T, S)
    ring = torch.maximum(offset[:, None, :, None], offset[None, :, None, :]).reshape(g.tile**2, g.halo**2)
    return functional.pad(ring_mask, (0, 1))[:, ring.clamp(max=g.radius + 1)]


def _relative_logits(q: Tensor, rel: Tensor, g: _Geometry) -> Tensor:
    """Compute <q, e> of every query and halo key, far below zero outside the window: (N, G, P, S * S)."""
    by_offset = (rel @ q).transpose(-2, -1).reshape(len(q), g.heads, g.tile, g.tile, 2 * g.side)
    lowest = torch.finfo(q.dtype).min / 4
    spread = q.new_full((2, *by_offset.shape[:-1], g.halo), lowest)
    g.band(spread[0], rows=True).copy_(by_offset[..., : g.side])
    g.band(spread[1], rows=False).copy_(by_offset[..., g.side :])
    logits = spread[0].unsqueeze(-1) + spread[1].unsqueeze(-2)
    return logits.reshape(len(q), g.heads, g.tile**2, g.halo**2)


def _weights(q: Tensor, k: Tensor, rel: Tensor, bias: Tensor | None, g: _Geometry) -> Tensor:
    """Compute the softmax over the window, of logits with their bias and before a mask: (N, G, P, S * S)."""
    logits = _relative_logits(q, rel, g)
    if bias is not None:
        logits += bias
    logits.flatten(0, 1).baddbmm_(q.flatten(0, 1).transpose(1, 2), k.flatten(0, 1))
    return logits.softmax(-1)


def _attend(maps: _Maps, rel: Tensor, mask: Tensor | None, bias: Tensor | None, g: _Geometry) -> Tensor:
    """Run the forward pass over q, k and v, a few images at a time."""
    q, k, v = maps
    parts = []
    for chunk in g.chunks(q):
        weights = _weights(g.queries_to_tiles(q[chunk]), g.keys_to_halos(k[chunk]), rel, bias, g)
        if mask is not None:
            weights = weights * mask
        attended = g.keys_to_halos(v[chunk]) @ weights.transpose(-2, -1)
        if mask is not None:
            attended = attended / (weights.sum(-1) + MASK_EPS).unsqueeze(-2)
        parts.append(g.tiles_to_queries(attended))
    return torch.cat(parts) if len(parts) > 1 else parts[0].contiguous()


class _TiledAttention(torch.autograd.Function):
    """Autograd function of `_attend` that computes the weights again in the backward pass."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rel: Tensor,
        mask: Tensor | None,
        bias: Tensor | None,
        g: _Geometry,
    ) -> Tensor:
        attended = _attend((q, k, v), rel, mask, bias, g)
        ctx.geometry = g
        ctx.save_for_backward(q, k, v, rel, mask, bias, attended)
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, rel, mask, bias, attended = ctx.saved_tensors
        g: _Geometry = ctx.geometry
        by_key = (mask, bias)
        chunks = [_attend_backward((q[i], k[i], v[i]), (attended[i], grad[i]), rel, by_key, g) for i in g.chunks(q)]
        grad_qs, grad_ks, grad_vs, grad_rels, grads_by_key = zip(*chunks, strict=True)
        grad_rel = torch.stack(grad_rels).sum(0)
        grad_by_key = None if mask is None and bias is None else torch.stack(grads_by_key).sum(0)
        grad_mask, grad_bias = (None, grad_by_key) if mask is None else (grad_by_key, None)
        return torch.cat(grad_qs), torch.cat(grad_ks), torch.cat(grad_vs), grad_rel, grad_mask, grad_bias, None


def _attend_backward(
    maps: _Maps,
    out: tuple[Tensor, Tensor],
    rel: Tensor,
    by_key: tuple[Tensor | None, Tensor | None],
    g: _Geometry,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Compute the gradients of q, k, v, `rel` and the one of `by_key` that is given, for one chunk.

    Args:
        maps: Queries, keys and values of the chunk, each (b, C, H, W).
        out: Output of `_attend` for them, and its gradient.
        rel: Embeddings of the offsets, see `tiled_attention`.
        by_key: Factor of the weights and summand of the logits, outputs of `_spread_rings`; at most one is given.
        g: Geometry of the map.
    """
    mask, bias = by_key
    q, attended, grad_out = (g.queries_to_tiles(x) for x in (maps[0], *out))
    k, v = g.keys_to_halos(maps[1]), g.keys_to_halos(maps[2])
    along = (grad_out * attended).sum(2).unsqueeze(-1)  # (N, G, P, 1)
    weights = _weights(q, k, rel, bias, g)
    grad_by_key = None
    if mask is None:
        grad_v = grad_out @ weights
        grad_logits = (grad_out.transpose(-2, -1) @ v).sub_(along).mul_(weights)
        grad_by_key = None if bias is None else grad_logits.sum(0)
    else:
        masked = weights * mask
        total = masked.sum(-1, keepdim=True) + MASK_EPS
        grad_sum = grad_out / total.transpose(-2, -1)
        grad_v = grad_sum @ masked
        grad_logits = (grad_sum.transpose(-2, -1) @ v).sub_(along / total).mul_(weights)
        grad_by_key = grad_logits.sum(0)
        # the term of the softmax: zero but for the epsilon, as the division has normalised already
        grad_logits.mul_(mask).sub_(weights.mul_(along * (MASK_EPS / total)))
    grad_q = k @ grad_logits.transpose(-2, -1)
    grad_k = q @ grad_logits
    square = grad_logits.reshape(len(q), g.heads, g.tile, g.tile, g.halo, g.halo)
    by_row, by_col = g.band(square.sum(-1), rows=True), g.band(square.sum(-2), rows=False)
    by_offset = torch.cat([by_row, by_col], dim=-1).flatten(2, 3)  # (N, G, P, 2 K)
    grad_rel = (by_offset.transpose(-2, -1) @ q.transpose(-2, -1)).sum(0)
    grad_q += rel.transpose(-2, -1) @ by_offset.transpose(-2, -1)
    return g.tiles_to_queries(grad_q), g.halos_to_keys(grad_k), g.halos_to_keys(grad_v), grad_rel, grad_by_key
