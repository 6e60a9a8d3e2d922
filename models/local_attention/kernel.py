"""Local attention through the compiled kernel, as an autograd function over contiguous maps.

The kernel works on one image and head at a time and keeps three numbers per query for the backward pass, so its
memory does not grow with the window. Heads whose mask ends early cost less.

Shapes: B images, C channels, G heads, D = C / G channels per head, H x W pixels, L radius of the window, K = 2 L + 1.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.compiled.build import VECTORS, Kernel, compiled_library
from models.compiled.eager import are_plain

__all__ = ["ATTENTION", "kernel_attention", "kernel_serves"]

_FOLDER = Path(__file__).parent
ATTENTION = Kernel(
    name="attention",
    source=_FOLDER / "attention_kernel.cpp",
    headers=(_FOLDER / "attention_kernel.h", _FOLDER / "attention_kernel_backward.h", VECTORS),
    functions=tuple(f"spatialsweep_{step}_{dtype}" for step in ("forward", "backward") for dtype in ("f32", "f64")),
)
"""Compiled local attention."""

_SUFFIX = {torch.float32: "f32", torch.float64: "f64"}
_WIDENED = (torch.float16, torch.bfloat16)  # computed in float32


def kernel_serves(*tensors: Tensor | None) -> bool:
    """Return whether the kernel is there and these are plain tensors on a CPU, eagerly computed."""
    given = [x for x in tensors if x is not None]
    if not are_plain(*given) or any(x.dtype not in _SUFFIX and x.dtype not in _WIDENED for x in given):
        return False
    return compiled_library(ATTENTION) is not None


def kernel_attention(
    q: Tensor, k: Tensor, v: Tensor, rel: Tensor, ring_mask: Tensor | None, *, mask_before_softmax: bool = False
) -> Tensor:
    """Attend by the compiled kernel, only where `kernel_serves`; see `models.local_attention.operator`.

    Shape: q, k, v (B, C, H, W), rel (G, 2 K, D), ring_mask (G, L + 1) -> (B, C, H, W), in the type of q.

    Args:
        q: Queries.
        k: Keys.
        v: Values.
        rel: Embeddings of the row offsets -L..L, then of the column offsets, as each head sees them.
        ring_mask: Weight of each head for the rings 0..L; None is all ones, without the division.
        mask_before_softmax: True to add the logarithm of the mask to the logits.
    """
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    maps = [None if x is None else x.to(dtype) for x in (q, k, v, rel, ring_mask)]
    attended: Tensor = _KernelAttention.apply(*maps, mask_before_softmax, torch.is_grad_enabled())
    return attended.to(q.dtype)


class _KernelAttention(torch.autograd.Function):
    """Forward and backward pass of the kernel."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rel: Tensor,
        mask: Tensor | None,
        before: bool,
        keep: bool,
    ) -> Tensor:
        q, k, v = _dense_images(q), _dense_images(k), _dense_images(v)
        rel, mask = rel.contiguous(), None if mask is None else mask.contiguous()
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        stats = q.new_empty(len(q), rel.shape[0], 3, *q.shape[2:]) if keep else None
        _call("forward", (q, k, v, rel, mask), (), (out, stats), before=before)
        ctx.before = before
        ctx.save_for_backward(q, k, v, rel, mask, out, stats)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, rel, mask, out, stats = ctx.saved_tensors
        grads = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v)]
        grad_rel = rel.new_empty(len(q), *rel.shape)
        grad_mask = None if mask is None else mask.new_empty(len(q), *mask.shape)
        more, results = (out, grad.contiguous(), stats), (*grads, grad_rel, grad_mask)
        _call("backward", (q, k, v, rel, mask), more, results, before=ctx.before)
        return *grads, grad_rel.sum(0), None if grad_mask is None else grad_mask.sum(0), None, None


def _dense_images(x: Tensor) -> Tensor:
    """Make each image contiguous; the images may lie apart, as the thirds of one projection do."""
    return x if x[0].is_contiguous() else x.contiguous()


def _call(
    step: str,
    maps: tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None],
    more: Sequence[Tensor],
    results: Sequence[Tensor | None],
    *,
    before: bool,
) -> None:
    """Run one pass, which writes `results`."""
    q, k, v, rel, _ = maps
    heads, sides, dim = rel.shape
    height, width = q.shape[2:]
    numbers = [len(q), heads, dim, height, width, sides // 4, q.stride(0), k.stride(0), v.stride(0), int(before)]
    library = compiled_library(ATTENTION)
    assert library is not None
    function = getattr(library, f"spatialsweep_{step}_{_SUFFIX[q.dtype]}")
    sizes = (ctypes.c_int64 * len(numbers))(*numbers)
    if function(sizes, _addresses((*maps, *more)), _addresses(results), torch.get_num_threads()):
        raise MemoryError("The attention kernel found no memory for its buffers; use smaller images.")


def _addresses(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*(None if x is None else x.data_ptr() for x in tensors))
