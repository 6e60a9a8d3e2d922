"""Norm of two maps with interleaved channels, and the sum of each pair.

The authors' norm reads values and positions as one map whose channels alternate. Its channels are independent of each
other, so that both halves are normed where they are, and the second norm adds the first.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.common.merging import is_of_process
from models.compiled.eager import is_eager
from models.compiled.norm import BatchNormState, fused_norm, norm_serves

__all__ = ["normed_pairs"]


def normed_pairs(norm: nn.BatchNorm2d, even: Tensor, odd: Tensor) -> Tensor:
    """Norm channels that two maps hold in turns, and sum each pair.

    Shape: even (B, C, H, W), odd (B, C, H, W) -> (B, C, H, W).

    Args:
        norm: Norm over 2 C channels.
        even: Channels 0, 2, 4, ...
        odd: Channels 1, 3, 5, ...
    """
    hooked = norm._forward_hooks or norm._forward_pre_hooks or norm._backward_hooks
    if hooked or not is_of_process(norm) or not norm.affine or norm.running_mean is None or not is_eager(even, odd):
        stacked: Tensor = norm(torch.stack([even, odd], dim=2).flatten(1, 2))
        summed: Tensor = stacked.unflatten(1, (-1, 2)).sum(2)
        return summed
    state = BatchNormState.of(norm)
    return _apply(norm, _half(state, 1), odd, _apply(norm, _half(state, 0), even, None))


def _half(state: BatchNormState, start: int) -> BatchNormState:
    """Return every other number of a norm, from one on."""
    assert state.running_mean is not None and state.running_var is not None
    running = state.running_mean[start::2], state.running_var[start::2]
    return BatchNormState(state.weight[start::2], state.bias[start::2], *running, state.momentum, state.eps)


def _apply(norm: nn.BatchNorm2d, half: BatchNormState, x: Tensor, other: Tensor | None) -> Tensor:
    """Norm one half, and add another map; in training update the running statistics of its channels."""
    assert half.running_mean is not None and half.running_var is not None
    # contiguous: the norms of torch read the numbers of other channels through a stride
    mean, variance = half.running_mean.contiguous(), half.running_var.contiguous()
    dense = BatchNormState(half.weight.contiguous(), half.bias.contiguous(), mean, variance, half.momentum, half.eps)
    if norm_serves(norm, x, other):
        y = fused_norm(dense, x, other=other)
    else:
        numbers = (dense.weight, dense.bias, norm.training, dense.momentum, dense.eps)
        y = functional.batch_norm(x, mean, variance, *numbers)
        y = y if other is None else y + other
    if norm.training:
        half.running_mean.copy_(mean)
        half.running_var.copy_(variance)
    return y
