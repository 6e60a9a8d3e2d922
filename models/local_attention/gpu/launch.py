"""Launch of the Triton kernels: tiles, strides and results; no call reads anything back from the device.

Shapes: B images, C channels, G heads, D = C / G channels per head, H x W pixels, L radius of the table, K = 2 L + 1,
R channels with row offsets.
"""

import contextlib
import dataclasses
from typing import Any

import torch
import triton
from torch import Tensor

from models.local_attention.gpu.backward_kernels import keys_kernel, queries_kernel
from models.local_attention.gpu.forward_kernel import forward_kernel
from models.local_attention.gpu.layouts import like_queries

__all__ = ["attend", "attend_backward"]

TILE_ELEMENTS = 2048  # numbers of a tile's queries; larger tiles share more of their keys
WARP_ELEMENTS = 256  # 8 numbers of each map in a thread: with 16, registers leave room for 8 warps on a processor
MOST_PIXELS, FEWEST_PIXELS = 128, 16

_Optional = Tensor | None


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Division of one call into programs, and the numbers that all kernels take.

    Args:
        programs: Tiles of all images, times heads.
        tiles: Tiles of one image.
        numbers: Height, width, heads, radius and channels with row offsets.
        constants: Compile-time constants of a kernel.
        sides_pad: Power of two that holds the side of the window.
    """

    programs: int
    tiles: int
    numbers: tuple[int, ...]
    constants: dict[str, Any]
    sides_pad: int

    @classmethod
    def of(cls, q: Tensor, table: Tensor, mask: _Optional, *, heads: int, before: bool, follows: bool) -> "_Plan":
        images, channels, height, width = q.shape
        dim, side, by_row = channels // heads, table.shape[0], table.shape[1] // 2
        dim_pad, sides_pad = triton.next_power_of_2(dim), triton.next_power_of_2(side)
        pixels = max(FEWEST_PIXELS, min(MOST_PIXELS, TILE_ELEMENTS // max(dim_pad, sides_pad)))
        # nearly square, so that the windows of a tile share most of their keys
        cols = min(triton.next_power_of_2(width), 1 << (pixels.bit_length() // 2))
        rows = min(triton.next_power_of_2(height), pixels // cols)
        tiles = triton.cdiv(height, rows) * triton.cdiv(width, cols)
        constants = {
            "dim": dim,
            "dim_pad": dim_pad,
            "rows": rows,
            "cols": cols,
            "heads_pad": triton.next_power_of_2(heads),
            "rings_pad": triton.next_power_of_2(side // 2 + 1),
            "masked": mask is not None,
            "before": mask is not None and before,
            "follows": mask is not None and follows,
            "num_warps": max(1, min(8, rows * cols * dim_pad // WARP_ELEMENTS)),
            "enable_fp_fusion": True,  # the default of Triton so far
        }
        numbers = (height, width, heads, side // 2, by_row)
        return cls(images * tiles * heads, tiles, numbers, constants, sides_pad)


def attend(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, mask: _Optional, *, heads: int, before: bool, follows: bool
) -> tuple[Tensor, Tensor]:
    """Run the forward kernel; see `models.local_attention.gpu.operator`.

    Returns:
        The output (B, C, H, W), and per query the largest logit, the inverse sum of exponentials and what the mask
        keeps of them: (3, B, G, H, W) in float32.
    """
    plan = _Plan.of(q, table, mask, heads=heads, before=before, follows=follows)
    out = like_queries(q)
    stats = q.new_empty(3, q.shape[0], heads, *q.shape[2:], dtype=torch.float32)
    q, k, v = _channels_last(q), *_alike(k, v)
    places = (*_place(q), *_place(k), *out.stride())
    with _on_device(q):
        forward_kernel[(plan.programs,)](
            q, k, v, table.contiguous(), _dense(mask), out, *stats, *places, *plan.numbers, **plan.constants
        )
    return out, stats


def attend_backward(
    maps: tuple[Tensor, Tensor, Tensor],
    table: Tensor,
    mask: _Optional,
    results: tuple[Tensor, Tensor, Tensor],
    *,
    heads: int,
    before: bool,
    follows: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Run both backward kernels and sum the parts of the small gradients in the order of the tiles.

    Args:
        maps: Queries, keys and values.
        table: Embeddings, as given to `attend`.
        mask: Weight of each head for the rings, as given to `attend`.
        results: Both outputs of `attend`, and the gradient of the first.
        heads: Heads.
        before: Place of the mask.
        follows: True where the window ends with the mask.

    Returns:
        Gradients of q, k, v, table and mask, the last one empty where there is no mask.
    """
    q, k, v = _channels_last(maps[0]), *_alike(*maps[1:])
    out, stats, grad = results[0], results[1], _channels_last(results[2])
    plan = _Plan.of(q, table, mask, heads=heads, before=before, follows=follows)
    table, mask = table.contiguous(), _dense(mask)
    grad_q, grad_k, grad_v = (like_queries(maps[0], x.dtype) for x in maps)
    out = out if out.stride() == grad_q.stride() else torch.empty_like(grad_q).copy_(out)
    blocks = len(q) * plan.tiles
    along = torch.empty_like(stats[0])
    smallest = stats.new_empty(len(q), heads, plan.tiles)
    table_parts = stats.new_empty(blocks, *table.shape)
    mask_parts = None if mask is None else stats.new_empty(blocks, *mask.shape)
    places = (*_place(q), *_place(k), *grad_q.stride(), *_place(grad))
    with _on_device(q):
        queries_kernel[(plan.programs,)](
            *(q, k, v, table, mask, out, grad, *stats, grad_q, along, smallest, table_parts, mask_parts),
            *places,
            *plan.numbers,
            **plan.constants,
            sides_pad=plan.sides_pad,
        )
        keys_kernel[(plan.programs,)](
            *(q, k, v, table, mask, grad, *stats, along, smallest, grad_k, grad_v),
            *places,
            *plan.numbers,
            **plan.constants,
        )
    grad_mask = q.new_empty(0) if mask_parts is None else mask_parts.sum(0)
    return grad_q, grad_k, grad_v, table_parts.sum(0), grad_mask


def _channels_last(x: Tensor) -> Tensor:
    """Put the channels of a map side by side, as every offset reads them; images may lie apart."""
    return x if x.stride(1) == 1 else x.contiguous(memory_format=torch.channels_last)


def _alike(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Put the channels of keys and values side by side, with the same strides."""
    k, v = _channels_last(k), _channels_last(v)
    if k.stride() == v.stride():
        return k, v
    layout = torch.channels_last
    return torch.empty_like(k, memory_format=layout).copy_(k), torch.empty_like(v, memory_format=layout).copy_(v)


def _place(x: Tensor) -> tuple[int, int, int]:
    """Return the strides of image, row and column."""
    return x.stride(0), x.stride(2), x.stride(3)


def _dense(mask: _Optional) -> _Optional:
    return None if mask is None else mask.contiguous()


def _on_device(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Make the device of a tensor the current one, on which Triton launches."""
    return torch.cuda.device(x.device) if x.device.type == "cuda" else contextlib.nullcontext()
