"""Interface of the training loop to the DDP ranks of a trial. One process is world size 1."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator
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
_RUNNING = ("running_mean", "running_var")
# Numbers of gradients that are exchanged together: 25 MB, as by DDP.
_BUCKET = 25 * 2**20 // 4


@dataclass(frozen=True)
class Workers:
    """One rank and its process group.

    `sum`, `gather`, `gather_rows`, `broadcast_from_first` and `share_buffers` are collective operations: every rank
    must call them, and they block until all have.

    Args:
        rank: Rank of this process, from 0.
        world_size: Number of ranks; above 1, torch's process group must be initialised.
        device: Device of this rank.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = _CPU

    @property
    def is_first(self) -> bool:
        """True for the rank that writes files and reports for all."""
        return self.rank == 0

    def wrap(self, network: nn.Module, *, bucket_mb: float | None = None, static_graph: bool = False) -> nn.Module:
        """Return the network with gradients averaged over the ranks; the network itself in a single process.

        Args:
            network: Network, equal on all ranks.
            bucket_mb: Size of the groups of gradients that are exchanged at once, in MiB; None is torch's.
            static_graph: Every step uses the same parameters.
        """
        if self.world_size == 1:
            return network
        settings: dict[str, Any] = {_SYNC_BUFFERS_AT_EACH_STEP: False, "gradient_as_bucket_view": True}
        if bucket_mb is not None:
            settings["bucket_cap_mb"] = bucket_mb
        if static_graph:
            settings["static_graph"] = True
        if self.device.type == "cuda":
            settings["device_ids"] = [self.device]
        # Running statistics are shared once, before evaluation, instead of at every step.
        return DistributedDataParallel(network, **settings)

    def sum(self, values: Tensor) -> Tensor:
        """Sum values over all ranks, in place, and return them."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average gradients that no wrapper exchanges over all ranks, in place; every rank must call.

        Args:
            parameters: Parameters after the backward pass; one without a gradient gets one of zeros.
        """
        if self.world_size == 1:
            return
        for bucket in _buckets(parameter for parameter in parameters if parameter.requires_grad):
            gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in bucket]
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients]).div_(self.world_size)
            _scatter(self.sum(flat), gradients)
            for parameter, gradient in zip(bucket, gradients, strict=True):
                parameter.grad = gradient

    def broadcast_from_first(self, value: T) -> T:
        """Return the value of the first rank on all ranks; the values of the others are ignored.

        Torch's own broadcast of objects would unpickle received bytes; this one reads JSON.

        Args:
            value: Value that JSON can hold.
        """
        if self.world_size == 1:
            return value
        own = list(json.dumps(value).encode())
        length = torch.tensor(len(own), device=self.device)
        dist.broadcast(length, src=0)
        content = torch.tensor(own if self.is_first else [0] * int(length), dtype=torch.uint8, device=self.device)
        dist.broadcast(content, src=0)
        received: T = json.loads(bytes(content.tolist()))
        return received

    def gather(self, values: Tensor) -> Tensor:
        """Return the values of all ranks, (ranks, n), on all ranks; every rank must call.

        Args:
            values: Values of this rank, (n,), as many on every rank.
        """
        rows = torch.zeros(self.world_size, len(values), dtype=values.dtype, device=self.device)
        rows[self.rank] = values
        return self.sum(rows)

    def gather_rows(self, rows: Tensor) -> Tensor:
        """Return the rows of all ranks, those of one rank after those of another, on all ranks; every rank must call.

        Args:
            rows: Rows of this rank, (n, k); n may differ between the ranks and be 0.
        """
        if self.world_size == 1:
            return rows
        counts = self.gather(torch.tensor([len(rows)], device=self.device)).flatten().tolist()
        every = torch.zeros(sum(counts), *rows.shape[1:], dtype=rows.dtype, device=self.device)
        first = sum(counts[: self.rank])
        every[first : first + len(rows)] = rows
        return self.sum(every)

    def share_buffers(self, network: nn.Module, dist_bn: str = "broadcast") -> None:
        """Make the buffers of all ranks equal, so that all evaluate the same network; every rank must call.

        Args:
            network: Network whose buffers are changed in place.
            dist_bn: Value of `training.dist_bn`: with `reduce` the running statistics of batch norms are averaged over
                the ranks and other buffers are the first rank's; with `none` nothing is changed.
        """
        if self.world_size == 1 or dist_bn == "none":
            return
        named = [(name, buffer) for name, buffer in network.named_buffers() if buffer.is_floating_point()]
        averaged = [buffer for name, buffer in named if dist_bn == "reduce" and name.endswith(_RUNNING)]
        taken = [buffer for name, buffer in named if dist_bn == "broadcast" or not name.endswith(_RUNNING)]
        if taken:
            flat = torch.cat([buffer.reshape(-1) for buffer in taken])
            dist.broadcast(flat, src=0)
            _scatter(flat, taken)
        if averaged:
            flat = torch.cat([buffer.reshape(-1) for buffer in averaged])
            _scatter(self.sum(flat).div_(self.world_size), averaged)


def exchange_s_per_step(network: nn.Module) -> float | None:
    """Return the seconds per step in which gradients are exchanged and nothing is computed, as DDP samples them.

    Args:
        network: Result of `Workers.wrap`; the result is None for a network of a single process.
    """
    if not isinstance(network, DistributedDataParallel):
        return None
    # DDP times its first ten steps and then every hundredth.
    sampled = network._get_ddp_logging_data()
    exchanged, overlapped = (sampled.get(f"avg_backward_{name}_time", 0) for name in ("comm", "compute_comm_overlap"))
    return float(max(0, exchanged - overlapped)) / 1e9


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Yield parameters of one type in groups that are exchanged together, so that few copies exist at once."""
    bucket: list[nn.Parameter] = []
    numbers = 0
    for parameter in parameters:
        if bucket and (numbers >= _BUCKET or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket, numbers = [], 0
        bucket.append(parameter)
        numbers += parameter.numel()
    if bucket:
        yield bucket


def flat_buffers(network: nn.Module) -> Tensor:
    """Return the floating-point buffers of a network as one row of float64, which holds each of them exactly."""
    buffers = [buffer.reshape(-1).double() for buffer in network.buffers() if buffer.is_floating_point()]
    return torch.cat(buffers) if buffers else torch.zeros(0, dtype=torch.float64)


@torch.no_grad()
def restore_buffers_(network: nn.Module, flat: Tensor) -> None:
    """Set the floating-point buffers of a network to a result of `flat_buffers`.

    Raises:
        ValueError: The row is of another network.
    """
    buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
    if flat.dim() != 1 or len(flat) != sum(buffer.numel() for buffer in buffers):
        raise ValueError("its buffers are not those of the network")
    _scatter(flat, buffers)


def _scatter(flat: Tensor, targets: Iterable[Tensor]) -> None:
    start = 0
    for target in targets:
        target.copy_(flat[start : start + target.numel()].view_as(target))
        start += target.numel()
