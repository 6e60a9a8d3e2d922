"""Multiply-accumulates of a network, counted on shapes alone.

`models.registry.arithmetic` defines what is counted. Convolutions and matrix products are counted as they are
dispatched. A layer whose count follows its formula, not its operations, has a method `macs`. Layers that multiply no
matrices are skipped, as they only cost time here.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.padding import MapNorm
from models.registry.operations import MetaOperations

__all__ = ["CountsItself", "count_macs", "depends_on_values", "stand_in"]

FLOPS_PER_MAC = 2
_ELEMENTWISE = frozenset({nn.BatchNorm2d, nn.GroupNorm, MapNorm, nn.ReLU, nn.GELU, nn.Sigmoid, nn.Dropout, DropPath})


class CountsItself(Protocol):
    """Layer that counts its own multiply-accumulates and keeps the shape of its input.

    Attributes:
        macs_depend_on_values: True where the values of parameters decide on the count; False when absent.
    """

    def macs(self, x: Tensor) -> int:
        """Return the multiply-accumulates for an input, of which only the shape matters."""


def count_macs(network: nn.Module, input_size: tuple[int, int, int], *, device: str = "meta") -> int:
    """Return the multiply-accumulates of one image; the network cannot be used afterwards.

    Args:
        network: Network in evaluation mode, on the device `meta` unless `depends_on_values`.
        input_size: Channels, height and width of the image.
        device: Device that the image is passed through on: `cpu` for a network that reads values of its maps.
    """
    layers = stand_in(network)
    _skip_elementwise(network)
    counter = _ProductCounter()
    if any(tensor.device.type != device for tensor in (*network.parameters(), *network.buffers())):
        network = network.to(device)
    # the math backend shows fused attention as the two matrix products that it is
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        network(torch.zeros(1, *input_size, device=device))
    return counter.flops // FLOPS_PER_MAC + sum(layer.macs for layer in layers)


def depends_on_values(network: nn.Module) -> bool:
    """Return whether the count needs the values of parameters, so that shapes on `meta` are not enough."""
    return any(getattr(module, "macs_depend_on_values", False) for module in network.modules())


def stand_in(network: nn.Module) -> list["CountedLayer"]:
    """Replace the layers that count themselves, and return their replacements."""
    layers = []
    for name, module in list(network.named_modules()):
        if name and hasattr(type(module), "macs"):
            layers.append(CountedLayer(cast(CountsItself, module).macs))
            network.set_submodule(name, layers[-1])
    return layers


class CountedLayer(nn.Module):
    """Replacement of a layer that counts itself: adds up its counts and computes nothing.

    Args:
        count: Method `macs` of the layer, which stays on its device, outside the network.

    Attributes:
        macs: Multiply-accumulates so far.
    """

    def __init__(self, count: Callable[[Tensor], int]) -> None:
        super().__init__()
        self.macs = 0
        self._count = count

    def forward(self, x: Tensor) -> Tensor:
        """Count the layer for this input, and return the input as a map of the right shape."""
        self.macs += self._count(x)
        return x


class _ProductCounter(MetaOperations):
    """Sum of the convolutions and matrix products computed inside, by torch's own formulas.

    torch's `FlopCounterMode` counts the same by module, at several times the cost.

    Attributes:
        flops: Floating-point operations so far.
    """

    def __init__(self) -> None:
        from torch.utils.flop_counter import flop_registry  # which imports Triton

        super().__init__()
        self.flops = 0
        self._formulas = flop_registry

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Compute an operation and count it."""
        out = super().__torch_dispatch__(func, types, args, kwargs)
        formula = self._formulas.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


def _skip_elementwise(network: nn.Module) -> None:
    """Replace the forward pass of layers that keep the shape of a map and multiply no matrices."""
    for module in network.modules():
        if type(module) in _ELEMENTWISE:
            module.forward = _identity


def _identity(x: Tensor) -> Tensor:
    return x
