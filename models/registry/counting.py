"""Multiply-accumulates of a network, counted on shapes alone.

`models.registry.arithmetic` defines what is counted. Convolutions and matrix products are counted as they are
dispatched. A layer whose count follows its formula, not its operations, has a method `macs`. Layers that multiply no
matrices are skipped, as they only cost time here, and the shapes of frequent operations that torch computes in Python,
at up to 5 ms for each, are computed here.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from models.padding import MapNorm

__all__ = ["CountsItself", "count_macs", "depends_on_values", "stand_in"]

FLOPS_PER_MAC = 2
_ATEN = torch.ops.aten
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


class _ProductCounter(TorchDispatchMode):
    """Sum of the convolutions and matrix products computed inside, by torch's own formulas.

    torch's `FlopCounterMode` counts the same by module, at several times the cost.

    Attributes:
        flops: Floating-point operations so far.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: True has torch import its compiler, which takes a second, to keep it out of this mode."""
        return False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Compute an operation and count it."""
        del types
        out = None if kwargs else _without_values(func, args)
        if out is None:
            out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


def _without_values(func: Any, args: tuple[Any, ...]) -> Tensor | None:
    """Return the result of a frequent operation on `meta`; None where torch has to compute its shape."""
    shape_of = _SHAPES.get(func)
    if shape_of is None:
        return None
    first = args[0] if isinstance(args[0], Tensor) else args[0][0]
    shape = shape_of(*args) if first.is_meta else None
    return None if shape is None else first.new_empty(shape)


def _same(x: Tensor, *_: Any) -> Sequence[int]:
    return x.shape


def _broadcast(x: Tensor, other: object, *_: Any) -> Sequence[int] | None:
    if not isinstance(other, Tensor):
        return x.shape if x.is_floating_point() else None
    if other.dtype != x.dtype:
        return None
    return x.shape if other.shape == x.shape else torch.broadcast_shapes(x.shape, other.shape)


def _joined(tensors: Sequence[Tensor], dim: int = 0) -> Sequence[int] | None:
    first = tensors[0]
    if not all(tensor.ndim == first.ndim and tensor.dtype == first.dtype for tensor in tensors):
        return None
    shape = list(first.shape)
    shape[dim] = sum(tensor.shape[dim] for tensor in tensors)
    return shape


def _stacked(tensors: Sequence[Tensor], dim: int = 0) -> Sequence[int] | None:
    shape = list(tensors[0].shape)
    if any(tensor.dtype != tensors[0].dtype for tensor in tensors):
        return None
    shape.insert(dim % (len(shape) + 1), len(tensors))
    return shape


def _mean(x: Tensor, dims: Sequence[int] | None, keepdim: bool = False) -> list[int] | None:
    if not dims:
        return None
    reduced = {dim % x.ndim for dim in dims}
    return [1 if dim in reduced else side for dim, side in enumerate(x.shape) if keepdim or dim not in reduced]


def _resized(x: Tensor, size: Sequence[int], *_: Any) -> list[int]:
    return [*x.shape[:2], *size]


def _linear(_bias: Tensor, x: Tensor, weight: Tensor) -> list[int]:
    return [x.shape[0], weight.shape[1]]


_SHAPES: Mapping[Any, Callable[..., Sequence[int] | None]] = {
    _ATEN._safe_softmax.default: _same,
    _ATEN.add.Tensor: _broadcast,
    _ATEN.addmm.default: _linear,
    _ATEN.cat.default: _joined,
    _ATEN.div.Tensor: _broadcast,
    _ATEN.mean.dim: _mean,
    _ATEN.mul.Scalar: _same,
    _ATEN.mul.Tensor: _broadcast,
    _ATEN.relu.default: _same,
    _ATEN.rsqrt.default: _same,
    _ATEN.sigmoid_.default: _same,
    _ATEN.stack.default: _stacked,
    _ATEN.sub.Tensor: _broadcast,
    _ATEN.upsample_bilinear2d.default: _resized,
}
"""Functions from the arguments of an operation to the shape of its result; None where torch has to say."""


def _skip_elementwise(network: nn.Module) -> None:
    """Replace the forward pass of layers that keep the shape of a map and multiply no matrices."""
    for module in network.modules():
        if type(module) in _ELEMENTWISE:
            module.forward = _identity


def _identity(x: Tensor) -> Tensor:
    return x
