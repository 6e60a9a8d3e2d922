"""Forward kernel of local attention in Triton, and what it shares with the backward kernels.

A program computes one head of a tile of neighbouring queries, and walks over the offsets of the window: at each offset
all queries of the tile meet the keys that lie this far from them, whose position embedding is one vector for all.
Keys of neighbouring windows overlap, so that nearly all of these reads hit the cache. The softmax is computed as the
keys come, and sums are float32 in all types; a logit is a sum of products, without the rounding of tensor cores.

Maps are read with strides of image, row and column, and channels that lie side by side. The table has a row for each
offset -radius..radius: embeddings of row offsets for the first `by_row` channels, then those of column offsets for the
last `by_row` channels.
"""

import triton
import triton.language as tl

__all__ = [
    "MASK_EPS",
    "NO_SPECIALIZATION",
    "channels_of_head",
    "forward_kernel",
    "head_window",
    "tile_of_program",
    "tiles_of_map",
]

NO_SPECIALIZATION = ("height", "width", "heads", "radius")  # numbers that change without new programs
MASK_EPS = tl.constexpr(1e-8)  # as in models/local_attention/tiled.py


@triton.jit
def tiles_of_map(height, width, rows: tl.constexpr, cols: tl.constexpr):
    """Return the number of tiles of a map."""
    return tl.cdiv(height, rows) * tl.cdiv(width, cols)


@triton.jit
def tile_of_program(height, width, heads, rows: tl.constexpr, cols: tl.constexpr):
    """Return what a program computes: head, tile among all images, image, tile of the image, its rows and columns.

    The last value tells which of its pixels are on the map.
    """
    head, block = tl.program_id(0) % heads, (tl.program_id(0) // heads).to(tl.int64)
    tiles, across = tiles_of_map(height, width, rows, cols), tl.cdiv(width, cols)
    image, tile = block // tiles, (block % tiles).to(tl.int32)
    place = tl.arange(0, rows * cols)
    y, x = tile // across * rows + place // cols, tile % across * cols + place % cols
    return head, block, image, tile, y, x, (y < height) & (x < width)


@triton.jit
def channels_of_head(table, head, heads, radius, by_row, dim: tl.constexpr, dim_pad: tl.constexpr):
    """Return the channels of a head, padded, which of them it has, and in which it has embeddings of rows and columns.

    The last two values are the places of these embeddings for an offset of zero.
    """
    chans = head * dim + tl.arange(0, dim_pad)
    own = chans < head * dim + dim
    first = heads * dim - by_row
    of_rows = table + radius * 2 * by_row + chans
    return chans, own[None, :], own & (chans < by_row), own & (chans >= first), of_rows, of_rows + by_row - first


@triton.jit
def head_window(
    mask,
    head,
    heads,
    radius,
    heads_pad: tl.constexpr,
    rings_pad: tl.constexpr,
    masked: tl.constexpr,
    follows: tl.constexpr,
):
    """Return the radius of the window, which may follow the mask, and the last ring with weight of a head."""
    window = radius
    reach = radius
    if masked:
        ring = tl.arange(0, rings_pad)
        if follows:
            row = tl.arange(0, heads_pad)
            there = (row[:, None] < heads) & (ring[None, :] <= radius)
            weights = tl.load(mask + row[:, None] * (radius + 1) + ring[None, :], mask=there, other=0.0)
            window = tl.maximum(tl.max(tl.max(tl.where(weights != 0.0, ring[None, :], 0), 1), 0), 1)
            window = tl.minimum(window, radius)
        weights = tl.load(mask + head * (radius + 1) + ring, mask=ring <= radius, other=0.0)
        reach = tl.minimum(tl.max(tl.where(weights != 0.0, ring, 0), 0), window)
    return window, reach


@triton.jit(do_not_specialize=NO_SPECIALIZATION)
def forward_kernel(
    q,
    k,
    v,
    table,
    mask,
    out,
    tops,
    inverses,
    totals,
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
    """Compute the output of a head for a tile of queries, and what the backward pass needs to find its weights."""
    head, _, image, _, y, x, inside = tile_of_program(height, width, heads, rows, cols)
    across = 2 * by_row
    chans, own, has_row, has_col, of_rows, of_cols = channels_of_head(table, head, heads, radius, by_row, dim, dim_pad)
    window, reach = head_window(mask, head, heads, radius, heads_pad, rings_pad, masked, follows)
    span = reach if before else window

    here = (y * q_row + x * q_col)[:, None] + chans[None, :]
    query = tl.load(q + image * q_image + here, mask=inside[:, None] & own, other=0.0).to(tl.float32)
    top = tl.full([rows * cols], float("-inf"), tl.float32)
    every = tl.zeros([rows * cols], tl.float32)
    kept = tl.zeros([rows * cols], tl.float32)
    attended = tl.zeros([rows * cols, dim_pad], tl.float32)
    k += image * k_image
    v += image * k_image
    weights = mask + head * (radius + 1) if masked else mask
    for dy in range(-span, span + 1):
        key_y = y + dy
        in_rows = (key_y >= 0) & (key_y < height)
        row_at = key_y * k_row
        ring_y = tl.maximum(dy, -dy)
        by_y = tl.load(of_rows + dy * across, mask=has_row, other=0.0).to(tl.float32)
        for dx in range(-span, span + 1):
            key_x = x + dx
            there = in_rows & (key_x >= 0) & (key_x < width)
            read = there[:, None] & own
            at = (row_at + key_x * k_col)[:, None] + chans[None, :]
            by_x = tl.load(of_cols + dx * across, mask=has_col, other=0.0).to(tl.float32)
            key = tl.load(k + at, mask=read, other=0.0).to(tl.float32)
            logit = tl.sum(query * (key + (by_y + by_x)[None, :]), 1)
            higher = tl.maximum(top, logit)
            fade, share = tl.exp(top - higher), tl.exp(logit - higher)
            top = higher
            every = every * fade + share
            if masked:
                ring = tl.maximum(ring_y, tl.maximum(dx, -dx))
                share = share * tl.load(weights + ring).to(tl.float32)
                kept = kept * fade + share
                # without weight, not read
                read = (there & (key_y < tl.where(ring <= reach, height, 0)))[:, None] & own
            value = tl.load(v + at, mask=read, other=0.0).to(tl.float32)
            attended = attended * fade[:, None] + share[:, None] * value
    here = ((image * heads + head) * height + y) * width + x
    if before:
        every = kept
    divisor = every
    if masked and not before:
        total = kept / every + MASK_EPS
        divisor = every * total
        tl.store(totals + here, total, mask=inside)
    tl.store(tops + here, top, mask=inside)
    tl.store(inverses + here, 1.0 / every, mask=inside)
    here = (y * out_row + x * out_col)[:, None] + chans[None, :] * out_chan
    attended = (attended / divisor[:, None]).to(out.dtype.element_ty)
    tl.store(out + image * out_image + here, attended, mask=inside[:, None] & own)
