"""Attention of every pixel to the square window around it: the operator, and the choice of its implementation.

A logit is <q, k + e> without scaling, where e holds the row table in the first half of all channels and the
column table in the second. A key beyond the border is e alone with a value of zero, and stays in the softmax.
With a ring mask the weights are multiplied after the softmax by the value of their ring (pixels at one
Chebyshev distance) and divided by their sum plus 1e-8. Before the softmax, the logarithm of that value is added to
the logits instead: the softmax is one over the pixels that have weight, without the epsilon.

Source: Ramachandran et al. 2019 (arXiv 1906.05909) for the attention, Parker et al. 2020 (arXiv 2004.08708)
for tables and mask.

On a CPU a kernel compiled on first use computes it, on GPUs kernels in Triton, also in compiled programs
(`SPATIALSWEEP_KERNELS=0` turns both off). Double precision on GPUs, other devices, and machines without a C++ compiler
or without Triton use the tiles of plain PyTorch; other compiled programs, and exported ones, the formula itself.
"""

import torch
from torch import Tensor

from models.common.merging import is_traced
from models.common.options import ModelOptionError, OptionProblem
from models.local_attention.gpu.operator import gpu_attention, gpu_serves
from models.local_attention.kernel import kernel_attention, kernel_serves
from models.local_attention.tiled import tiled_attention
from models.local_attention.windowed import windowed_attention
from models.padding import is_traced_to_file

__all__ = ["attend_by_head", "in_order_of", "local_attention", "tables_by_head"]


def local_attention(
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
    """Attend from every pixel to the K x K window around it, K = 2 L + 1.

    Shape: q, k, v (B, C, H, W), rel_h and rel_w (C / 2, K), ring_mask (num_heads, L + 1) -> (B, C, H, W).

    Args:
        q: Queries.
        k: Keys, not padded.
        v: Values, not padded.
        rel_h: Embedding of each row offset -L..L in pixels; its width sets the window.
        rel_w: Embedding of each column offset -L..L in pixels.
        num_heads: Heads, which share the channels.
        ring_mask: Weight of each head for the rings 0..L; None is all ones, without the division. Behind the end
            of a ramp, its first ring without weight, no ring gets a gradient.
        mask_before_softmax: True to add the logarithm of the mask to the logits, instead of multiplying the weights.
            Rings without weight then get no gradient at all.
        window_follows_mask: True for a window that ends at the last ring with weight for any head, found on the GPU;
            only where `gpu_serves`.

    Raises:
        ModelOptionError: C is odd or not divisible by `num_heads`, or the window is not odd.
    """
    channels, side = q.shape[1], rel_h.shape[1]
    if channels % 2 or channels % num_heads:
        rule = f"num_heads divides the {channels} channels of the layer, which are even"
        remedy = "Use a power of two no larger than the narrowest stage."
        raise ModelOptionError([OptionProblem("num_heads", num_heads, rule, remedy)])
    if side % 2 == 0:
        problem = OptionProblem("kernel_size", side, "a window side is odd", f"Use {side - 1} or {side + 1}.")
        raise ModelOptionError([problem])
    if gpu_serves(q, num_heads=num_heads, side=side):
        return gpu_attention(
            q,
            k,
            v,
            torch.cat([rel_h, rel_w]).transpose(0, 1).contiguous(),
            ring_mask,
            num_heads=num_heads,
            mask_before_softmax=mask_before_softmax,
            window_follows_mask=window_follows_mask,
        )
    assert not window_follows_mask
    rel = tables_by_head(rel_h, rel_w, num_heads)
    if ring_mask is not None and ring_mask.requires_grad:
        ring_mask = _held_behind_the_ramp(ring_mask)
    return attend_by_head(q, k, v, rel, ring_mask, mask_before_softmax=mask_before_softmax)


def attend_by_head(
    q: Tensor, k: Tensor, v: Tensor, rel: Tensor, ring_mask: Tensor | None, *, mask_before_softmax: bool = False
) -> Tensor:
    """Attend with both tables split by head, by the implementation that suits tensors and machine.

    Shape: q, k, v (B, C, H, W), rel (num_heads, 2 K, C / num_heads), ring_mask (num_heads, L + 1) -> (B, C, H, W).

    Args:
        q: Queries.
        k: Keys, not padded.
        v: Values, not padded.
        rel: Output of `tables_by_head`.
        ring_mask: Weight of each head for the rings 0..L, see `local_attention`.
        mask_before_softmax: Place of the mask, see `local_attention`.
    """
    heads, sides, _ = rel.shape
    if gpu_serves(q, num_heads=heads, side=sides // 2):
        table = torch.cat([part.transpose(0, 1).flatten(1) for part in rel.chunk(2, dim=1)], dim=1)
        return gpu_attention(q, k, v, table, ring_mask, num_heads=heads, mask_before_softmax=mask_before_softmax)
    if torch.compiler.is_compiling() or torch.compiler.is_exporting() or is_traced_to_file():
        return windowed_attention(q, k, v, rel, ring_mask, mask_before_softmax=mask_before_softmax)
    attend = kernel_attention if kernel_serves(q, k, v, rel, ring_mask) else tiled_attention
    return attend(q, k, v, rel, ring_mask, mask_before_softmax=mask_before_softmax)


def in_order_of(x: Tensor, attended: Tensor) -> Tensor:
    """Return the output of attention with channels last where `x` has them last, as the next layer reads them."""
    if is_traced(x) or not x.is_contiguous(memory_format=torch.channels_last):
        return attended
    return attended.contiguous(memory_format=torch.channels_last)


def tables_by_head(rel_h: Tensor, rel_w: Tensor, num_heads: int) -> Tensor:
    """Split both tables by head: (heads, 2 K, C / heads), rows first, zero where there is none."""
    rows = torch.cat([rel_h, torch.zeros_like(rel_w)])
    cols = torch.cat([torch.zeros_like(rel_h), rel_w])
    by_channel = torch.cat([rows, cols], dim=1)
    return by_channel.reshape(num_heads, -1, by_channel.shape[1]).transpose(1, 2)


def _held_behind_the_ramp(ring_mask: Tensor) -> Tensor:
    """Detach the rings behind the first ring without weight and without weight further out."""
    reached = ring_mask.detach().ne(0).flip(1).cumsum(1).flip(1) > 0
    end_of_ramp = torch.cat([torch.ones_like(reached[:, :1]), reached[:, :-1]], dim=1)
    return torch.where(end_of_ramp, ring_mask, ring_mask.detach())
