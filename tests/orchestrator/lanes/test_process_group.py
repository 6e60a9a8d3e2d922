"""Addresses at which the workers of a lane listen for each other; these ports have no authentication."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import psutil
import pytest
import torch
from torch import distributed

from orchestrator.lanes.controller import process_group
from orchestrator.lanes.worker.network_interface import interfaces, use_interface_of
from orchestrator.lanes.worker.rendezvous import join


def listening() -> set[tuple[str, int]]:
    """Return address and port of every socket on which this process listens."""
    found = psutil.Process().net_connections("inet")
    return {(one.laddr.ip, one.laddr.port) for one in found if one.status == psutil.CONN_LISTEN}


@pytest.fixture
def no_group(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ensure that no process group exists before or after."""
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    yield
    if distributed.is_initialized():
        distributed.destroy_process_group()


def outward_address() -> str | None:
    """Return an IPv4 address of this machine other than loopback; None where it has none."""
    for address in interfaces():
        try:
            if socket.inet_aton(address) and not address.startswith("127."):
                return address
        except OSError:
            continue
    return None


@pytest.mark.usefixtures("no_group")
@pytest.mark.parametrize("several_nodes", [False, True])
def test_a_lane_listens_at_the_one_address_where_its_workers_meet(
    several_nodes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    outward = outward_address()
    if several_nodes and outward is None:
        pytest.skip("this machine has no address but loopback")
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: outward)
    before = listening()
    meet = process_group._listen(several_nodes)
    assert meet[0] == (outward if several_nodes else "127.0.0.1")
    assert listening() - before == {meet}
    use_interface_of(meet[0], os.environ)
    join("gloo", meet, process_group._listener, rank=0, size=1, timeout_s=120)
    numbers = torch.ones(2)
    distributed.all_reduce(numbers)
    assert numbers.tolist() == [1.0, 1.0]
    assert {host for host, _ in listening() - before} == {meet[0]}
