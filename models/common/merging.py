"""Layers that run as one where that gives the same result with less work: convolution, norm, sum and activation.

They run one by one where the difference could be observed: where a hook is registered on one of them, while `torch.fx`
traces them, and in compiled and exported programs, which merge layers on their own.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.common.sync_batch_norm import SyncBatchNorm2d, is_single
from models.compiled.norm import BatchNormState, fused_norm, norm_serves
from models.padding import Padding, padded_map_mean

__all__ = ["is_of_process", "is_traced", "map_mean", "may_merge", "normed", "normed_conv"]


def map_mean(x: Tensor, padding: Padding | None = None) -> Tensor:
    """Compute the mean of each channel, padding left out where there is any: (B, C, H, W) -> (B, C).

    The gradient of a sum is a view, that of a mean a map of its own. Narrow types keep the mean, as sums outgrow them.
    """
    if padding is not None:
        return padded_map_mean(x, padding)
    if is_traced(x) or x.dtype not in (torch.float32, torch.float64):
        return x.mean((2, 3))
    return x.sum((2, 3)) / (x.shape[2] * x.shape[3])


def is_traced(x: object) -> bool:
    """Return whether the operations on `x` are being recorded, by a compiler or by `torch.fx`."""
    return torch.compiler.is_compiling() or isinstance(x, torch.fx.Proxy)


def may_merge(x: Tensor, *layers: nn.Module) -> bool:
    """Return whether these layers, one of which reads `x`, may run as one: on a CPU, unhooked and untraced."""
    if is_traced(x) or x.device.type != "cpu":
        return False
    return not any(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks for layer in layers)


def normed(bn: nn.Module, x: Tensor, *, act: nn.Module | None = None, other: Tensor | None = None) -> Tensor:
    """Apply a norm, add another map, activate.

    Shape: x (B, C, H, W), other (B, C, H, W) -> (B, C, H, W).

    Args:
        bn: Norm.
        x: Map.
        act: Activation; None for none.
        other: Map to be added ahead of the activation; None for none.
    """
    last: nn.Module = nn.Identity() if act is None else act
    joins = isinstance(last, nn.ReLU | nn.Identity) and may_merge(x, bn, last)
    if joins and is_of_process(bn) and isinstance(bn, nn.BatchNorm2d) and norm_serves(bn, x, other):
        return fused_norm(BatchNormState.of(bn), x, other=other, relu=isinstance(last, nn.ReLU))
    y: Tensor = bn(x)
    if other is not None:
        y += other  # in place: nothing else holds the output of the norm
    activated: Tensor = last(y)
    return activated


def normed_conv(
    conv: nn.Module, bn: nn.Module, x: Tensor, *, act: nn.Module | None = None, other: Tensor | None = None
) -> Tensor:
    """Apply a convolution, its norm, a sum and an activation: (B, in_chs, H, W) -> (B, out_chs, H', W').

    A norm with fixed statistics is a scale and a shift per channel. Put into weight and bias of the convolution, they
    cost what the weight holds rather than what the map holds. Where the weight holds more, and in training, whose
    norms need the map, both run.

    Args:
        conv: Convolution.
        bn: Norm.
        x: Map.
        act: Activation; None for none.
        other: Map of the shape of the output, to be added ahead of the activation; None for none.
    """
    if not _folds(conv, bn, x):
        return normed(bn, conv(x), act=act, other=other)
    assert isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d)
    assert bn.running_mean is not None and bn.running_var is not None
    factor = torch.rsqrt(bn.running_var + bn.eps) * bn.weight
    shift = bn.bias - bn.running_mean * factor
    if conv.bias is not None:
        shift = torch.addcmul(shift, conv.bias, factor)
    weight = conv.weight * factor[:, None, None, None]
    y = functional.conv2d(x, weight, shift, conv.stride, conv.padding, conv.dilation, conv.groups)
    if other is not None:
        y += other
    activated: Tensor = y if act is None else act(y)
    return activated


def is_of_process(bn: nn.Module) -> bool:
    """Return whether this is a plain batch norm over the images of this process."""
    return type(bn) is nn.BatchNorm2d or (type(bn) is SyncBatchNorm2d and is_single())


def _folds(conv: nn.Module, bn: nn.Module, x: Tensor) -> bool:
    if bn.training or type(conv) is not nn.Conv2d or type(bn) is not nn.BatchNorm2d or not may_merge(x, conv, bn):
        return False
    if bn.running_var is None or not bn.affine or conv.padding_mode != "zeros":
        return False
    positions = x.shape[0] * x.shape[2] * x.shape[3] // (conv.stride[0] * conv.stride[1])
    return positions > conv.weight[0].numel()
