"""Sweep submitted to the hosts of `tests/support/ray_hosts.py`, and what it leaves on them."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from disturbed_sweep import ROOT, DisturbedSweep

sys.path.insert(0, str(ROOT))

from tests.support.ray_hosts import DASHBOARD, RayHosts

_OF_THE_CLUSTER = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::_AutoscalingCoordinator")
_OF_THE_HOST = ("ray", "home", ".hosts", "postgresql", "postgresql.pw")
_LEARNED = ("train/", "val/", "test/")

Metrics = dict[str, dict[str, float]]
"""Metrics of every epoch, and settings, by the number of the trial."""


class HostedSweep(DisturbedSweep):
    """Sweep whose driver is a job of the cluster, with its study in PostgreSQL and its runs in MLflow.

    Args:
        cluster: Cluster on which it runs.
        name: Name of the sweep.
    """

    def __init__(self, cluster: RayHosts, name: str) -> None:
        super().__init__(cluster.shared, name, "")
        self._cluster = cluster
        self._jobs = 0

    def prepare(self, *, trials: int, epochs: int, workers: int, max_failures: int, **more: Any) -> None:
        """Write the sweep's file: trials that differ, and are the same in every sweep of this size and settings."""
        search = {"lr": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}}
        self.write(
            trials=trials,
            epochs=epochs,
            workers=workers,
            max_failures=max_failures,
            search=search,
            sampler={"name": "random"},
            storage={"uri": self._cluster.database_uri},
            tracking={"uri": self._cluster.mlflow_uri},
            runs_dir=str(self.runs_dir),
            resources={"workers": workers, "max_failures": max_failures},  # as many lanes as there is room for
            **more,
        )

    def submit(self, *, resume: bool = False) -> None:
        """Submit the sweep from outside of the cluster, and follow its log."""
        self._before = len(self.events())
        self._jobs += 1
        command = ["ray", "job", "submit", "--address", DASHBOARD, "--submission-id", f"{self.name}-{self._jobs}"]
        run = ["--", "python", "-m", "orchestrator", "run", str(self.file), *["--resume"] * resume]
        self.driver = self._cluster.outside.start([*command, *run], self._cluster.environment, log=self.log)

    def metrics(self) -> Metrics:
        """Return the metrics and settings of the trials."""
        found: Metrics = {}
        for event in self.events():
            if event["event"] == "trial_started":
                found[str(event["trial"])] = dict(event["params"])
            if event["event"] == "trial_reported":
                mine = {name: value for name, value in event["metrics"].items() if name.startswith(_LEARNED)}
                found[str(event["trial"])] |= {f"{event['epoch']} {name}": value for name, value in mine.items()}
        return found

    def grown_s(self, moment_s: float) -> float | None:
        """Return when two trials first trained at once after a moment, in seconds since the epoch; None if never."""
        training = set()
        for event in self.events():
            if event["event"] == "trial_reported":
                training.add(event["trial"])
                if len(training) > 1 and event["time"] > moment_s:
                    return float(event["time"])
            elif event["event"] == "trial_ended":
                training.discard(event["trial"])
        return None

    def unrecorded(self, trials: int) -> int:
        """Return the number of trials that are not finished in the study or in MLflow."""
        database = self._cluster.database
        study = f"SELECT count(*) FROM trials JOIN studies USING (study_id) WHERE study_name = '{self.name}'"
        complete = database.query(f"{study} AND state = 'COMPLETE'")
        mine = f"run_uuid IN (SELECT run_uuid FROM tags WHERE key = 'spatialsweep.sweep' AND value = '{self.name}')"
        finished = database.query(f"SELECT count(*) FROM runs WHERE status = 'FINISHED' AND {mine}", "mlflow")
        return trials - int(complete) + trials + 1 - int(finished)


def differing(metrics: Metrics, reference: Mapping[str, Mapping[str, float]]) -> int:
    """Return the number of metrics that differ, in any bit, from those of the reference."""
    return sum(
        not _same(metrics.get(trial, {}).get(name, math.inf), value)
        for trial, expected in reference.items()
        for name, value in expected.items()
    )


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def left_over(cluster: RayHosts) -> Iterator[str]:
    """Yield actors, placement groups, processes and temporary files on the cluster although no sweep runs."""
    for kind, names in (("actors", "class_name"), ("placement_groups", "placement_group_id")):
        for found in _listed(cluster, kind):
            gone = found["state"] in ("DEAD", "REMOVED")
            if not gone and found.get("class_name") != "_AutoscalingCoordinatorActor":  # Ray Train's own
                yield f"{kind}: {found[names]} {found['state']}"
    for host in (cluster.head, *cluster.workers):
        for _, title in host.command_lines():
            if "orchestrator" in title or (title.startswith("ray::") and not title.startswith(_OF_THE_CLUSTER)):
                yield f"process on {host.name}: {title[:60]}"
        for path in host.tmp.iterdir():
            if path.name not in _OF_THE_HOST and not _is_no_sweeps(path, cluster):
                yield f"file on {host.name}: {path.name}"


def _listed(cluster: RayHosts, kind: str) -> list[dict[str, Any]]:
    answer = cluster.fetch(f"http://{cluster.head.address}:8265/api/v0/{kind}?limit=10000")
    return json.loads(answer)["data"]["result"]["result"] if answer else [{"state": "unknown", "class_name": "?"}]


def _is_no_sweeps(path: Path, cluster: RayHosts) -> bool:
    """Return whether a path leads to a folder shared with the machine, or belongs to servers, Ray or torch."""
    inside = Path("/tmp") / path.name
    shared = any(place.is_relative_to(inside) for place in (ROOT, cluster.shared, Path(sys.prefix)))
    return shared or path.name.startswith(("spatialsweep-mlflow-", "torchinductor_", "pymp-", ".s.PGSQL"))
