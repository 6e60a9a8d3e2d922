"""LESA's attention through a compiled kernel, for positions on the flattened map of small maps on a CPU.

Its products are small, so that torch spends more on them in copies and calls than in sums: the kernel computes all that
belongs to one image and head while it is in the cache.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.compiled.build import VECTORS, Kernel, compiled_library
from models.compiled.eager import are_plain, gradients_of

__all__ = ["LARGEST_MAP", "LESA_ATTENTION", "kernel_attend", "lesa_kernel_serves"]

_SOURCE = Path(__file__).parent / "attending_kernel.cpp"
_SUFFIX = {torch.float32: "f32", torch.float64: "f64"}
LESA_ATTENTION = Kernel(
    name="lesa_attention",
    source=_SOURCE,
    headers=(VECTORS,),
    functions=tuple(
        f"spatialsweep_lesa_{step}_{dtype}" for step in ("forward", "backward") for dtype in ("f32", "f64")
    ),
)
"""Compiled attention of LESA."""

LARGEST_MAP = 256  # positions; the weights of one head of more leave the cache
PARTS = 16  # that images and heads are divided into, each with a sum of its own for the gradients of the tables


def lesa_kernel_serves(tensors: Sequence[Tensor | None], outside: Tensor | None) -> bool:
    """Return whether the kernel is there for these operands, in the order of `AttentionTerms`.

    Args:
        tensors: Queries, keys, values, the same for positions, three tables; the kernel needs all of them.
        outside: Mask of keys in the padding, which it does not read.
    """
    given = [x for x in tensors if x is not None]
    if len(given) < len(tensors) or outside is not None or given[0].shape[1] > LARGEST_MAP:
        return False
    if given[0].dtype not in _SUFFIX or not are_plain(*given) or any(x.dtype != given[0].dtype for x in given):
        return False
    return compiled_library(LESA_ATTENTION) is not None


def kernel_attend(tensors: Sequence[Tensor], formula: Any) -> tuple[Tensor, Tensor]:
    """Attend by the compiled kernel, only where `lesa_kernel_serves`; see `models.lesa.attending`.

    Args:
        tensors: Operands, in the order of `AttentionTerms`.
        formula: Function of the operands that computes the same by operations of torch, for gradients of gradients.
    """
    dense = [x.contiguous() for x in tensors]  # here, as gradients of gradients lead through the copies
    values: tuple[Tensor, Tensor] = _KernelAttend.apply(formula, torch.is_grad_enabled(), *dense)
    return values


class _KernelAttend(torch.autograd.Function):
    """Forward and backward pass of the kernel, for contiguous operands."""

    @staticmethod
    def forward(ctx: Any, formula: Any, keep: bool, *dense: Tensor) -> tuple[Tensor, Tensor]:
        q, v = dense[0], dense[2]
        values, values_at = torch.empty_like(v), torch.empty_like(v)
        weights = q.new_empty(len(q), q.shape[1], q.shape[1]) if keep else None
        _call("forward", dense, [values, values_at, weights])
        ctx.formula = formula
        ctx.save_for_backward(weights, *dense)
        return values, values_at

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weights, *dense = ctx.saved_tensors
        if torch.is_grad_enabled():  # gradients of gradients
            return None, None, *gradients_of(ctx.formula, dense, grads)
        parts = _parts_of(dense)
        found = [torch.empty_like(x) for x in dense[:5]]
        by_part = [x.new_empty(parts, x.shape[1], len(x)) for x in dense[5:]]
        _call("backward", [*dense, weights, *(grad.contiguous() for grad in grads)], [*found, *by_part])
        return None, None, *found, *(parts.sum(0).t() for parts in by_part)


def _parts_of(tensors: Sequence[Tensor]) -> int:
    return min(PARTS, len(tensors[0]))


def _call(step: str, given: Sequence[Tensor], results: Sequence[Tensor | None]) -> None:
    """Run one pass, which writes `results`."""
    q, v = given[0], given[2]
    numbers = [*q.shape, v.shape[2], _parts_of(given)]
    library = compiled_library(LESA_ATTENTION)
    assert library is not None
    function = getattr(library, f"spatialsweep_lesa_{step}_{_SUFFIX[q.dtype]}")
    sizes = (ctypes.c_int64 * len(numbers))(*numbers)
    if function(sizes, _addresses(given), _addresses(results), torch.get_num_threads()):
        raise MemoryError("The kernel of LESA's attention found no memory for its buffers; use smaller images.")


def _addresses(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*(None if x is None else x.data_ptr() for x in tensors))
