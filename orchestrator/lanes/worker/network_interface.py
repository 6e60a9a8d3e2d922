"""Which network interface collectives go through: loopback for a lane on one host, else the one of Ray's address.

Gloo takes the interface that the host's name resolves to. Debian resolves it to 127.0.1.1, many containers to nothing,
and then no other host can connect. NCCL takes the first one that is up, which may be a bridge of containers. Ray
knows better: the nodes of a cluster reach each other at the addresses they have joined it with.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping

import psutil

logger = logging.getLogger(__name__)

_GLOO, _NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"
_INFINIBAND = "ib"


def use_interface_of(address: str, environ: MutableMapping[str, str]) -> None:
    """Names the interface of this node's address for gloo and NCCL; what a user has set stays.

    Args:
        address: That the node has joined its cluster with.
        environ: Environment of the process that is to join a process group.
    """
    found = interfaces()
    name = found.get(address)
    if name is None:
        logger.warning("No interface of this host has its address %s; %s is not set.", address, _GLOO)
        return
    environ.setdefault(_GLOO, name)
    if not any(other.startswith(_INFINIBAND) for other in found.values()):  # NCCL prefers those, and it is right
        environ.setdefault(_NCCL, f"={name}")  # that one, not all whose names begin so


def interfaces() -> Mapping[str, str]:
    """The name of the interface of each address of this host."""
    return {
        address.address.partition("%")[0]: name  # IPv6 adds the interface to addresses of the link
        for name, addresses in psutil.net_if_addrs().items()
        for address in addresses
    }
