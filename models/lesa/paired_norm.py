"""Norm of two maps with interleaved channels, and the sum of each pair.

The authors' norm reads values and positions as one map whose channels alternate. Its channels are independent of each
other, so that both halves are normed where they are, and the second norm adds the first.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.common.sync_batch_norm import SyncBatchNorm2d, is_single
from models.compiled.eager import is_eager

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
    if hooked or not _is_of_process(norm) or not norm.affine or norm.running_mean is None or not is_eager(even, odd):
        stacked: Tensor = norm(torch.stack([even, odd], dim=2).flatten(1, 2))
        summed: Tensor = stacked.unflatten(1, (-1, 2)).sum(2)
        return summed
    momentum = _count_batch(norm)
    return _half(norm, even, 0, momentum) + _half(norm, odd, 1, momentum)


def _is_of_process(norm: nn.Module) -> bool:
    """Return whether this is a plain batch norm over the images of this process."""
    return type(norm) is nn.BatchNorm2d or (type(norm) is SyncBatchNorm2d and is_single())


def _count_batch(norm: nn.BatchNorm2d) -> float:
    """Count the batch in training mode; return its share in the new running statistics."""
    if norm.training and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        return 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    return norm.momentum or 0.0


def _half(norm: nn.BatchNorm2d, x: Tensor, start: int, momentum: float) -> Tensor:
    """Norm every other channel, from one on; in training update the running statistics of its channels."""
    assert norm.running_mean is not None and norm.running_var is not None
    # contiguous: the norms of torch read the numbers of other channels through a stride
    mean, variance = norm.running_mean[start::2].contiguous(), norm.running_var[start::2].contiguous()
    weight, bias = norm.weight[start::2].contiguous(), norm.bias[start::2].contiguous()
    y = functional.batch_norm(x, mean, variance, weight, bias, norm.training, momentum, norm.eps)
    if norm.training:
        norm.running_mean[start::2].copy_(mean)
        norm.running_var[start::2].copy_(variance)
    return y
