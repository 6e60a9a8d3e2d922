"""Network interface of collectives between nodes: that of the node's address in the Ray cluster."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import psutil
import pytest

from orchestrator.lanes.worker.network_interface import use_interface_of


def set_interfaces(monkeypatch: pytest.MonkeyPatch, **addresses: str) -> None:
    found = {name: [SimpleNamespace(family=socket.AF_INET, address=text)] for name, text in addresses.items()}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: found)


def variables(address: str, **environ: str) -> dict[str, str]:
    use_interface_of(address, environ)
    return environ


def test_the_interface_of_the_nodes_address_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    set_interfaces(monkeypatch, lo="127.0.0.1", docker0="172.17.0.1", eth0="10.0.0.7", eth01="10.1.0.7")
    assert variables("10.0.0.7") == {"GLOO_SOCKET_IFNAME": "eth0", "NCCL_SOCKET_IFNAME": "=eth0"}


def test_values_of_the_user_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    set_interfaces(monkeypatch, eth0="10.0.0.7")
    mine = {"GLOO_SOCKET_IFNAME": "bond0", "NCCL_SOCKET_IFNAME": "bond"}
    assert variables("10.0.0.7", **mine) == mine


def test_nccl_finds_infiniband_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    set_interfaces(monkeypatch, eth0="10.0.0.7", ib0="10.2.0.7")
    assert variables("10.0.0.7") == {"GLOO_SOCKET_IFNAME": "eth0"}


def test_an_address_of_no_interface_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    set_interfaces(monkeypatch, eth0="10.0.0.7")
    assert variables("192.0.2.1") == {}


def test_this_machine_has_loopback() -> None:
    assert variables("127.0.0.1")["GLOO_SOCKET_IFNAME"].startswith("lo")
