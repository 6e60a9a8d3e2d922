"""A sweep over three hosts with addresses of their own, submitted by a fourth that reaches nothing but the head."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml
from hosts import missing
from postgresql import PASSWORD, server_programs
from ray_hosts import DASHBOARD, WORKERS, RayHosts, ray_hosts

from orchestrator.tracking.journal import read_events

WHY_NOT = missing() or ("" if server_programs() else "no PostgreSQL server is installed")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT),
]

SWEEP = {
    "name": "hosts",
    "dataset": {"name": "digits"},
    "model": {"name": "conv_resnet26_small"},
    "training": {"epochs": 2, "global_batch_size": 64, "optimizer": "adamw"},
    "search": {"lr": {"type": "float", "low": 1e-3, "high": 1e-2, "log": True}},
    "trials": 2,
    "trial_scheduler": {"name": "none"},
    "resources": {"workers": 2},
}


@dataclass
class Submitted:
    """What a sweep that was submitted has left."""

    cluster: RayHosts
    said: str
    refused: str
    command_lines: set[str]

    @property
    def folder(self) -> Path:
        return self.cluster.shared / "runs" / "hosts"

    @property
    def secrets(self) -> list[str]:
        return [self.cluster.token, self.cluster.mlflow_password, PASSWORD]


class CommandLines:
    """Every command line that any process of this machine has while the context is open."""

    def __enter__(self) -> set[str]:
        self._over, self.seen = threading.Event(), set[str]()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self.seen

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.1):
            for process in psutil.process_iter(["cmdline"]):
                self.seen.add("\0".join(process.info["cmdline"] or ()))


@pytest.fixture(scope="module")
def submitted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Submitted]:
    with CommandLines() as seen, ray_hosts(tmp_path_factory.mktemp("hosts")) as cluster:
        desk = cluster.shared / "desk"
        desk.mkdir()
        uris = {"storage": {"uri": cluster.database_uri}, "tracking": {"uri": cluster.mlflow_uri}}
        (desk / "sweep.yaml").write_text(yaml.safe_dump({**SWEEP, **uris, "runs_dir": str(cluster.shared / "runs")}))
        submit = ["ray", "job", "submit", "--address", DASHBOARD]
        run = ["--working-dir", str(desk), "--", "python", "-m", "orchestrator", "run", "sweep.yaml"]
        stranger = cluster.outside.start([*submit, "--", "true"], {**cluster.environment, "RAY_AUTH_TOKEN": "0" * 64})
        _, said = cluster.outside.tried([*submit, *run], cluster.environment, timeout_s=300)
        refused, _ = stranger.communicate(timeout=60)
        assert stranger.returncode != 0
        yield Submitted(cluster, said, refused.decode(), seen)


def test_a_sweep_submitted_from_outside_finishes(submitted: Submitted) -> None:
    assert "hosts: finished" in submitted.said, submitted.said[-6000:]
    ends = [event for event, _ in read_events(submitted.folder / "journal.jsonl") if event["event"] == "trial_ended"]
    assert [end["status"] for end in ends] == ["finished"] * 2


def test_its_ranks_were_on_different_hosts(submitted: Submitted) -> None:
    events = [event for event, _ in read_events(submitted.folder / "journal.jsonl")]
    placed = [event["nodes"] for event in events if "nodes" in event]
    assert len(placed) == 2  # once for each trial, which did not move
    for nodes in placed:
        assert {re.fullmatch(r"worker-\d \((.*)\)", node)[1] for node in nodes} == set(WORKERS)  # type: ignore[index]


def test_a_job_without_the_token_is_refused(submitted: Submitted) -> None:
    assert "Invalid authentication token" in submitted.refused


def test_the_study_is_in_the_database_and_the_runs_are_in_mlflow(submitted: Submitted) -> None:
    database, sweep = submitted.cluster.database, submitted.cluster
    states = database.query("SELECT state FROM trials JOIN studies USING (study_id) WHERE study_name = 'hosts'")
    assert states.split() == ["COMPLETE"] * 2
    tagged = "SELECT value FROM tags WHERE key = 'spatialsweep.nodes'"
    for nodes in database.query(tagged, "mlflow").splitlines():
        assert all(address in nodes for address in WORKERS)
    assert sweep.database.query("SELECT count(*) FROM runs WHERE status = 'FINISHED'", "mlflow").strip() == "3"


def test_no_secret_is_written_down_or_seen(submitted: Submitted) -> None:
    """Not in command lines, MLflow, what Ray and we log on any host, nor in the sweep's folder."""
    cluster = submitted.cluster
    tables = ("params", "tags", "latest_metrics", "experiment_tags")
    recorded = "".join(cluster.database.query(f"SELECT * FROM {table}", "mlflow") for table in tables)
    assert "spatialsweep.nodes" in recorded
    logs = [path for host in (cluster.head, *cluster.workers) for path in host.tmp.glob("ray/session_2*/logs/**/*")]
    files = [path for path in [*logs, *cluster.shared.rglob("*")] if path.is_file()]
    assert any(path.name == "raylet.out" for path in files)
    assert any(path.name == "rank-1.log" for path in files)
    assert any("orchestrator" in line for line in submitted.command_lines)
    for secret in submitted.secrets:
        assert [line for line in submitted.command_lines if secret in line] == []
        assert [str(path) for path in files if secret.encode() in path.read_bytes()] == []
        assert secret not in recorded + submitted.said + submitted.refused
