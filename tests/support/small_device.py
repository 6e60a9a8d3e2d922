"""A device with little memory: an allocation above a number of elements fails, in forward and in backward passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from orchestrator.training.trial import Trial


class SmallDevice(TorchDispatchMode):
    """Context in which an operation whose result is too large raises torch's error of a full GPU.

    Args:
        elements: Largest number of elements of a tensor.
        only: Kind of pass in which allocations fail: `forward`, `backward` or both of them.
    """

    def __init__(self, elements: int, only: str = "") -> None:
        super().__init__()
        self.elements = elements
        self.only = only
        self.failures = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute an operation, and raise where its result does not fit."""
        result = func(*args, **(kwargs or {}))
        is_backward = torch._C._current_graph_task_id() != -1
        if self.only in ("", "backward" if is_backward else "forward"):
            largest = max((leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)), default=0)
            if largest > self.elements:
                self.failures += 1
                raise torch.OutOfMemoryError(f"tried to allocate {largest} elements")
        return result


def on_small_device(trial: Trial, elements: int, first: int, last: int = 10**6) -> Trial:
    """Let the steps of a trial from one to another run on a small device."""
    usual = trial.train_state.step

    def step(*arguments: Any, update: int, **options: Any) -> Tensor:
        if not first <= update <= last:
            return usual(*arguments, update=update, **options)
        with SmallDevice(elements):
            return usual(*arguments, update=update, **options)

    trial.train_state.step = step  # type: ignore[method-assign]
    return trial
