"""The DDP ranks of a trial, as the training loop sees them. One process is world size 1."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")

# A switch whose name depends on the version of torch.
_SWITCHES = inspect.signature(DistributedDataParallel.__init__).parameters
_SYNC_BUFFERS_AT_EACH_STEP = "forward_sync_buffers" if "forward_sync_buffers" in _SWITCHES else "broadcast_buffers"

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Workers:
    """This process among its peers.

    Args:
        rank: From 0.
        world_size: Number of ranks; a process group must be up when it exceeds 1.
        device: Where this rank computes.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = _CPU

    @property
    def is_first(self) -> bool:
        """Whether this rank writes files and speaks for the others."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with gradients averaged over the ranks; the model itself in a single process."""
        if self.world_size == 1:
            return model
        settings: dict[str, Any] = {_SYNC_BUFFERS_AT_EACH_STEP: False, "gradient_as_bucket_view": True}
        if self.device.type == "cuda":
            settings["device_ids"] = [self.device]
        # Running statistics are shared once, before evaluation, instead of at every step.
        return DistributedDataParallel(model, **settings)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks, on all ranks; `values` is overwritten."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def broadcast_from_first(self, value: T) -> T:
        """What the first rank says, on all ranks; the values of the others are ignored.

        Torch's own broadcast of objects would unpickle what comes from the network; this one reads JSON.

        Args:
            value: Plain data as JSON knows it.
        """
        if self.world_size == 1:
            return value
        own = list(json.dumps(value).encode())
        length = torch.tensor(len(own), device=self.device)
        dist.broadcast(length, src=0)
        said = torch.tensor(own if self.is_first else [0] * int(length), dtype=torch.uint8, device=self.device)
        dist.broadcast(said, src=0)
        told: T = json.loads(bytes(said.tolist()))
        return told

    def share_buffers(self, model: nn.Module) -> None:
        """Gives every rank the first rank's running statistics, so that all evaluate the same network."""
        buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        if self.world_size > 1 and buffers:
            flat = torch.cat([buffer.reshape(-1) for buffer in buffers])
            dist.broadcast(flat, src=0)
            _scatter(flat, buffers)


def exchange_s_per_step(network: nn.Module) -> float | None:
    """Seconds of a step in which gradients are exchanged and nothing is computed, as DDP samples them.

    Args:
        network: As `Workers.wrap` returned it; None is returned for a network of a single process.
    """
    if not isinstance(network, DistributedDataParallel):
        return None
    # DDP times its first ten steps and then every hundredth.
    sampled = network._get_ddp_logging_data()
    exchanged, overlapped = (sampled.get(f"avg_backward_{name}_time", 0) for name in ("comm", "compute_comm_overlap"))
    return float(max(0, exchanged - overlapped)) / 1e9


def _scatter(flat: Tensor, targets: Iterable[Tensor]) -> None:
    start = 0
    for target in targets:
        target.copy_(flat[start : start + target.numel()].view_as(target))
        start += target.numel()
