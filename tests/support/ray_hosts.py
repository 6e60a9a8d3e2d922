"""Ray cluster on the hosts of `tests/support/hosts.py`: a head without trials, workers, MLflow server, PostgreSQL."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.support.hosts import ROOT, Host, Switch
from tests.support.servers.postgresql import server_programs

HEAD, WORKERS = "10.77.0.1", ("10.77.0.2", "10.77.0.3")
DASHBOARD = "http://10.78.0.1:8265"
OBJECT_STORE_BYTES = 100_000_000
PATIENCE_S = 180.0
_REDIS_PORT = 6380
_ASK = """
import os, sys, urllib.request as web
web.install_opener(web.build_opener(web.ProxyHandler({})))
request = web.Request(sys.argv[1], headers={"Authorization": "Bearer " + os.environ["TOKEN"]})
print(web.urlopen(request, timeout=20).read().decode(), end="")
"""


class RayHosts:
    """Head, workers, and a host outside of the cluster that reaches the head only.

    Args:
        switch: Switch of the hosts.
        tmp_mb: Size of the workers' own disks in MB; None lets them share the machine's.
        redis: Whether Ray keeps its tables in a Redis server, which outlives the head's Ray.
    """

    def __init__(self, switch: Switch, *, tmp_mb: int | None = None, redis: bool = False) -> None:
        self.switch, self.shared = switch, switch.shared
        self.token = secrets.token_hex(32)
        self.mlflow_password = secrets.token_hex(8)
        self.head = switch.add("head", f"{HEAD}/24")
        self.workers = [switch.add(f"worker-{n}", f"{ip}/24", tmp_mb=tmp_mb) for n, ip in enumerate(WORKERS, 1)]
        self.outside = switch.add("outside")
        self.head.join(self.outside, "10.78.0.1/30", "10.78.0.2/30")
        self.rays: dict[str, subprocess.Popen[bytes]] = {}
        self.database = HostedPostgresql(self.head, switch.folder / "postgresql")
        self._tables = {"RAY_REDIS_ADDRESS": f"{HEAD}:{_REDIS_PORT}"} if redis else {}

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a user of the cluster."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "PG"))}
        path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
        own = {"HOME": "/tmp/home", "PATH": path, "PYTHONPATH": str(ROOT), "NO_PROXY": "*", "no_proxy": "*"}
        return {**kept, **own, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    @property
    def mlflow_uri(self) -> str:
        return f"http://{HEAD}:5000"

    @property
    def database_uri(self) -> str:
        """Address of the database without its password, which is in PGPASSWORD."""
        return f"postgresql://postgres@{HEAD}:{self.database.port}/postgres"

    @property
    def passwords(self) -> dict[str, str]:
        """Variables that a sweep's driver needs for MLflow and the database."""
        return {
            "PGPASSWORD": self.database.password,
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": self.mlflow_password,
        }

    def start_head(self) -> None:
        """Start the head, with the passwords in its environment, which jobs inherit: Ray logs those of a job itself."""
        if self._tables and not hasattr(self, "_redis"):
            command = f"redis-server --bind {HEAD} --port {_REDIS_PORT} --protected-mode no --dir /tmp"
            self._redis = self.head.start([*command.split(), "--save", ""], log=self.switch.folder / "redis.log")
        self._start_ray(
            self.head,
            *("--head", "--port=6379", "--num-cpus=0", "--include-dashboard=true", "--disable-usage-stats"),
            *("--dashboard-host=0.0.0.0", "--dashboard-port=8265"),
        )

    def start_worker(self, host: Host) -> None:
        """Start Ray on a worker, as a service of the host does at boot."""
        self._start_ray(host, f"--address={HEAD}:6379", "--num-cpus=1")

    def restart_ended(self) -> None:
        """Restart Ray on every worker where it has ended, as the service manager of a host does."""
        for host in self.workers:
            if host.is_up and self.rays[host.name].poll() is not None:
                self.start_worker(host)

    def _start_ray(self, host: Host, *options: str) -> None:
        here = [f"--node-ip-address={host.address}", f"--object-store-memory={OBJECT_STORE_BYTES}"]
        command = ["ray", "start", "--block", *here, *options]
        log = self.switch.folder / f"{host.name}.log"
        environment = {**self.environment, **(self._tables | self.passwords if host is self.head else {})}
        self.rays[host.name] = host.start(command, environment, log=log)

    def start_mlflow(self) -> None:
        command = f"{sys.executable} -m cluster.mlflow --artifacts {self.switch.shared}/artifacts --host {HEAD}"
        own = {
            "MLFLOW_BACKEND_STORE_URI": f"postgresql://postgres:{self.database.password}@{HEAD}:{self.database.port}/mlflow",
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.mlflow_password,
        }
        words = [*command.split(), "--allowed-hosts", f"{HEAD}:5000", "--workers", "1"]
        self.mlflow = self.head.start(words, {**self.environment, **own}, log=self.switch.folder / "mlflow.log")

    def kill_mlflow(self) -> None:
        """Kill the server and its workers."""
        for process in psutil.Process(self.mlflow.pid).children(recursive=True):
            process.kill()
        self.mlflow.wait(60)

    def wait_until_ready(self) -> None:
        """Wait for the dashboard, a raylet on every host, and MLflow."""
        wait_for(lambda: len(self.nodes()) == 1 + len(self.workers), "all hosts have joined")
        wait_for(lambda: self.fetch(f"{self.mlflow_uri}/health") == b"OK", "MLflow answers")

    def wait_until_it_takes_jobs(self) -> None:
        """Wait for a restarted head."""
        wait_for(lambda: self.fetch(f"http://{HEAD}:8265/api/jobs/"), "the head takes jobs")

    def nodes(self) -> list[dict[str, Any]]:
        """Return the living nodes, from the dashboard."""
        answer = self.fetch(f"http://{HEAD}:8265/api/v0/nodes?detail=true")
        found = json.loads(answer)["data"]["result"]["result"] if answer else []
        return [node for node in found if node["state"] == "ALIVE"]

    def fetch(self, url: str) -> bytes:
        """Return the answer of a server to a request from the head; empty when there is none."""
        code, output = self.head.tried([sys.executable, "-S", "-c", _ASK, url], {**os.environ, "TOKEN": self.token})
        return output.encode() if code == 0 else b""


