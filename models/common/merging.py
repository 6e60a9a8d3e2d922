"""Layers that run as one where that gives the same result with less work: convolution and norm, gate and sum.

They run one by one where the difference could be observed: where a hook is registered on one of them, while `torch.fx`
traces them, and in compiled and exported programs, which merge layers on their own.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.padding import Padding, padded_map_mean

__all__ = ["is_traced", "map_mean", "may_merge", "normed_conv"]


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


def normed_conv(conv: nn.Module, bn: nn.Module, x: Tensor) -> Tensor:
    """Apply a convolution and its norm: (B, in_chs, H, W) -> (B, out_chs, H', W').

    A norm with fixed statistics is a scale and a shift per channel. Put into weight and bias of the convolution, they
    cost what the weight holds rather than what the map holds. Where the weight holds more, and in training, whose
    norms need the map, both run.
    """
    if not _folds(conv, bn, x):
        y: Tensor = bn(conv(x))
        return y
    assert isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d)
    assert bn.running_mean is not None and bn.running_var is not None
    factor = torch.rsqrt(bn.running_var + bn.eps) * bn.weight
    shift = bn.bias - bn.running_mean * factor
    if conv.bias is not None:
        shift = torch.addcmul(shift, conv.bias, factor)
    weight = conv.weight * factor[:, None, None, None]
    return functional.conv2d(x, weight, shift, conv.stride, conv.padding, conv.dilation, conv.groups)


def _folds(conv: nn.Module, bn: nn.Module, x: Tensor) -> bool:
    if bn.training or type(conv) is not nn.Conv2d or type(bn) is not nn.BatchNorm2d or not may_merge(x, conv, bn):
        return False
    if bn.running_var is None or not bn.affine or conv.padding_mode != "zeros":
        return False
    positions = x.shape[0] * x.shape[2] * x.shape[3] // (conv.stride[0] * conv.stride[1])
    return positions > conv.weight[0].numel()
