"""Layers that run as one where that gives the same result with less work: convolution and norm, gate and sum.

They run one by one where the difference could be observed: where a hook is registered on one of them, while `torch.fx`
traces them, and in compiled and exported programs, which merge layers on their own. Convolutions of channels-last
maps on a CPU also read these in another shape or layout where torch would choose a slow path.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.compiled.eager import is_eager, is_intercepted
from models.padding import Padding, padded_map_mean

__all__ = ["convolved", "is_traced", "map_mean", "may_merge", "normed_conv"]

FEWEST_IMAGES = 16  # torch leaves 1x1 convolutions of fewer images to a slower path when it has one thread
FEWEST_ROWS = 1024  # positions of all images; of fewer, the other path is as fast
BLOCK = (
    16  # channels; where they are no multiple of it, the other path is the slower one for a quarter of these positions
)
OUTWEIGHS = 4  # elements of a weight per element of the map from which on its layout decides
IS_MEASURED = torch.backends.mkldnn.is_available()


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
    if is_traced(x) or x.device.type != "cpu" or nn.modules.module._has_any_global_hook():
        return False
    return not any(_is_hooked(layer) for layer in layers)


def _is_hooked(layer: nn.Module) -> bool:
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return any(hooks)


def normed_conv(conv: nn.Module, bn: nn.Module, x: Tensor) -> Tensor:
    """Apply a convolution and its norm: (B, in_chs, H, W) -> (B, out_chs, H', W').

    A norm with fixed statistics is a scale and a shift per channel. Put into weight and bias of the convolution, they
    cost what the weight holds rather than what the map holds. Where the weight holds more, and in training, whose
    norms need the map, both run.
    """
    if not _folds(conv, bn, x):
        y: Tensor = bn(convolved(conv, x))
        return y
    assert isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d)
    assert bn.running_mean is not None and bn.running_var is not None
    factor = torch.rsqrt(bn.running_var + bn.eps) * bn.weight
    shift = bn.bias - bn.running_mean * factor
    if conv.bias is not None:
        shift = torch.addcmul(shift, conv.bias, factor)
    weight = conv.weight * factor[:, None, None, None]
    return _convolution(conv, x, weight, shift)


def _folds(conv: nn.Module, bn: nn.Module, x: Tensor) -> bool:
    if bn.training or type(conv) is not nn.Conv2d or type(bn) is not nn.BatchNorm2d or not may_merge(x, conv, bn):
        return False
    if bn.running_var is None or not bn.affine or conv.padding_mode != "zeros":
        return False
    positions = x.shape[0] * x.shape[2] * x.shape[3] // (conv.stride[0] * conv.stride[1])
    return positions > conv.weight[0].numel()


def convolved(conv: nn.Module, x: Tensor) -> Tensor:
    """Apply a convolution, on a CPU along the fastest path that torch has: (B, C, H, W) -> (B, C', H', W')."""
    if type(conv) is nn.Conv2d and conv.padding_mode == "zeros" and may_merge(x, conv):
        return _convolution(conv, x, conv.weight, conv.bias)
    y: Tensor = conv(x)
    return y


def _convolution(conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve with the shape of a layer, and with these numbers."""
    stride, dilation, groups = conv.stride, conv.dilation, conv.groups
    if not _is_channels_last(x, weight) or groups > 1:
        return functional.conv2d(x, weight, bias, stride, conv.padding, dilation, groups)
    is_pointwise = conv.kernel_size == (1, 1) and conv.padding == (0, 0)
    if weight.numel() >= OUTWEIGHS * x.numel() // math.prod(stride):
        if is_pointwise:
            return functional.conv2d(_Picked.apply(x, *stride), weight, bias)
        y = functional.conv2d(_InDefaultLayout.apply(x), weight, bias, stride, conv.padding, dilation)
        return y.contiguous(memory_format=torch.channels_last)
    if is_pointwise and stride == (1, 1) and (images := _regrouped(x)) > len(x):
        rows = x.permute(0, 2, 3, 1).reshape(images, 1, -1, x.shape[1]).permute(0, 3, 1, 2)
        y = functional.conv2d(rows, weight, bias).permute(0, 2, 3, 1)
        return y.reshape(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2)
    return functional.conv2d(x, weight, bias, stride, conv.padding, dilation)


def _is_channels_last(x: Tensor, weight: Tensor) -> bool:
    """Return whether oneDNN reads this map, eagerly and in channels-last order."""
    if not IS_MEASURED or x.dtype != torch.float32 or weight.dtype != torch.float32 or is_intercepted():
        return False
    if not is_eager(x, weight) or torch.is_autocast_enabled("cpu") or not x.numel():
        return False
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _regrouped(x: Tensor) -> int:
    """Return the images that the positions of a map can be seen as, for a 1x1 convolution; their number for no change.

    That is the first number of images that torch does not leave to its slower path.
    """
    batch, channels, height, width = x.shape
    rows, fewest = batch * height * width, FEWEST_ROWS // (4 if channels % BLOCK else 1)
    if batch >= FEWEST_IMAGES or rows < fewest or torch.get_num_threads() > 1:
        return batch
    return next((count for count in range(FEWEST_IMAGES, 4 * FEWEST_IMAGES) if rows % count == 0), batch)


class _InDefaultLayout(torch.autograd.Function):
    """Map in the default layout whose gradient is in channels-last order, as the layers ahead of it read it."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.contiguous()

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        # not contiguous(memory_format=...), which a batch of gradients does not have
        return gradient.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


class _Picked(torch.autograd.Function):
    """Positions that a 1x1 convolution with a stride reads; map and gradient are in channels-last order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, down: int, right: int) -> Tensor:
        ctx.shape, ctx.stride = x.shape, (down, right)
        return x[:, :, ::down, ::right].contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,), (down, right) = gradients, ctx.stride
        batch, channels, height, width = ctx.shape
        whole = gradient.new_zeros(batch, height, width, channels).permute(0, 3, 1, 2)
        whole[:, :, ::down, ::right] = gradient
        return whole, None, None
