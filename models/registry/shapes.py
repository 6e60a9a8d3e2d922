"""Construction of networks on shapes alone: on the device `meta`, without the work of filling what has no values."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["on_shapes"]

_FILLS = frozenset(
    {
        *(function for name, function in vars(nn.init).items() if name.endswith("_") and not name.startswith("_")),
        *(Tensor.normal_, Tensor.uniform_, Tensor.erfinv_, Tensor.clamp_, Tensor.mul_, Tensor.add_, Tensor.div_),
        *(Tensor.fill_, Tensor.zero_),
    }
)
"""Functions that change the values of a tensor and nothing else, as initialisations call them."""

_SCALINGS = frozenset({Tensor.mul, Tensor.__mul__, torch.mul})


class _WithoutFilling(TorchFunctionMode):
    """Mode without computations on values that tensors on `meta` do not have, whose shapes torch computes in Python."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function, unless it would fill a tensor that has no values."""
        del types
        if func in _FILLS or func in _SCALINGS:
            given = (*args, *(kwargs or {}).values())
            first = given[0]
            # another tensor might not have a shape that goes with it, which is an error
            if (
                isinstance(first, Tensor)
                and first.is_meta
                and all(other is first or not isinstance(other, Tensor) for other in given)
            ):
                if func in _FILLS:
                    return first
                if first.is_floating_point():  # an integer one may become a floating-point one
                    return first.new_empty(first.shape)
        return func(*args, **(kwargs or {}))


@contextmanager
def on_shapes() -> Iterator[None]:
    """Create the tensors of networks without values: on the device `meta`, and without initialisation."""
    with torch.device("meta"), _WithoutFilling():
        yield
