"""Backward kernels of local attention in Triton: one by queries, then one by keys, without atomic operations.

Both compute the weights again. The first gives the gradient of the queries, and for each tile of queries its part of
the gradients of table and mask, which are summed in a fixed order elsewhere. In the second one each key gathers from
the queries whose windows hold it.

Behind the end of a head's ramp, keys get a gradient through the epsilon of the mask alone, relative to the others at
most the epsilon over what the mask keeps: it is computed where some query keeps less than `SMALL_TOTAL`; above, it is
below 1e-5 of the gradient of its query, as in the kernel for CPUs.
"""

import triton
import triton.language as tl

from models.local_attention.gpu.forward_kernel import (
    MASK_EPS,
    NO_SPECIALIZATION,
    channels_of_head,
    head_window,
    tile_of_program,
    tiles_of_map,
)

__all__ = ["keys_kernel", "queries_kernel"]

SMALL_TOTAL = tl.constexpr(0.001)


@triton.jit(do_not_specialize=NO_SPECIALIZATION)
def queries_kernel(
    q,
    k,
    v,
    table,
    mask,
    out,
    grad,
    tops,
    inverses,
    totals,
    grad_q,
    alongs,
    smallest,
    table_parts,
    mask_parts,
    q_image,
    q_row,
    q_col,
    k_image,
    k_row,
    k_col,
    out_image,
    out_chan,
    out_row,
    out_col,
    grad_image,
    grad_row,
    grad_col,
    height,
    width,
    heads,
    radius,
    by_row,
    dim: tl.constexpr,
    dim_pad: tl.constexpr,
    rows: tl.constexpr,
    cols: tl.constexpr,
    heads_pad: tl.constexpr,
    rings_pad: tl.constexpr,
    sides_pad: tl.constexpr,
    masked: tl.constexpr,
    before: tl.constexpr,
    follows: tl.constexpr,
):
    """Compute the gradient of a head's queries of a tile, and the tile's part of those of table and mask."""
    head, block, image, tile, y, x, inside = tile_of_program(height, width, heads, rows, cols)
    across = 2 * by_row
    chans, own, has_row, has_col, of_rows, of_cols = channels_of_head(table, head, heads, radius, by_row, dim, dim_pad)
    window, reach = head_window(mask, head, heads, radius, heads_pad, rings_pad, masked, follows)

    here = (y * q_row + x * q_col)[:, None] + chans[None, :]
    query = tl.load(q + image * q_image + here, mask=inside[:, None] & own, other=0.0).to(tl.float32)
    here = (y * out_row + x * out_col)[:, None] + chans[None, :] * out_chan
    attended = tl.load(out + image * out_image + here, mask=inside[:, None] & own, other=0.0).to(tl.float32)
    here = (y * grad_row + x * grad_col)[:, None] + chans[None, :]
    given = tl.load(grad + image * grad_image + here, mask=inside[:, None] & own, other=0.0).to(tl.float32)
    along = tl.sum(attended * given, 1)
    here = ((image * heads + head) * height + y) * width + x
    tl.store(alongs + here, along, mask=inside)
    top = tl.load(tops + here, mask=inside, other=0.0)
    inverse = tl.load(inverses + here, mask=inside, other=0.0)
    outer = reach
    scale = tl.full([rows * cols], 1.0, tl.float32)
    if masked and not before:
        total = tl.load(totals + here, mask=inside, other=1.0)
        scale = 1.0 / total
        least = tl.min(total, 0)
        tl.store(smallest + (image * heads + head) * tiles_of_map(height, width, rows, cols) + tile, least)
        # after the softmax, a weight of zero may have a gradient: the end of the ramp
        outer = tl.minimum(window, tl.where(least < SMALL_TOTAL, window, reach + 1))
    lost = along * scale * MASK_EPS

    slot, rings = tl.arange(0, sides_pad), tl.arange(0, rings_pad)
    by_query = tl.zeros([rows * cols, dim_pad], tl.float32)
    by_column = tl.zeros([rows * cols, sides_pad], tl.float32)
    by_ring = tl.zeros([rows * cols, rings_pad], tl.float32)
    to_rows = table_parts + (block * (2 * radius + 1) + radius) * across + chans
    to_cols = to_rows + across - heads * dim
    k += image * k_image
    v += image * k_image
    weights = mask + head * (radius + 1) if masked else mask
    for dy in range(-outer, outer + 1):
        key_y = y + dy
        in_rows = (key_y >= 0) & (key_y < height)
        row_at = key_y * k_row
        ring_y = tl.maximum(dy, -dy)
        by_y = tl.load(of_rows + dy * across, mask=has_row, other=0.0).to(tl.float32)
        of_row = tl.zeros([rows * cols], tl.float32)
        for dx in range(-outer, outer + 1):
            key_x = x + dx
            read = (in_rows & (key_x >= 0) & (key_x < width))[:, None] & own
            at = (row_at + key_x * k_col)[:, None] + chans[None, :]
            by_x = tl.load(of_cols + dx * across, mask=has_col, other=0.0).to(tl.float32)
            key = tl.load(k + at, mask=read, other=0.0).to(tl.float32) + (by_y + by_x)[None, :]
            value = tl.load(v + at, mask=read, other=0.0).to(tl.float32)
            weight = tl.exp(tl.sum(query * key, 1) - top) * inverse
            by_logit = (tl.sum(given * value, 1) - along) * weight * scale
            if masked:
                ring = tl.maximum(ring_y, tl.maximum(dx, -dx))
                by_ring += tl.where((rings == ring)[None, :], by_logit[:, None], 0.0)
                by_logit *= tl.load(weights + ring).to(tl.float32)
                if not before:
                    by_logit -= weight * lost
            by_query += by_logit[:, None] * key
            by_column += tl.where((slot == dx + radius)[None, :], by_logit[:, None], 0.0)
            of_row += by_logit
        tl.store(to_rows + dy * across, tl.sum(of_row[:, None] * query, 0), mask=has_row)
    for dx in range(-outer, outer + 1):
        of_column = tl.sum(tl.where((slot == dx + radius)[None, :], by_column, 0.0), 1)
        tl.store(to_cols + dx * across, tl.sum(of_column[:, None] * query, 0), mask=has_col)
    nothing = tl.zeros([dim_pad], tl.float32)
    for far in range(outer + 1, radius + 1):
        for sign in tl.static_range(-1, 2, 2):
            tl.store(to_rows + sign * far * across, nothing, mask=has_row)
            tl.store(to_cols + sign * far * across, nothing, mask=has_col)
    if masked:
        gets = rings <= reach + 1
        if before:
            gets = (rings <= reach) & (tl.load(weights + rings, mask=rings <= radius, other=0.0) > 0.0)
        part = tl.where(gets, tl.sum(by_ring, 0), 0.0)
        tl.store(mask_parts + (block * heads + head) * (radius + 1) + rings, part, mask=rings <= radius)
    here = (y * out_row + x * out_col)[:, None] + chans[None, :] * out_chan
    tl.store(grad_q + image * out_image + here, by_query.to(grad_q.dtype.element_ty), mask=inside[:, None] & own)