def wait_for(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {patience_s:g} s: {what}"
        time.sleep(0.2)


class HostedPostgresql:
    """PostgreSQL server on a host, which can be stopped as by a power cut and restarted."""

    port = 5432
    _data = "/tmp/postgresql"

    def __init__(self, host: Host, log: Path) -> None:
        self._host, self._log = host, log
        self.password = secrets.token_hex(8)

    def create(self) -> None:
        self._host.run(f"install -d -o postgres {self._data}")
        secret = self._host.tmp / "postgresql.pw"  # never in a command line, not even ours
        secret.write_text(self.password)
        secret.chmod(0o600)
        self._host.run(f"chown postgres {self._data}.pw")
        self._run("initdb", "-U", "postgres", "-A", "scram-sha-256", "--pwfile", f"{self._data}.pw", "--no-sync")
        self._host.run(["sh", "-c", f"echo host all all 10.77.0.0/24 scram-sha-256 >> {self._data}/pg_hba.conf"])

    def start(self) -> None:
        options = f"-p {self.port} -h {self._host.address} -k /tmp -c fsync=off"
        self._run("pg_ctl", "-w", "-o", options, "-l", f"{self._data}/log", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def query(self, statement: str, database: str = "postgres") -> str:
        words = [f"{server_programs()}/psql", "-h", self._host.address, "-U", "postgres", "-Atc", statement, database]
        return self._host.run(words, {**os.environ, "PGPASSWORD": self.password})

    def _run(self, program: str, *options: str) -> None:
        # As a daemon's parent, pg_ctl must not hold a pipe of ours.
        words = [f"{server_programs()}/{program}", "-D", self._data, *options]
        process = self._host.start(words, log=self._log, user="postgres", folder=Path("/tmp"))
        assert process.wait(60) == 0, self._log.read_text()


@contextmanager
def ray_hosts(folder: Path, *, tmp_mb: int | None = None, redis: bool = False) -> Iterator[RayHosts]:
    """Start a cluster, wait until it is ready, and end all of it afterwards.

    Args:
        folder: Folder for all files.
        tmp_mb: Size of the workers' disks in MB, as in `RayHosts`.
        redis: Whether Ray's tables outlive its head.
    """
    with Switch(folder) as switch:
        cluster = RayHosts(switch, tmp_mb=tmp_mb, redis=redis)
        cluster.start_head()
        cluster.database.create()
        cluster.database.start()
        cluster.database.query("CREATE DATABASE mlflow")
        cluster.start_mlflow()
        for host in cluster.workers:
            cluster.start_worker(host)
        cluster.wait_until_ready()
        yield cluster
