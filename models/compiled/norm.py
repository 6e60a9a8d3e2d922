"""Batch norm in training mode, with an addition and a ReLU behind it, as one pass over the map in each direction.

The gradient of the ReLU needs no map of its own: it is found again from the input of the norm, or from the output where
something was added in between. Maps may be in either order, channels first or last.
"""

import ctypes
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.compiled.build import VECTORS, Kernel, compiled_library
from models.compiled.eager import are_plain, gradients_of

__all__ = ["NORM", "BatchNormState", "fused_norm", "norm_serves"]

_FOLDER = Path(__file__).parent
NORM = Kernel(
    name="norm",
    source=_FOLDER / "norm_kernel.cpp",
    headers=(_FOLDER / "norm_kernel_backward.h", VECTORS),
    functions=tuple(
        f"spatialsweep_norm_{step}_{dtype}" for step in ("forward", "backward") for dtype in ("f32", "f64")
    ),
)
"""Compiled batch norm."""

_SUFFIX = {torch.float32: "f32", torch.float64: "f64"}
_LEAST_ELEMENTS = 1 << 14  # below, the calls take longer than the work
_LEAST_CHANNELS = 64  # with channels last; rows of fewer channels are too short for the loops over them


@dataclasses.dataclass(frozen=True, eq=False)
class BatchNormState:
    """Numbers of a batch norm.

    Args:
        weight: Factor of each channel.
        bias: Shift of each channel.
        running_mean: Mean to be updated; None for none.
        running_var: Variance to be updated; None for none.
        momentum: Share of the batch in the new running statistics.
        eps: Number added to the variance.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor | None
    running_var: Tensor | None
    momentum: float
    eps: float

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> "BatchNormState":
        """Return the numbers of a norm, and in training mode count the batch."""
        momentum = norm.momentum
        if norm.training and norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
            momentum = 1.0 / float(norm.num_batches_tracked) if momentum is None else momentum
        return cls(norm.weight, norm.bias, norm.running_mean, norm.running_var, momentum or 0.0, norm.eps)


def norm_serves(norm: nn.BatchNorm2d, x: Tensor, other: Tensor | None = None) -> bool:
    """Return whether the kernel may compute this norm: in training mode, over a plain map that is worth it.

    Args:
        norm: Norm over the images of this process alone.
        x: Map (B, channels, H, W); its channels may be fewer than those of the norm, where it is a part of its input.
        other: Map to be added, of the same shape.
    """
    if not norm.training or not norm.affine or x.dim() != 4 or x.dtype not in _SUFFIX:
        return False
    if x.numel() < _LEAST_ELEMENTS or x.numel() == x.shape[1]:
        return False
    kept = [y for y in (norm.weight, norm.bias, norm.running_mean, norm.running_var, other) if y is not None]
    if any(y.dtype != x.dtype for y in kept) or (other is not None and other.shape != x.shape):
        return False
    if not are_plain(x, *kept) or (order := _order(x)) is None:
        return False
    if order == torch.channels_last and x.shape[1] < _LEAST_CHANNELS:
        return False
    return compiled_library(NORM) is not None


def fused_norm(state: BatchNormState, x: Tensor, *, other: Tensor | None = None, relu: bool = False) -> Tensor:
    """Normalise a map, add another, apply a ReLU, only where `norm_serves`; running statistics are updated.

    Shape: x (B, C, H, W), other (B, C, H, W) -> (B, C, H, W).

    Args:
        state: Numbers of the norm.
        x: Map.
        other: Map to be added; None for none.
        relu: True for a ReLU at the end.
    """
    running, numbers = (state.running_mean, state.running_var), (state.eps, state.momentum)
    y: Tensor = _FusedNorm.apply(x, state.weight, state.bias, other, running, numbers, relu)
    return y


class _FusedNorm(torch.autograd.Function):
    """Forward and backward pass of the kernel."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        other: Tensor | None,
        running: tuple[Tensor | None, Tensor | None],
        numbers: tuple[float, float],
        relu: bool,
    ) -> Tensor:
        order = _order(x)
        assert order is not None
        other = None if other is None else other.contiguous(memory_format=order)
        y, statistics = torch.empty_like(x), x.new_empty(2, x.shape[1])
        constants = (ctypes.c_double * 2)(*numbers)
        maps = [*_addresses(x, weight, bias, other), ctypes.addressof(constants)]
        _call("forward", x, relu, maps, _addresses(y, *statistics, *running))
        ctx.relu, ctx.adds, ctx.eps, ctx.order = relu, other is not None, numbers[0], order
        ctx.save_for_backward(x, weight, bias, y if relu and ctx.adds else None, statistics)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, y, statistics = ctx.saved_tensors
        if torch.is_grad_enabled():  # gradients of gradients
            normed = functional.batch_norm(x, None, None, weight, bias, training=True, eps=ctx.eps)
            if ctx.relu:
                grad = grad * ((normed if y is None else y) > 0)
            found = gradients_of(lambda *_: [normed], (x, weight, bias), [grad])
            return *found, grad if ctx.adds else None, None, None, None
        grad = grad.contiguous(memory_format=ctx.order)
        to_x, to_weight, to_bias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)
        to_other = torch.empty_like(x) if y is not None else None
        maps = _addresses(x, weight, bias, None, y, grad, *statistics)
        _call("backward", x, ctx.relu, maps, _addresses(to_x, to_weight, to_bias, to_other))
        added = grad if ctx.adds and y is None else to_other
        return to_x, to_weight, to_bias, added, None, None, None


def _order(x: Tensor) -> torch.memory_format | None:
    """Return the order of a map; None for one that is not dense."""
    if x.is_contiguous():
        return torch.contiguous_format
    return torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else None


def _call(step: str, x: Tensor, relu: bool, maps: Sequence[int | None], results: Sequence[int | None]) -> None:
    """Run one pass, which writes `results`."""
    library = compiled_library(NORM)
    assert library is not None
    sizes = (int(not x.is_contiguous()), int(relu), x.shape[0], x.shape[1], x.shape[2] * x.shape[3])
    function = getattr(library, f"spatialsweep_norm_{step}_{_SUFFIX[x.dtype]}")
    given = [(ctypes.c_void_p * len(addresses))(*addresses) for addresses in (maps, results)]
    if function((ctypes.c_int64 * len(sizes))(*sizes), *given, torch.get_num_threads()):
        raise MemoryError("The norm kernel found no memory for its buffers; use smaller batches.")


def _addresses(*tensors: Tensor | None) -> list[int | None]:
    return [None if x is None else x.data_ptr() for x in tensors]
