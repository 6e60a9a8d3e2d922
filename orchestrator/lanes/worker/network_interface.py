"""Choice of the network interface for collectives: loopback for a lane on one node, else that of Ray's address.

Gloo takes the interface to which the host name resolves. Debian resolves it to 127.0.1.1, many containers do not
resolve it, and then no other node can connect. NCCL takes the first interface that is up, which may be a bridge of
containers. The nodes of a Ray cluster reach each other at the addresses with which they have joined it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping

import psutil

logger = logging.getLogger(__name__)

_GLOO, _NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"
_INFINIBAND = "ib"


def use_interface_of(address: str, environ: MutableMapping[str, str]) -> None:
    """Set the variables of gloo and NCCL to the interface of this node's address; values set by the user stay.

    Args:
        address: Address with which the node has joined its cluster.
        environ: Environment of the process that joins a process group.
    """
    found = interfaces()
    name = found.get(address)
    if name is None:
        logger.warning("No network interface of this node has its address %s; %s is not set.", address, _GLOO)
        return
    environ.setdefault(_GLOO, name)
    if not any(other.startswith(_INFINIBAND) for other in found.values()):  # NCCL prefers those, being faster
        environ.setdefault(_NCCL, f"={name}")  # with `=` the whole name, not all that begin with it


def interfaces() -> Mapping[str, str]:
    """Return the name of the network interface of each address of this node."""
    return {
        address.address.partition("%")[0]: name  # IPv6 adds the interface to addresses of the link
        for name, addresses in psutil.net_if_addrs().items()
        for address in addresses
    }