@triton.jit(do_not_specialize=NO_SPECIALIZATION)
def keys_kernel(
    q,
    k,
    v,
    table,
    mask,
    grad,
    tops,
    inverses,
    totals,
    alongs,
    smallest,
    grad_k,
    grad_v,
    q_image,
    q_row,
    q_col,
    k_image,
    k_row,
    k_col,
    out_image,
    out_chan,
    out_row,
    out_col,
    grad_image,
    grad_row,
    grad_col,
    height,
    width,
    heads,
    radius,
    by_row,
    dim: tl.constexpr,
    dim_pad: tl.constexpr,
    rows: tl.constexpr,
    cols: tl.constexpr,
    heads_pad: tl.constexpr,
    rings_pad: tl.constexpr,
    masked: tl.constexpr,
    before: tl.constexpr,
    follows: tl.constexpr,
):
    """Compute the gradients of a head's keys and values of a tile, gathered from the queries around them."""
    head, _, image, _, y, x, inside = tile_of_program(height, width, heads, rows, cols)
    across = 2 * by_row
    chans, own, has_row, has_col, of_rows, of_cols = channels_of_head(table, head, heads, radius, by_row, dim, dim_pad)
    window, reach = head_window(mask, head, heads, radius, heads_pad, rings_pad, masked, follows)
    inner = reach
    if masked and not before:
        tiles = tiles_of_map(height, width, rows, cols)
        least = tl.full([128], 1.0, tl.float32)
        for start in range(0, tiles, 128):
            one = start + tl.arange(0, 128)
            at = (image * heads + head) * tiles + one
            least = tl.minimum(least, tl.load(smallest + at, mask=one < tiles, other=1.0))
        inner = tl.where(tl.min(least, 0) < SMALL_TOTAL, window, reach)

    here = image * k_image + (y * k_row + x * k_col)[:, None] + chans[None, :]
    key = tl.load(k + here, mask=inside[:, None] & own, other=0.0).to(tl.float32)
    value = tl.load(v + here, mask=inside[:, None] & own, other=0.0).to(tl.float32)
    by_key = tl.zeros([rows * cols, dim_pad], tl.float32)
    by_value = tl.zeros([rows * cols, dim_pad], tl.float32)
    q += image * q_image
    grad += image * grad_image
    weights = mask + head * (radius + 1) if masked else mask
    area = (image * heads + head) * height * width
    for dy in range(-inner, inner + 1):
        query_y = y - dy
        in_rows = (query_y >= 0) & (query_y < height)
        row_at, grad_at, stat_at = query_y * q_row, query_y * grad_row, query_y * width
        ring_y = tl.maximum(dy, -dy)
        by_y = tl.load(of_rows + dy * across, mask=has_row, other=0.0).to(tl.float32)
        for dx in range(-inner, inner + 1):
            query_x = x - dx
            there = in_rows & (query_x >= 0) & (query_x < width)
            read = there[:, None] & own
            by_x = tl.load(of_cols + dx * across, mask=has_col, other=0.0).to(tl.float32)
            at = (row_at + query_x * q_col)[:, None] + chans[None, :]
            query = tl.load(q + at, mask=read, other=0.0).to(tl.float32)
            at = (grad_at + query_x * grad_col)[:, None] + chans[None, :]
            given = tl.load(grad + at, mask=read, other=0.0).to(tl.float32)
            stat = stat_at + query_x
            top = tl.load(tops + area + stat, mask=there, other=0.0)
            inverse = tl.load(inverses + area + stat, mask=there, other=0.0)
            along = tl.load(alongs + area + stat, mask=there, other=0.0)
            weight = tl.exp(tl.sum(query * (key + (by_y + by_x)[None, :]), 1) - top) * inverse
            by_logit = (tl.sum(given * value, 1) - along) * weight
            share = weight
            if masked:
                ring_weight = tl.load(weights + tl.maximum(ring_y, tl.maximum(dx, -dx))).to(tl.float32)
                by_logit *= ring_weight
                share *= ring_weight
                if not before:
                    scale = 1.0 / tl.load(totals + area + stat, mask=there, other=1.0)
                    by_logit = (by_logit - weight * along * MASK_EPS) * scale
                    share *= scale
            by_key += by_logit[:, None] * query
            by_value += share[:, None] * given
    here = (y * out_row + x * out_col)[:, None] + chans[None, :] * out_chan
    tl.store(grad_k + image * out_image + here, by_key.to(grad_k.dtype.element_ty), mask=inside[:, None] & own)
    tl.store(grad_v + image * out_image + here, by_value.to(grad_v.dtype.element_ty), mask=inside[:, None] & own)
