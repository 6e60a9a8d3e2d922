"""Depth-wise convolutions whose training is as fast as their inference on a CPU.

PyTorch's gradient of the weight of a depth-wise convolution with a large window takes 5 to 80 times as long as the
convolution there. But it is such a convolution itself: for each image and channel the gradient of the output, taken as
a window over the input, gives one term of the sum over the images.
"""

import platform
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.grad import conv2d_input

from models.common.merging import is_traced

__all__ = ["DepthwiseConv"]

IMAGES_AT_ONCE = 8  # more of them outgrow the cache
SMALLEST_WINDOW = 5  # px; PyTorch's own gradient is the faster one below
IS_MEASURED = platform.machine().lower() in ("x86_64", "amd64") and torch.backends.mkldnn.is_available()


class DepthwiseConv(nn.Conv2d):
    """Convolution of every channel by itself that keeps the size of the map.

    Shape: x (B, dim, H, W) -> the same.

    Args:
        dim: Channels.
        kernel_size: Side of the window; odd.
    """

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        y: Tensor = (
            _TrainedDepthwise.apply(x, self.weight, self.bias) if self.has_own_gradient(x) else super().forward(x)
        )
        return y

    def has_own_gradient(self, x: Tensor) -> bool:
        """Return whether the gradient of the weight is computed by this module instead of PyTorch.

        That is so in training in single precision on a CPU, for large windows.
        """
        if is_traced(x) or not IS_MEASURED:
            return False
        if self.kernel_size[0] < SMALLEST_WINDOW or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return False
        is_trained = torch.is_grad_enabled() and self.weight.requires_grad
        return is_trained and x.dtype == self.weight.dtype == torch.float32 and self.bias is not None


class _TrainedDepthwise(torch.autograd.Function):
    """Depth-wise convolution whose gradient of the weight is a depth-wise convolution too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return functional.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        padding = weight.shape[-1] // 2
        of_input = None
        if ctx.needs_input_grad[0]:
            of_input = conv2d_input(x.shape, weight, gradient, padding=padding, groups=len(weight))
        parts = zip(x.split(IMAGES_AT_ONCE), gradient.split(IMAGES_AT_ONCE), strict=True)
        terms = [_of_weight(inputs, outputs, weight.shape[-1]) for inputs, outputs in parts]
        return of_input, torch.stack(terms).sum(0), gradient.sum((0, 2, 3))


def _of_weight(x: Tensor, gradient: Tensor, kernel_size: int) -> Tensor:
    """Compute the gradient of the weight, (C, 1, k, k), from the input and the gradient of the output."""
    batch, channels, height, width = x.shape
    flat = x.permute(2, 3, 0, 1).reshape(1, height, width, batch * channels).permute(0, 3, 1, 2)
    windows = gradient.reshape(batch * channels, 1, height, width)
    terms = functional.conv2d(flat, windows, padding=kernel_size // 2, groups=batch * channels)
    return terms.view(batch, channels, 1, kernel_size, kernel_size).sum(0)
