"""A sweep over three hosts with addresses of their own, submitted by a fourth that reaches nothing but the head."""

from __future__ import annotations

import contextlib
import importlib
import random
import re
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.hosts import ROOT, missing
from tests.support.networks.own_file import HeldFile
from tests.support.ray_hosts import DASHBOARD, WORKERS, RayHosts, ray_hosts
from tests.support.servers.postgresql import server_programs

WHY_NOT = missing() or ("" if server_programs() else "no PostgreSQL server is installed")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT),
]

TRIALS, EPOCHS = 2, 6


@dataclass
class Submitted:
    """Results and traces of a submitted sweep."""

    cluster: RayHosts
    chaos: Any
    network: HeldFile
    sweep: Any
    refused: str
    command_lines: set[str]

    @property
    def said(self) -> str:
        return str(self.sweep.log.read_text())

    @property
    def secrets(self) -> list[str]:
        return [self.cluster.token, self.cluster.mlflow_password, self.cluster.database.password]


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
            for process in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):  # it has ended
                    self.seen.add((process / "cmdline").read_text(errors="replace"))


@pytest.fixture(scope="module")
def submitted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Submitted]:
    sys.path.insert(0, str(ROOT / "tools" / "chaos"))
    try:
        chaos = importlib.import_module("chaos")
    finally:
        sys.path.pop(0)
    with CommandLines() as seen, ray_hosts(tmp_path_factory.mktemp("hosts")) as cluster:
        strange = {**cluster.environment, "RAY_AUTH_TOKEN": "0" * 64}
        stranger = cluster.outside.start(f"ray job submit --address {DASHBOARD} -- true", strange)
        # In the sweep that is disturbed, it is held until it has been.
        network = HeldFile(cluster.shared, cluster.shared / "runs/disturbed/journal.jsonl", step_s=0.06)
        sweep = chaos.HostedSweep(cluster, "hosts")
        sweep.prepare(trials=TRIALS, epochs=EPOCHS, workers=2, max_failures=0, model={"name": network.name})
        sweep.submit()
        refused, _ = stranger.communicate(timeout=300)
        assert stranger.returncode != 0
        assert sweep.finishes(), sweep.log.read_text()[-6000:]
        yield Submitted(cluster, chaos, network, sweep, refused.decode(), seen)


def test_a_sweep_submitted_from_outside_finishes(submitted: Submitted) -> None:
    assert "hosts: finished" in submitted.said
    ends, again = submitted.sweep.ends()
    assert (list(ends.values()), again) == (["finished"] * TRIALS, set())


def test_its_ranks_were_on_different_hosts(submitted: Submitted) -> None:
    placed = [event["nodes"] for event in submitted.sweep.events() if "nodes" in event]
    assert len(placed) == TRIALS  # once for each trial, which did not move
    for nodes in placed:
        assert {re.fullmatch(r"worker-\d \((.*)\)", node)[1] for node in nodes} == set(WORKERS)  # type: ignore[index]


def test_a_job_without_the_token_is_refused(submitted: Submitted) -> None:
    assert "Invalid authentication token" in submitted.refused


def test_the_study_is_in_the_database_and_the_runs_are_in_mlflow(submitted: Submitted) -> None:
    database, sweep = submitted.cluster.database, submitted.cluster
    states = database.query("SELECT state FROM trials JOIN studies USING (study_id) WHERE study_name = 'hosts'")
    assert states.split() == ["COMPLETE"] * TRIALS
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


def test_a_host_and_the_link_of_a_host_may_be_lost_for_a_while(
    submitted: Submitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, chaos, network = submitted.cluster, submitted.chaos, submitted.network
    outcome, draw = chaos.Outcome(), random.Random(0)
    sweep = chaos.HostedSweep(cluster, "disturbed")
    settings = {"max_failures": 0, "model": {"name": network.name}}  # neither fault is a failure
    sweep.prepare(trials=TRIALS, epochs=EPOCHS, workers=2, **settings)

    def after(kind: str, step: Callable[[], None]) -> None:
        fault = chaos.FAULTS[kind]
        monkeypatch.setitem(chaos.FAULTS, kind, lambda world: (fault(world), step())[0])

    network.hold_at("trial_reported", 4)
    after("host", lambda: network.hold_at("trial_reported", TRIALS * EPOCHS - 2))
    after("link-5", network.let_go)
    sweep.submit()
    world = chaos.World(cluster, sweep, draw)
    with chaos.Saves(sweep.folder / "trials") as saves:
        for kind in ("host", "link-5"):
            assert sweep.has_reported()
            assert chaos.inject(kind, world, saves, outcome)
        assert chaos.finishes(world), sweep.log.read_text()[-6000:]
    shape = chaos.Shape(trials=TRIALS, epochs=EPOCHS)
    chaos.account(sweep, shape, saves, submitted.sweep.metrics(), outcome)
    outcome.sweeps = outcome.finished = 1
    assert outcome.faults == 2
    assert outcome.harmless, outcome
    assert chaos.wait_for_cleanup(cluster) == []
