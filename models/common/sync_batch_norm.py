"""Batch norm over the images of all ranks, on devices where torch has none.

torch's own `SyncBatchNorm` refuses tensors on a CPU. This one reduces sums and counts, so that ranks may hold shares of
different sizes, and W ranks compute the same result as one rank with all images.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn


def is_single() -> bool:
    """Return whether this process is the only rank."""
    return not dist.is_initialized() or dist.get_world_size() == 1


class _SumOverRanks(torch.autograd.Function):
    """Sum over ranks with gradients: the part of each rank has had an effect on all of them."""

    @staticmethod
    def forward(_ctx: Any, values: Tensor) -> Tensor:
        return _total(values)

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        return _total(gradients[0])


def _total(values: Tensor) -> Tensor:
    """Sum over ranks, into a new tensor."""
    if torch.compiler.is_compiling():
        from torch.distributed._functional_collectives import all_reduce  # 20 ms of every start

        # torch 2.11 compiles the sum in place of the other branch to a program that returns this rank's part.
        group = dist.group.WORLD
        assert group is not None
        total: Tensor = all_reduce(values.contiguous(), "sum", group)
        return total
    total = values.contiguous().clone()
    dist.all_reduce(total)
    return total


def sums_for(norm: nn.Module, sums: Tensor) -> Tensor:
    """Return sums of statistics, over all ranks where `norm` is synchronised and in training, else unchanged.

    For layers that compute the statistics of a norm themselves. The number of summands belongs into `sums`, since ranks
    may differ in it.
    """
    synchronised = isinstance(norm, (SyncBatchNorm2d, nn.SyncBatchNorm)) and norm.training
    if not synchronised or is_single():
        return sums
    total: Tensor = _SumOverRanks.apply(sums)
    return total


@torch.no_grad()
def update_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    """Update the running statistics of a norm as a batch norm does in a training step.

    Args:
        norm: Norm to be updated; one without running statistics stays as it is.
        mean: Mean of the batch, per channel.
        variance: Unbiased variance of the batch, per channel.
    """
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    momentum = norm.momentum if norm.momentum is not None else 1.0 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
    norm.running_var.lerp_(variance.to(norm.running_var.dtype), momentum)


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the images of all ranks of the default process group.

    Shape: x (B, C, H, W) -> (B, C, H, W); B may differ between ranks.

    Differs from `torch.nn.SyncBatchNorm`: works on any device, and with sums in double precision.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; in evaluation, or with a single rank, as an ordinary batch norm does."""
        if not self.training or is_single():
            return super().forward(x)
        self._check_input_dim(x)
        values = x.float()
        count = values.new_full((1,), x.numel() // x.shape[1], dtype=torch.float64)
        sums = sums_for(self, torch.cat([values.sum((0, 2, 3), dtype=torch.float64), count]))
        count, mean = sums[-1], sums[:-1] / sums[-1]
        centred = values - mean.float()[:, None, None]
        variance = sums_for(self, centred.square().sum((0, 2, 3), dtype=torch.float64)) / count
        update_statistics(self, mean, variance * (count / (count - 1).clamp_min(1)))
        factor = torch.rsqrt(variance + self.eps).float()
        if self.affine:
            factor = factor * self.weight
            return (centred * factor[:, None, None] + self.bias[:, None, None]).to(x.dtype)
        return (centred * factor[:, None, None]).to(x.dtype)


def synchronise_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Replace every batch norm by one over all ranks, with the same parameters, buffers and names.

    Args:
        model: Network, changed in place, unless it is itself a batch norm.
        device: Device of the training: on a GPU the norm is torch's.

    Raises:
        ValueError: The model holds another kind of batch norm, which has no such form on this device.
    """
    if device.type == "cuda":
        converted: nn.Module = convert_sync_batchnorm(model)
        return converted
    if isinstance(model, nn.BatchNorm2d) and type(model) in (nn.BatchNorm2d, BatchNormAct2d):
        return _synchronised(model)
    if isinstance(model, nn.modules.batchnorm._BatchNorm) and not isinstance(model, SyncBatchNorm2d):
        raise ValueError(f"a {type(model).__name__} cannot be synchronised on a {device.type}; use BatchNorm2d")
    for name, child in model.named_children():
        setattr(model, name, synchronise_batch_norm(child, device))
    return model


class SyncBatchNormAct2d(SyncBatchNorm2d):
    """Batch norm over all ranks with the dropout and the activation of timm's `BatchNormAct2d`.

    Shape: x (B, C, H, W) -> (B, C, H, W).
    """

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Normalise, then apply dropout and activation."""
        result: Tensor = self.act(self.drop(super().forward(x)))
        return result


def _synchronised(norm: nn.BatchNorm2d) -> SyncBatchNorm2d:
    tracks = norm.track_running_stats
    kind = SyncBatchNormAct2d if isinstance(norm, BatchNormAct2d) else SyncBatchNorm2d
    result = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, tracks)
    result.weight, result.bias = norm.weight, norm.bias
    result.running_mean, result.running_var = norm.running_mean, norm.running_var
    result.num_batches_tracked = norm.num_batches_tracked
    result.training = norm.training
    if isinstance(norm, BatchNormAct2d) and isinstance(result, SyncBatchNormAct2d):
        result.drop, result.act = norm.drop, norm.act
    return result
