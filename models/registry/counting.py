"""Multiply-accumulates of a network, counted on shapes alone.

`models.registry.arithmetic` defines what is counted. Layers that multiply no matrices are skipped: on shapes alone
they only cost time; a test holds the sum against torch's own counter of every layer.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from models.adaptive_span.attention import AdaptiveAttention, LocalAttention
from models.fcvit.context import GlobalContext

__all__ = ["count_macs", "stand_in"]

FLOPS_PER_MAC = 2
_ELEMENTWISE = frozenset({nn.BatchNorm2d, nn.GroupNorm, nn.ReLU, nn.GELU, nn.Sigmoid, nn.Dropout, DropPath})


def count_macs(network: nn.Module, input_size: tuple[int, int, int]) -> int:
    """Multiply-accumulates of one image of this many channels, rows and columns; the network is left a shell."""
    windows = stand_in(network)
    _skip_elementwise(network)
    counter = _ProductCounter()
    # attention in one piece counts as the two matrix products that it is
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        network.to("meta")(torch.empty(1, *input_size, device="meta"))
    return counter.flops // FLOPS_PER_MAC + sum(window.macs for window in windows)


def stand_in(network: nn.Module) -> list["_Window"]:
    """Replaces what is counted as its formula says; returns what counts attention to windows."""
    windows = []
    for name, module in list(network.named_modules()):
        if isinstance(module, AdaptiveAttention | LocalAttention):
            windows.append(_Window(module))
            network.set_submodule(name, windows[-1])
        elif isinstance(module, GlobalContext):
            module.similarity = functools.partial(_similarity, module.num_heads)  # type: ignore[method-assign]
            module.add = _keep  # type: ignore[method-assign]
    return windows


class _ProductCounter(TorchDispatchMode):
    """Adds up convolutions and matrix products by torch's own formulas, and looks at nothing else.

    torch's `FlopCounterMode` counts the same by module, at several times the cost.

    Attributes:
        flops: Of what was computed inside.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Computes an operation and counts it."""
        del types
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


def _skip_elementwise(network: nn.Module) -> None:
    """Spares the layers that keep the shape of a map and multiply no matrices: on shapes alone they only cost time."""
    for module in network.modules():
        if type(module) in _ELEMENTWISE:
            module.forward = _as_it_is


def _as_it_is(x: Tensor) -> Tensor:
    return x


def _similarity(num_heads: int, x: Tensor, mean: Tensor) -> Tensor:
    """The products of `GlobalContext.similarity`, head by head."""
    products = mean.unflatten(1, (num_heads, 1, -1)) @ x.flatten(2).unflatten(1, (num_heads, -1))
    return products[:, :, 0]  # type: ignore[no-any-return]


def _keep(x: Tensor, weights: Tensor, context: Tensor) -> Tensor:
    """For `GlobalContext.add`, which is element-wise but in how it is computed."""
    del weights, context
    return x


class _Window(nn.Module):
    """Stands in for attention to windows: the projections are computed, the rest is added up.

    Args:
        attention: The layer it stands in for.
    """

    def __init__(self, attention: AdaptiveAttention | LocalAttention) -> None:
        super().__init__()
        self.qkv = attention.qkv
        if isinstance(attention, AdaptiveAttention):
            self.side = 2 * attention.window_radius() + 1
        else:
            self.side = attention.rel_h.shape[1]
        self.macs = 0

    def forward(self, x: Tensor) -> Tensor:
        """A map of the right shape."""
        values: Tensor
        _, _, values = self.qkv(x).chunk(3, dim=1)
        logits_and_sums = 2
        self.macs += logits_and_sums * self.side**2 * values.numel()
        return values
