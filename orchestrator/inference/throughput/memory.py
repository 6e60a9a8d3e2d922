"""Peak memory of a program: that of the device's allocator, and on a CPU that of the tensors alive at once.

On a CPU torch keeps no peak, and the process also holds Python and libraries. There every operation is followed, and
the memory of its results is counted until it is freed; what kernels hold for themselves during an operation is not.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["peak_bytes", "resident_bytes"]


def peak_bytes(program: Callable[[], object], device: torch.device) -> int:
    """Return the most memory, in bytes, that a call of the program holds above the level before it; blocks."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before: int = torch.cuda.memory_allocated(device)
        program()
        torch.cuda.synchronize(device)
        peak: int = torch.cuda.max_memory_allocated(device)
        return peak - before
    live = _LiveTensors()
    with live:
        program()
    return live.peak


def resident_bytes(network: nn.Module, *inputs: Tensor) -> int:
    """Return the bytes of parameters, buffers and inputs, each piece of memory once."""
    tensors = [*network.parameters(), *network.buffers(), *inputs]
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


class _LiveTensors(TorchDispatchMode):
    """Sum of the memory of the tensors that operations have made and that are alive.

    Attributes:
        peak: Largest sum so far, in bytes.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._alive = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Compute an operation and count the memory of its results, unless it is that of an input."""
        del types
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        results = func(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            if isinstance(result, Tensor) and result.untyped_storage()._cdata not in given:
                self._count(result.untyped_storage())
        return results

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self._alive += size
        self.peak = max(self.peak, self._alive)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self._alive -= size
