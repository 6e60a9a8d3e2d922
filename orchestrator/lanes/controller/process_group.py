"""Set-up of the process group of a lane's workers, by a controller that does not import torch itself.

`TorchTrainer` makes its controller import torch, which delays the workers by seconds and takes half a gigabyte for each
lane on the driver's node. Here the controller only passes the address of the store to the workers, which do the rest.
"""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError
from ray.train.backend import Backend, BackendConfig

from orchestrator.lanes.worker.network_interface import use_interface_of
from orchestrator.quick_imports import begin_imports

logger = logging.getLogger(__name__)

_LEAVE_TIMEOUT_S = 30.0
_LOOPBACK = "127.0.0.1"
_listener: socket.socket | None = None  # of the worker that opens the store


@dataclass
class ProcessGroupConfig(BackendConfig):
    """Process group of a lane.

    Args:
        backend: Backend of `torch.distributed`: `nccl` or `gloo`.
        timeout_s: Timeout of a collective call in seconds.
    """

    backend: str = "gloo"
    timeout_s: int = 600

    @property
    def backend_cls(self) -> type[Backend]:
        """Class whose methods the controller calls when the workers have started."""
        return ProcessGroupBackend

    @property
    def train_func_context(self) -> Any:
        """Context manager that each worker enters around the lane's loop; selects its GPU."""
        from orchestrator.runtime.ray_private.train_worker import training_context

        return training_context()


class ProcessGroupBackend(Backend):
    """Runs in the controller; every worker sees the GPUs of all workers of its node, which NCCL requires."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: ProcessGroupConfig) -> None:  # type: ignore[override]
        """Have all workers join one process group; blocks."""
        several_nodes = len({worker.metadata.node_id for worker in worker_group.get_workers()}) > 1
        meet = worker_group.execute_single(0, _listen, several_nodes)
        size = len(worker_group)
        ray.get(
            [
                worker_group.execute_single_async(rank, _join, backend_config, meet, rank, size, several_nodes)
                for rank in range(size)
            ]
        )

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:  # noqa: ARG002
        """Have all workers leave the process group; blocks, at most for the timeout."""
        leaving = worker_group.execute_async(_leave, len(worker_group) > 1)
        try:
            ray.get(leaving, timeout=_LEAVE_TIMEOUT_S)
        except GetTimeoutError:
            logger.warning("The workers did not leave their process group within %g s.", _LEAVE_TIMEOUT_S)


def _listen(several_nodes: bool) -> tuple[str, int]:
    """Open the port of the lane's store on a single address, because the store has no authentication."""
    global _listener  # noqa: PLW0603 - between two calls of a worker
    host = _own_address(several_nodes)
    _listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    return host, int(_listener.getsockname()[1])


def _join(config: ProcessGroupConfig, meet: tuple[str, int], rank: int, size: int, several_nodes: bool) -> None:
    begin_imports()  # of torch here, of the networks after; `lane_loop` ends it
    from orchestrator.lanes.worker.rendezvous import join
    from orchestrator.runtime.ray_private.train_worker import set_distributed_variables

    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = meet[0], str(meet[1])
    use_interface_of(_own_address(several_nodes), os.environ)
    set_distributed_variables()
    join(config.backend, meet, _listener, rank=rank, size=size, timeout_s=config.timeout_s)


def _own_address(several_nodes: bool) -> str:
    """Return the address at which the other workers reach this one: loopback where all are on one node."""
    return str(ray.util.get_node_ip_address()) if several_nodes else _LOOPBACK


def _leave(destroy: bool) -> None:
    from orchestrator.runtime.ray_private.train_worker import leave_process_group

    leave_process_group(destroy=destroy)
