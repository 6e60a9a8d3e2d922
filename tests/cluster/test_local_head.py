"""Ports of a head on this machine."""

from __future__ import annotations

import importlib
import socket

import pytest

from orchestrator.errors import ClusterError

local_head = importlib.import_module("cluster.local_head")  # the package has a function of that name


def test_ports_of_a_head_are_free_and_different(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = local_head._free_ports(3)
    assert len(set(ports)) == 3
    assert set(ports) <= set(local_head._PORTS)
    with socket.create_server(("127.0.0.1", ports[0])):
        monkeypatch.setattr(local_head, "_PORTS", range(ports[0], ports[0] + 1))
        with pytest.raises(ClusterError, match=r"2 of the ports \d+ to \d+ must be free; 0 are"):
            local_head._free_ports(2)
    assert local_head._free_ports(1) == ports[:1]
