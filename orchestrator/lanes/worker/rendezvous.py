"""Rendezvous of the workers of a lane: a store that listens at one address of a node, not at all of them."""

from __future__ import annotations

import datetime
import os
import socket

from torch.distributed import TCPStore, init_process_group  # type: ignore[attr-defined]


def join(
    backend: str, meet: tuple[str, int], listener: socket.socket | None, *, rank: int, size: int, timeout_s: int
) -> None:
    """Join the process group of a lane; blocks until all workers have.

    Args:
        backend: Backend of `torch.distributed`.
        meet: Host and port of the store.
        listener: Listening socket of the store, in the worker that opens it; None in the others.
        rank: Rank of the calling worker.
        size: Number of workers of the lane.
        timeout_s: Timeout of the rendezvous and of a collective call in seconds.
    """
    if backend == "nccl" and "TORCH_NCCL_BLOCKING_WAIT" not in os.environ:
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")  # a worker whose peer is lost ends
    timeout = datetime.timedelta(seconds=timeout_s)
    if listener is None:
        store = TCPStore(*meet, size, timeout=timeout)
    else:
        store = TCPStore(*meet, size, True, timeout, master_listen_fd=listener.detach())
    init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
