"""Findings of `spatialsweep doctor`, and the facts that a node collects."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from cluster.doctor import FAILURE, OK, WARNING, clocks, devices, disks, reached, storage, versions
from cluster.node_checks import COMPARED, look_at_node


def node(host: str, **told: Any) -> dict[str, Any]:
    return {
        "host": host,
        "versions": {"python": "3.11.9", "ray": "2.60.0", "torch": "2.15.0"},
        "devices": {"gpus": ["L4", "L4"], "driver": "570.1"},
        "storage": {},
        "free_gb": 500.0,
        "free_tmp_gb": 100.0,
        "tracking": {},
        "database": {},
        "skew_s": 0.0,
        **told,
    }


def test_a_healthy_cluster_has_no_complaints() -> None:
    nodes = [node("a"), node("b")]
    assert versions(nodes).message == "python 3.11.9, ray 2.60.0, torch 2.15.0"
    assert devices(nodes, 4.0).message == "4 L4, driver 570.1"
    sharing = {"gpus": ["L4"], "driver": "570.1", "mps": True}
    assert devices([*nodes, node("c", devices=sharing)], 5.0).message == "5 L4, driver 570.1, MPS on c"
    uri = "postgresql://me:hush@db:5432/studies"
    found = [versions(nodes), devices(nodes, 4.0), storage(nodes, "/shared"), clocks(nodes), disks(nodes, "/shared")]
    found.append(reached(nodes, "database", "study database", uri))
    assert {finding.level for finding in found} == {OK}
    assert "hush" not in found[-1].message


def test_versions_that_differ_or_are_missing_are_named_with_their_nodes() -> None:
    old = {"python": "3.11.9", "ray": "2.59.0", "torch": "missing"}
    found = versions([node("a"), node("b", versions=old), node("c")])
    assert found.level == FAILURE
    assert "missing: torch on b; differing: ray 2.59.0 on b; 2.60.0 on a, c. Run one image" in found.message


@pytest.mark.parametrize(
    ("nodes", "claimed", "level", "text"),
    [
        ([node("a")], 4.0, FAILURE, "Ray hands out 4 GPU(s), the drivers see 2"),
        ([node("a")], 0.0, WARNING, "of which Ray hands out 0"),
        ([node("a"), node("b", devices={"gpus": ["L4"], "driver": "550.9"})], 3.0, WARNING, "drivers 550.9, 570.1"),
        ([node("a", devices={"gpus": [], "driver": "", "error": "no answer"})], 0.0, FAILURE, "a: no answer"),
        ([node("a", devices={"gpus": [], "driver": ""})], 0.0, OK, "no GPU"),
    ],
)
def test_devices_are_compared_with_what_ray_hands_out(
    nodes: list[dict[str, Any]], claimed: float, level: str, text: str
) -> None:
    found = devices(nodes, claimed)
    assert found.level == level
    assert text in found.message


def test_what_one_node_cannot_do_is_a_failure_with_its_name() -> None:
    nodes = [node("a"), node("b", storage={"error": "not there"}, tracking={"error": "mlflow:5000: refused"})]
    assert storage(nodes, "/shared").message.startswith("b: not there. Mount one file system")
    assert reached(nodes, "tracking", "MLflow", "http://mlflow:5000").message.startswith("b: mlflow:5000: refused. Is")
    assert reached(nodes, "tracking", "MLflow", None).level == OK
    assert clocks([node("a"), node("b", skew_s=7.0)]).message.startswith("differ: b by 7.0 s. Have chrony")
    assert (disks([node("a", free_tmp_gb=10.0)], "/s").level, disks([node("a", free_gb=1.0)], "/s").level) == (
        WARNING,
        FAILURE,
    )


def test_a_node_looks_at_itself(tmp_path: Path) -> None:
    (tmp_path / "marker").touch()
    with socket.create_server(("127.0.0.1", 0)) as server:
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        told = look_at_node(str(tmp_path), "marker", uri, "sqlite:///studies.db")
    assert set(told["versions"]) == {"python", *COMPARED}
    assert "missing" not in told["versions"].values()
    assert (told["storage"], told["database"]) == ({}, {})
    assert "error" not in told["tracking"]
    assert told["free_gb"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["marker"]
    away = look_at_node(str(tmp_path), "another", uri, None)
    assert "does not hold what the driver has written" in away["storage"]["error"]
    assert "refused" in away["tracking"]["error"]
