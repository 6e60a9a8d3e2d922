"""Networks whose parameters, gradients and optimiser state are divided among the ranks (FSDP2).

Each rank keeps a part of every parameter as a `DTensor`; a block is gathered for its forward and backward pass. What is
stored and evaluated is whole: a checkpoint has the tensors and names of a network that is not divided, and any number
of ranks resumes from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

import models
from orchestrator.training.workers import Workers

__all__ = ["gathered", "gradients_kept", "shard", "sharded_optimizer", "sharded_weights", "whole"]

_CONTAINERS = (nn.Sequential, nn.ModuleList)


def shard(network: nn.Module, workers: Workers) -> list[nn.Parameter]:
    """Divide the parameters of a network among the ranks, in place; every rank must call.

    Args:
        network: Network, equal on all ranks.
        workers: This rank and its process group, of more than one rank.

    Returns:
        Parameters that stay whole on every rank, whose gradients are not exchanged: those of modules with a penalty,
        projection or diagnostics of their own, which read them outside of the forward pass, and single numbers.
    """
    mesh = init_device_mesh(workers.device.type, (workers.world_size,))
    kept = [parameter for module in network.modules() for parameter in _undivided(module)]
    for module in [*_blocks(network), network]:
        fully_shard(module, mesh=mesh, ignored_params=set(kept))
    return kept


def _undivided(module: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters of a module, without those of its children, that are not divided."""
    hooked = models.has_training_hooks(module)
    return (parameter for parameter in module.parameters(recurse=False) if hooked or not parameter.dim())


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the outermost modules with parameters that stand in a list or sequence: the blocks of the stages."""
    for child in module.children():
        if isinstance(module, _CONTAINERS) and not isinstance(child, _CONTAINERS):
            if next(child.parameters(), None) is not None:
                yield child
        else:
            yield from _blocks(child)


@contextmanager
def gathered(network: nn.Module) -> Iterator[None]:
    """Keep whole parameters on every rank within the block, so that ranks may run it a different number of times.

    Every rank must enter. A network that is not divided is left as it is.
    """
    parts = [module for module in network.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.unshard()
        part.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(part is not network, recurse=False)
            part.reshard()


@contextmanager
def gradients_kept(network: FSDPModule) -> Iterator[None]:
    """Keep gradients on this rank within the block, to be exchanged with those of the pass after it."""
    network.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        network.set_requires_gradient_sync(True)


def whole(state: Any) -> Any:
    """Return a state dict whose divided tensors are whole; every rank must call.

    They are gathered one at a time and kept in the memory of the CPU: that of a GPU may not hold all of them.
    """
    if isinstance(state, DTensor):
        return state.full_tensor().cpu()
    if isinstance(state, Mapping):
        return {key: whole(value) for key, value in state.items()}
    return state


def sharded_weights(weights: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Return whole tensors divided as those of a network are.

    Tensors that do not fit the network are kept, for the error of whatever loads them.

    Args:
        weights: Tensors by name.
        network: Network, divided or not.
    """
    own = network.state_dict()
    return {name: _divided(value, own.get(name)) for name, value in weights.items()}


def sharded_optimizer(state: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """Return the state of an optimiser, whose tensors of the shape of their parameter are divided as it is.

    Args:
        state: State of an equal optimiser of a network that is not divided.
        optimizer: Optimiser, of parameters that are divided or not.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    divided = {
        index: {name: _divided(value, parameters[index]) for name, value in entries.items()}
        for index, entries in state["state"].items()
    }
    return {**state, "state": divided}


def _divided(value: Any, like: Any) -> Any:
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
